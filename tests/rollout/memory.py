"""A serving world in memory, with the ledger and the lease of one machine."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from evctl.errors import EvctlError
from evctl.rollout.files import FileLease, FileLedger
from evctl.rollout.ledger import Release
from evctl.rollout.serving.base import ProofError, Serving


class Killed(BaseException):
    """The promoter's end by SIGKILL: nothing of it runs any more."""


class MemoryWorld:
    """Serves in memory; `die_at` ends the promoter at a step, `bad` are digests that fail their proof.

    A canary comes to no more than `most` percent of the requests, and to no share at all once it is in `gone`.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.serves, self.started = folder, "", ""
        self.bad: set[str] = set()
        self.die_at = ""
        self.undone: list[int] = []
        self.most, self.share = 100, 0
        self.gone: set[str] = set()
        self.interrupted: type[BaseException] | None = None
        self.forbidden: EvctlError | None = None

    def _step(self, name: str) -> None:
        if self.die_at == name:
            raise Killed

    def ledger(self) -> FileLedger:
        return FileLedger(self.folder / "releases.json")

    def lease(self, by: str) -> FileLease:
        return FileLease(self.folder / "lease.json", by=by)

    def read(self) -> Serving:
        return Serving("serving" if self.serves else "absent", digest=self.serves or None)

    def ask(self, method: str, path: str, document: Any) -> tuple[int, Any]:
        return (200, {}) if self.serves else (503, {})

    def spec(self, manifest: Mapping[str, Any], uri: str) -> Mapping[str, Any]:
        return {"storageUri": uri}

    def preflight(self, release: Release, *, canary: int | None) -> Sequence[str]:
        return ()

    def may_change(self, *, canary: int | None) -> None:
        if self.forbidden:
            raise self.forbidden

    def apply(self, release: Release, *, canary: int | None = None) -> None:
        self._step("apply")
        self.started = release.digest

    def prove(self, release: Release, deadline_s: float) -> Iterator[str]:
        self._step("prove")
        if release.digest in self.bad:
            raise ProofError("the pod crashed")
        yield "proved"

    def commit(self, release: Release, *, canary: int | None = None) -> None:
        self._step("commit")
        if canary is None:
            self.serves, self.share = release.digest, 0
        else:
            self._give(release, canary)
        self._step("after commit")

    def _give(self, release: Release, percent: int) -> None:
        self.share = min(percent, self.most)
        if self.interrupted:
            error, self.interrupted = self.interrupted, None
            raise error
        if release.digest in self.gone or self.share < percent:
            raise ProofError(f"it gets {self.share} of {percent} %")

    def undo(self, failed: Release, previous: Release | None) -> None:
        self._step("undo")
        self.undone.append(failed.revision)
        self.serves, self.share = previous.digest if previous else "", 0

    def start(self, release: Release) -> None:
        self.serves = release.digest

    def stop(self) -> None:
        self.serves = ""


def statuses(world: MemoryWorld) -> list[str]:
    return [release.status for release in world.ledger().read()[0].releases]
