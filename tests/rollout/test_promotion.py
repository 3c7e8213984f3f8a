"""Promotion against a world in memory: order of the steps, what is restored, what a dead promoter leaves."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from evctl.errors import ConflictError, FailedError, NotFoundError, RefusedError, UnavailableError
from evctl.rollout.files import FileLease, FileLedger
from evctl.rollout.ledger import Release
from evctl.rollout.promotion import promote, rollback
from evctl.rollout.registry import Published
from evctl.rollout.serving.base import ProofError, Serving
from evctl.rollout.target import ServiceTarget

Models = dict[str, Published]


class Killed(BaseException):
    """The promoter's end by SIGKILL: nothing of it runs any more."""


class MemoryWorld:
    """Serves in memory; `die_at` ends the promoter at a step, `bad` are digests that fail their proof."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.serves, self.started = folder, "", ""
        self.bad: set[str] = set()
        self.die_at = ""
        self.undone: list[int] = []

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
        self.serves = release.digest
        self._step("after commit")

    def undo(self, failed: Release, previous: Release | None) -> None:
        self._step("undo")
        self.undone.append(failed.revision)
        self.serves = previous.digest if previous else ""

    def start(self, release: Release) -> None:
        self.serves = release.digest

    def stop(self) -> None:
        self.serves = ""


@pytest.fixture
def memory(tmp_path: Path) -> MemoryWorld:
    return MemoryWorld(tmp_path / "service")


def statuses(world: MemoryWorld) -> list[str]:
    return [release.status for release in world.ledger().read()[0].releases]


def test_a_model_that_is_live_already_is_unchanged(target: ServiceTarget, memory: MemoryWorld, models: Models) -> None:
    promote(target, memory, models["a"].uri, by="me")
    done = promote(target, memory, models["a"].uri, by="me")
    assert done.to_json()["changed"] is False
    assert statuses(memory) == ["live"]


def test_a_model_with_worse_recall_is_refused_unless_overridden(
    target: ServiceTarget, memory: MemoryWorld, models: Models
) -> None:
    promote(target, memory, models["a"].uri, by="me")
    with pytest.raises(RefusedError, match=r"recall 0\.500 is 0\.400 below"):
        promote(target, memory, models["worse"].uri, by="me")
    promote(target, memory, models["worse"].uri, by="me", override="recall was mislabelled")
    live = memory.ledger().read()[0].live
    assert live and live.reason.startswith("champion overridden: recall was mislabelled")


def test_a_failed_proof_restores_what_served_and_tells_both(
    target: ServiceTarget, memory: MemoryWorld, models: Models
) -> None:
    promote(target, memory, models["a"].uri, by="me")
    memory.bad.add(models["b"].digest)
    with pytest.raises(FailedError, match=rf"the pod crashed; {models['a'].version} serves again, proved"):
        promote(target, memory, models["b"].uri, by="me")
    assert memory.serves == models["a"].digest
    assert statuses(memory) == ["live", "failed"]


def test_what_could_not_be_taken_back_is_left_by_the_next_rollback_which_brings_the_live_release(
    target: ServiceTarget, memory: MemoryWorld, models: Models, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("worse", "a"):
        promote(target, memory, models[name].uri, by="me")
    memory.bad.add(models["b"].digest)

    def away(*_: object) -> None:
        memory.serves = models["b"].digest  # what was written is carried out once the controller is there again
        raise UnavailableError("KServe's controller does not answer")

    with monkeypatch.context() as patch:
        patch.setattr(memory, "undo", away)
        with pytest.raises(FailedError, match="could not be restored") as told:
            promote(target, memory, models["b"].uri, by="me")
    assert told.value.hint == "evctl rollback"
    assert rollback(target, memory, by="me").model == models["a"].version
    assert memory.serves == models["a"].digest
    assert statuses(memory) == ["superseded", "superseded", "failed", "live"]
    assert rollback(target, memory, by="me").model == models["worse"].version


def test_rollback_goes_further_back_each_time_until_none_is_left(
    target: ServiceTarget, memory: MemoryWorld, models: Models
) -> None:
    for name in ("worse", "a", "b"):
        promote(target, memory, models[name].uri, by="me")
    assert rollback(target, memory, by="me").model == models["a"].version
    assert rollback(target, memory, by="me").model == models["worse"].version
    with pytest.raises(RefusedError, match="no older good release"):
        rollback(target, memory, by="me")
    assert rollback(target, memory, by="me", to=3).model == models["b"].version
    with pytest.raises(NotFoundError):
        rollback(target, memory, by="me", to=99)


def test_a_failed_release_cannot_be_rolled_back_to(target: ServiceTarget, memory: MemoryWorld, models: Models) -> None:
    promote(target, memory, models["a"].uri, by="me")
    memory.bad.add(models["b"].digest)
    with pytest.raises(FailedError):
        promote(target, memory, models["b"].uri, by="me")
    with pytest.raises(RefusedError, match="never proved itself"):
        rollback(target, memory, by="me", to=2)


def test_a_held_lease_is_a_conflict_that_names_the_holder(
    target: ServiceTarget, memory: MemoryWorld, models: Models
) -> None:
    memory.lease("anna").acquire()
    with pytest.raises(ConflictError, match=r"anna .* is promoting"):
        promote(target, memory, models["a"].uri, by="me")


def test_an_expired_lease_is_taken_over(tmp_path: Path) -> None:
    FileLease(tmp_path / "l.json", by="anna", seconds=-1).acquire()
    mine = FileLease(tmp_path / "l.json", by="me")
    mine.acquire()
    mine.renew()


@pytest.mark.parametrize("step", ["apply", "prove", "commit", "after commit"])
def test_what_a_dead_promoter_left_is_finished_or_undone_by_the_next(
    step: str,
    target: ServiceTarget,
    memory: MemoryWorld,
    models: Models,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    promote(target, memory, models["a"].uri, by="me")
    with monkeypatch.context() as patch:
        # a killed process restores nothing and ends nothing
        patch.setattr("evctl.rollout.recovery.restored", lambda *args: (_ for _ in ()).throw(Killed()))
        memory.die_at = step
        with pytest.raises(Killed):
            promote(target, memory, models["b"].uri, by="anna")
    memory.die_at = ""
    assert statuses(memory)[-1] == "pending"
    told: list[str] = []
    done = promote(target, memory, models["b"].uri, by="me", tell=told.append)
    half = f"revision 2 ({models['b'].version}) was left half-way by anna"
    ended = "finished" if step == "after commit" else "undone"
    assert any(line.startswith(half) and ended in line for line in told)
    assert memory.serves == models["b"].digest
    assert done.changed is (step != "after commit")


def test_two_writers_of_the_ledger_one_is_told(memory: MemoryWorld) -> None:
    ledger, token = memory.ledger().read()
    memory.ledger().write(ledger, token)
    with pytest.raises(ConflictError):
        memory.ledger().write(ledger, token)


def test_the_ledger_is_bounded_and_keeps_what_is_live(
    target: ServiceTarget, memory: MemoryWorld, models: Models
) -> None:
    from dataclasses import replace

    small = replace(target, history_limit=3)
    for name in ("a", "b") * 3:
        promote(small, memory, models[name].uri, by="me")
    ledger, _ = memory.ledger().read()
    assert [r.revision for r in ledger.releases] == [4, 5, 6]
    assert ledger.live and ledger.live.revision == 6
