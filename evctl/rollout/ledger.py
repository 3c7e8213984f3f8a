"""The release ledger: every release with its full spec, bounded, written by compare-and-swap. Pure, but for the store."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Literal, Protocol

Status = Literal["pending", "live", "superseded", "failed", "rolled_back"]


@dataclass(frozen=True, slots=True)
class Release:
    """One release. `pending` is between record and proof; a promoter that dies leaves it."""

    revision: int
    model: str
    uri: str
    digest: str
    run_id: str | None
    status: Status
    at: str
    """RFC 3339, UTC."""
    by: str
    reason: str = ""
    spec: Mapping[str, Any] = field(default_factory=dict)
    """The full predictor spec, enough to make the service again."""
    metrics: Mapping[str, Any] = field(default_factory=dict)
    rollback_of: int | None = None
    """The revision a rollback left; None for a promotion."""
    restores: int | None = None
    """The revision a rollback brought back."""
    canary: int | None = None
    """Percent of the requests while it is a proved canary, pending its promotion or its end."""
    asked: int | None = None
    """Percent that it was begun for: a canary whose promoter died is undone, and never given all requests."""


@dataclass(frozen=True, slots=True)
class Ledger:
    """Releases, oldest first."""

    releases: tuple[Release, ...] = ()
    revision: int = 0
    """The last one given; never used twice, even when old releases were dropped."""

    @property
    def live(self) -> Release | None:
        """The release that serves, as far as the ledger knows."""
        return next((r for r in reversed(self.releases) if r.status == "live"), None)

    @property
    def pending(self) -> Release | None:
        """A release somebody began and did not end."""
        return next((r for r in reversed(self.releases) if r.status == "pending"), None)

    @property
    def canary(self) -> Release | None:
        """The release that gets a share of the requests until it is promoted or taken back."""
        return self.pending if self.pending and self.pending.canary is not None else None

    def stray(self, digest: str | None) -> Release | None:
        """Return the release that a service has beside the live one: it failed, and could not be taken back."""
        if digest is None or self.live is None or self.pending or digest == self.live.digest:
            return None
        last = next((r for r in reversed(self.releases) if r.digest == digest), None)
        return last if last and last.status == "failed" else None

    def get(self, revision: int) -> Release | None:
        """Return a release by revision."""
        return next((r for r in self.releases if r.revision == revision), None)

    def begin(self, release: Release, limit: int) -> tuple[Ledger, Release]:
        """Add a release as pending under the next revision; drop the oldest beyond `limit`, never the live one."""
        begun = replace(release, revision=self.revision + 1, status="pending")
        kept = [*self.releases, begun]
        while len(kept) > limit:
            victim = next((r for r in kept if r.status not in ("live", "pending")), None)
            if victim is None:
                break
            kept.remove(victim)
        return Ledger(tuple(kept), begun.revision), begun

    def changed(self, release: Release) -> Ledger:
        """Put a release in the place of the one of its revision."""
        return replace(self, releases=tuple(release if r.revision == release.revision else r for r in self.releases))

    def ended(self, revision: int, status: Status, reason: str | None = None) -> Ledger:
        """Close a pending release; one that is live supersedes (or, for a rollback, rolls back) the one before."""
        closing = self.get(revision)
        left: Status = "rolled_back" if closing and closing.rollback_of is not None else "superseded"
        changed = []
        for each in self.releases:
            if each.revision == revision:
                told = each.reason if reason is None else reason
                changed.append(replace(each, status=status, reason=told, canary=None, asked=None))
            elif each.status == "live" and status == "live":
                changed.append(replace(each, status=left))
            else:
                changed.append(each)
        return replace(self, releases=tuple(changed))

    def previous_good(self) -> Release | None:
        """Return what `rollback` brings back: the next older good release than the one that serves.

        A rollback's own release stands where the release it restored stands, so a second rollback goes further back.
        """
        live = self.live
        if live is None:
            good = [r for r in self.releases if r.status in ("superseded", "rolled_back")]
            return good[-1] if good else None
        position = live.restores or live.revision
        older = [
            r for r in self.releases if r.revision < position and r.status == "superseded" and r.digest != live.digest
        ]
        return older[-1] if older else None

    def to_json(self) -> str:
        """Return the document kept in the store."""
        return json.dumps({"revision": self.revision, "releases": [asdict(r) for r in self.releases]}, indent=1)

    @classmethod
    def from_json(cls, text: str | bytes) -> Ledger:
        """Return the ledger of a stored document."""
        document = json.loads(text)
        # what a newer evctl keeps beside is left out: a deploy step's image may be older than who promotes by hand
        known = {each.name for each in fields(Release)}
        releases = [{key: each[key] for key in each.keys() & known} for each in document["releases"]]
        return cls(tuple(Release(**each) for each in releases), document["revision"])


class LedgerStore(Protocol):
    """Where the ledger is kept: a ConfigMap, or a file with the same rules."""

    def read(self) -> tuple[Ledger, str | None]:
        """Return the ledger and a token that names this state of it; an empty one if there is none yet."""
        ...

    def write(self, ledger: Ledger, token: str | None) -> str:
        """Write if the state is still the token's, and return the new token. ConflictError otherwise."""
        ...


class Lease(Protocol):
    """One promotion at a time: held by somebody until a time."""

    def acquire(self) -> None:
        """Take it. ConflictError naming the holder and until when, if somebody else has it."""
        ...

    def renew(self) -> None:
        """Hold it longer. ConflictError if it was lost."""
        ...

    def release(self) -> None:
        """Give it back; nothing if it is not ours."""
        ...
