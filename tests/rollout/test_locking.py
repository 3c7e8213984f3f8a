"""The keeper of a lease, and what is asked before what counts."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, cast

import pytest

from evctl.errors import ConflictError, NotAllowedError, UnavailableError
from evctl.rollout import locking
from evctl.rollout.ledger import Lease, LedgerStore
from evctl.rollout.locking import LostLeaseError, locked
from evctl.rollout.serving.base import ServingWorld
from tests.rollout.asking import until


@dataclass
class Leased:
    """A lease whose renewals go as told, and then well."""

    answers: list[Exception] = field(default_factory=list)
    renewed: int = 0

    def acquire(self) -> None:
        pass

    def renew(self) -> None:
        if self.answers:
            raise self.answers.pop(0)
        self.renewed += 1

    def release(self) -> None:
        pass


@dataclass
class World:
    held: Leased

    def lease(self, by: str) -> Lease:
        return self.held

    def ledger(self) -> LedgerStore:
        return cast(LedgerStore, None)


@pytest.fixture
def leased(monkeypatch: pytest.MonkeyPatch) -> Leased:
    monkeypatch.setattr(locking, "RENEW_S", 0.02)
    monkeypatch.setattr(locking, "AGAIN_S", 0.02)
    return Leased()


def world(leased: Leased) -> ServingWorld:
    return cast(ServingWorld, World(leased))


@pytest.mark.parametrize(
    "error", [UnavailableError("away"), NotAllowedError("the cluster does not accept this login"), OSError("full")]
)
def test_the_keeper_outlives_what_passes(error: Exception, leased: Leased) -> None:
    leased.answers = [error, error, error]
    with locked(world(leased), "anna"):
        until(lambda: leased.renewed >= 3)


def test_a_login_that_is_renewed_in_time_costs_nothing_before_what_counts(
    leased: Leased, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locking, "RENEW_S", 60.0)
    with locked(world(leased), "anna") as held:
        leased.answers = [NotAllowedError("expired"), NotAllowedError("expired")]
        held.check()
        assert leased.renewed == 1


@pytest.mark.parametrize(
    ("error", "raised"), [(NotAllowedError("expired"), NotAllowedError), (ConflictError("lost"), LostLeaseError)]
)
def test_what_stays_so_lets_nothing_that_counts_be_done(
    error: Exception, raised: type[Exception], leased: Leased, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locking, "RENEW_S", 60.0)
    monkeypatch.setattr(locking, "LOGIN_S", 0.1)
    with locked(world(leased), "anna") as held:
        leased.answers = [error] * 1000
        begun = time.monotonic()
        with pytest.raises(raised):
            held.check()
        assert time.monotonic() - begun < 5


def test_a_lease_is_renewed_often_enough_to_miss_one_renewal() -> None:
    from evctl.rollout import cluster_lease

    seconds: Callable[[str], Any] = lambda name: vars(cluster_lease)[name]  # noqa: E731
    worst = locking.RENEW_S + 3 * seconds("REQUEST_S")  # a renewal of three requests, each of which hangs
    assert worst + locking.AGAIN_S < seconds("LEASE_S")
