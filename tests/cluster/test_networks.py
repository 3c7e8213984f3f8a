"""Promotions over a network that cuts, halves, stalls and refuses: a relay in front of the real API server."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from evctl.rollout.serving.kserve import ClusterWorld
from tests.cluster.cutter import Cutter
from tests.cluster.harness import Cluster
from tests.cluster.stage import Stage
from tests.cluster.waiting import Background, under_way, until


@pytest.fixture
def cutter(own_cluster: Cluster) -> Iterator[Cutter]:
    made = Cutter(own_cluster.port)
    yield made
    made.close()


def through(cutter: Cutter, stage: Stage, folder: Path) -> ClusterWorld:
    return stage.world(cutter.kubeconfig(stage.kubeconfig, folder))


def test_cut_connections_cost_a_promotion_nothing(serving: Stage, cutter: Cutter, tmp_path: Path) -> None:
    world = through(cutter, serving, tmp_path)
    going = Background(lambda: serving.promote_in(world, "b"))
    until(under_way(serving, "b"))
    while going.is_alive():
        cutter.cut()
        time.sleep(0.2)
    assert going.result().model == serving.models["b"].version
    assert cutter.cuts >= 3


def test_answers_that_end_half_way_cost_a_promotion_nothing(serving: Stage, cutter: Cutter, tmp_path: Path) -> None:
    world = through(cutter, serving, tmp_path)
    going = Background(lambda: serving.promote_in(world, "b"))
    until(under_way(serving, "b"))
    while going.is_alive():
        cutter.halve()
        time.sleep(0.3)
    assert going.result().model == serving.models["b"].version
    assert cutter.halves >= 3


def test_connections_that_hang_half_open_are_given_up_for_new_ones(
    serving: Stage, cutter: Cutter, tmp_path: Path
) -> None:
    """As behind a firewall that forgot them, or a machine that lost its power: no byte comes, and no end."""
    world = through(cutter, serving, tmp_path)
    going = Background(lambda: serving.promote_in(world, "b"))
    until(under_way(serving, "b"))
    for _ in range(2):
        stalled = time.monotonic()
        cutter.stall()
        seen = len(serving.told)
        until(lambda: not going.is_alive() or len(serving.told) > seen, 12.0)  # noqa: B023
        assert time.monotonic() - stalled < 8.0, "a hanging connection is told within its time"
    assert going.result().model == serving.models["b"].version
    assert cutter.stalls >= 2
    assert serving.statuses() == ["superseded", "live"]


def test_an_outage_uses_up_none_of_the_golden_requests_patience(
    serving: Stage, cutter: Cutter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rolled out, not yet answering, and then the API server is away for longer than a silent model may be."""
    monkeypatch.setattr("evctl.rollout.serving.kserve.SILENT_S", 3.0)
    serving.server.ways[serving.models["b"].uri] = "silent"
    world = through(cutter, serving, tmp_path)
    going = Background(lambda: serving.promote_in(world, "b"))
    until(lambda: any("no upstream" in line for line in serving.told))
    with cutter.refusing():
        time.sleep(4.0)
        until(lambda: serving.told[-1].startswith("waiting: the Kubernetes API"))
    seen = serving.server.asked
    until(lambda: serving.server.asked > seen or not going.is_alive())
    serving.server.ways.clear()
    assert going.result().model == serving.models["b"].version
