"""What becomes of a canary whose share does not come to be."""

from __future__ import annotations

import pytest

from evctl.errors import ConflictError, FailedError, NotAllowedError
from evctl.rollout.promotion import promote, rollback
from evctl.rollout.registry import Published
from evctl.rollout.target import ServiceTarget
from tests.rollout.memory import MemoryWorld, statuses

Models = dict[str, Published]


@pytest.fixture
def canary(target: ServiceTarget, memory: MemoryWorld, models: Models) -> MemoryWorld:
    """Model a is live, b gets a tenth of the requests."""
    promote(target, memory, models["a"].uri, by="me")
    promote(target, memory, models["b"].uri, by="me", canary=10)
    return memory


def running(world: MemoryWorld) -> int | None:
    found = world.ledger().read()[0].canary
    return found.canary if found else None


def test_a_share_that_does_not_come_to_be_leaves_the_canary_the_one_before(
    canary: MemoryWorld, target: ServiceTarget, models: Models
) -> None:
    canary.most = 40
    with pytest.raises(FailedError) as told:
        promote(target, canary, models["b"].uri, by="me", canary=50)
    assert told.value.message == (
        f"{models['b'].version} did not come to 50 % of the requests: it gets 40 of 50 %; it has its 10 % again, proved"
    )
    assert told.value.exit_code == 1
    assert "--canary 50" in str(told.value.hint)
    assert (canary.share, running(canary), canary.undone) == (10, 10, [])
    assert statuses(canary) == ["live", "pending"]
    canary.most = 100
    assert promote(target, canary, models["b"].uri, by="me", canary=50).verified["percent"] == 50
    assert rollback(target, canary, by="me").model == models["a"].version


def test_an_interrupted_change_of_the_share_is_taken_back_and_the_canary_goes_on(
    canary: MemoryWorld, target: ServiceTarget, models: Models
) -> None:
    canary.interrupted = KeyboardInterrupt
    told: list[str] = []
    with pytest.raises(KeyboardInterrupt):
        promote(target, canary, models["b"].uri, by="me", canary=50, tell=told.append)
    assert (canary.share, running(canary)) == (10, 10)
    assert told[-2:] == [
        f"failed: interrupted (KeyboardInterrupt); giving {models['b'].version} its 10 % again",
        "it has its 10 % again, proved",
    ]


def test_a_canary_that_does_not_come_to_its_former_share_either_is_ended(
    canary: MemoryWorld, target: ServiceTarget, models: Models
) -> None:
    canary.gone.add(models["b"].digest)
    with pytest.raises(FailedError, match=rf"{models['a'].version} serves again, proved"):
        promote(target, canary, models["b"].uri, by="me", canary=50)
    assert (canary.share, running(canary), canary.undone) == (0, None, [2])
    assert statuses(canary) == ["live", "failed"]


def test_who_lost_the_lease_meanwhile_gives_no_share_back(
    canary: MemoryWorld, target: ServiceTarget, models: Models, monkeypatch: pytest.MonkeyPatch
) -> None:
    canary.most = 40
    give = canary._give

    def late(release: object, percent: int) -> None:
        (canary.folder / "lease.json").unlink()
        canary.lease("bert").acquire()
        give(release, percent)  # type: ignore[arg-type]

    monkeypatch.setattr(canary, "_give", late)
    with pytest.raises(ConflictError, match="theirs to finish or undo"):
        promote(target, canary, models["b"].uri, by="me", canary=50)
    assert (canary.share, statuses(canary)) == (40, ["live", "pending"])


def test_who_may_not_change_the_service_neither_moves_a_share_nor_takes_the_canary_back(
    canary: MemoryWorld, target: ServiceTarget, models: Models
) -> None:
    canary.forbidden = NotAllowedError("missing rights: patch inferenceservices")
    for share in (50, None):
        with pytest.raises(NotAllowedError):
            promote(target, canary, models["b"].uri, by="me", canary=share)
    with pytest.raises(NotAllowedError):
        rollback(target, canary, by="me")
    assert (canary.share, running(canary), canary.undone) == (10, 10, [])
    assert statuses(canary) == ["live", "pending"]
