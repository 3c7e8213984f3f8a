"""What a serving world must answer: KServe on a cluster and the service on one machine, driven by the same promotion."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from evctl.errors import FailedError
from evctl.rollout.ledger import Lease, LedgerStore, Release


class ProofError(FailedError):
    """The new release did not prove itself; the message is the reason in one line, in the world's own words."""


@dataclass(frozen=True, slots=True)
class Share:
    """A part of the requests that is set apart. `revision`: the release's that gets it, as far as that is known."""

    name: str
    revision: str
    percent: int


@dataclass(frozen=True, slots=True)
class Serving:
    """What serves now. `state`: absent, stopped, starting, serving, failing."""

    state: str
    digest: str | None = None
    version: str | None = None
    uri: str | None = None
    url: str | None = None
    detail: str = ""
    extra: Mapping[str, Any] = field(default_factory=dict)
    shares: tuple[Share, ...] = ()
    """The parts of the requests that its spec sets apart, whoever wrote them."""


class ServingWorld(Protocol):
    """Seam to what runs the model. Raises only `evctl.errors`."""

    def ledger(self) -> LedgerStore:
        """Return where this service's releases are kept."""
        ...

    def lease(self, by: str) -> Lease:
        """Return the lease of this service's promotions."""
        ...

    def read(self) -> Serving:
        """Return what serves now."""
        ...

    def ask(self, method: str, path: str, document: Any) -> tuple[int, Any]:
        """Send a request to what serves, from here. Returns status and document. UnavailableError if nobody answers."""
        ...

    def spec(self, manifest: Mapping[str, Any], uri: str) -> Mapping[str, Any]:
        """Return the full predictor spec of a registered model, enough to make the service again."""
        ...

    def preflight(self, release: Release, *, canary: int | None) -> Sequence[str]:
        """Check everything that can be checked without a change (dry run, credentials). Returns warnings.

        Raises RefusedError with what to do: a canary where none works, missing credentials, a foreign owner.
        """
        ...

    def may_change(self, *, canary: int | None) -> None:
        """Check rights and owner of what stands, for another share of what was proved already, or none. Changes nothing.

        Raises NotAllowedError naming each verb that is missing; RefusedError, ConflictError for what is another's.
        """
        ...

    def apply(self, release: Release, *, canary: int | None = None) -> None:
        """Start the change to a release. What serves goes on serving."""
        ...

    def prove(self, release: Release, deadline_s: float) -> Iterator[str]:
        """Yield progress until the release answers its golden rows under its version and digest. ProofError otherwise."""
        ...

    def commit(self, release: Release, *, canary: int | None = None) -> None:
        """Send all requests to the proved release and end the old one; a canary gets its percent of them."""
        ...

    def undo(self, failed: Release, previous: Release | None) -> None:
        """Take back `apply`; `previous` serves again, and is proved. FailedError if that fails too."""
        ...

    def start(self, release: Release) -> None:
        """Bring a recorded release up, proved. RefusedError where that is not for us to do."""
        ...

    def stop(self) -> None:
        """End the service; its address and its releases stay known. RefusedError where that is not for us to do."""
        ...
