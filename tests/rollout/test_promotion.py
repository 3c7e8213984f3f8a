"""Promotion against a world in memory: order of the steps, what is restored, what a dead promoter leaves."""

from __future__ import annotations

from pathlib import Path

import pytest

from evctl.commands.release import outcome_lines
from evctl.errors import ConflictError, FailedError, NotFoundError, RefusedError, UnavailableError
from evctl.rollout.files import FileLease
from evctl.rollout.promotion import promote, rollback
from evctl.rollout.registry import Published
from evctl.rollout.target import ServiceTarget
from tests.rollout.memory import Killed, MemoryWorld, statuses

Models = dict[str, Published]


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
    assert (done.changed, done.previous) == (True, models["a"].version)
    assert (done.revision, done.begun_by) == ((2, "anna") if step == "after commit" else (3, None))
    if step == "after commit":
        assert outcome_lines(done)[0].startswith(
            f"finished: {models['b'].version} is live (revision 2, before: {models['a'].version}), begun by anna, "
        )
    again = promote(target, memory, models["b"].uri, by="me")
    assert (again.changed, again.begun_by) == (False, None)


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
