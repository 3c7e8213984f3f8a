"""The lease: promoters that were killed, answers that were lost, and who may take over from whom, when."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from evctl.errors import ConflictError, UnavailableError
from evctl.kube import KubeApi
from evctl.rollout.cluster_lease import ClusterLease
from evctl.rollout.holders import Holder
from tests.cluster.stage import CREATE, GOOD, Stage
from tests.cluster.waiting import under_way, until

ROOT = Path(__file__).parents[2]


def killed(
    stage: Stage, tmp_path: Path, model: str, *, when: Callable[[], bool], lease_s: int = 2, elsewhere: bool = True
) -> None:
    """Let another process promote a model, and kill it. `elsewhere`: as one whose death is not to be seen from here."""
    settings = {
        "service": {**stage.target.settings, "store": dict(stage.target.store)},
        "kubeconfig": str(stage.kubeconfig),
        "uri": stage.models[model].uri,
        "by": "boris",
        "lease_s": lease_s,
        "elsewhere": elsewhere,
    }
    path = tmp_path / "settings.json"
    path.write_text(json.dumps(settings))
    other = subprocess.Popen(
        [sys.executable, "-m", "tests.cluster.promoter", str(path)],
        cwd=ROOT, env=dict(os.environ), stdout=(tmp_path / "other.log").open("w"), stderr=subprocess.STDOUT,
    )  # fmt: skip
    until(when, 40.0)
    other.send_signal(signal.SIGKILL)
    other.wait()


def test_what_a_killed_promoter_began_is_finished_by_the_next_command(serving: Stage, tmp_path: Path) -> None:
    killed(serving, tmp_path, "b", when=under_way(serving, "b"))
    assert serving.statuses() == ["live", "pending"]
    with pytest.raises(ConflictError, match="boris, process"):
        serving.promote("b")
    until(lambda: serving.server.active == serving.models["b"].uri)
    time.sleep(2.2)  # the dead one's lease ends
    done = serving.promote("b")
    assert (done.changed, done.revision, done.previous) == (True, 2, serving.models["a"].version)
    assert done.begun_by == "boris"
    assert any("was left half-way by boris: finished" in note for note in done.notes)
    assert serving.statuses() == ["superseded", "live"]


def test_what_a_killed_promoter_began_badly_is_undone_by_the_next_command(stage: Stage, tmp_path: Path) -> None:
    stage.plays("a", CREATE, "6_rollback_after_corrupt")
    stage.plays("b", "5_update_corrupt")
    stage.plays("c", GOOD)
    stage.start()
    stage.promote("a")
    killed(stage, tmp_path, "b", when=under_way(stage, "b"))
    time.sleep(2.2)
    done = stage.promote("c")
    assert any("was left half-way by boris: undone" in note for note in done.notes)
    assert stage.statuses() == ["superseded", "failed", "live"]


def test_a_promoter_killed_on_this_machine_is_not_waited_for(serving: Stage, tmp_path: Path) -> None:
    killed(serving, tmp_path, "b", when=under_way(serving, "b"), lease_s=60, elsewhere=False)
    begun = time.monotonic()
    done = serving.promote("b")
    assert time.monotonic() - begun < 30
    assert any("was left half-way by boris: finished" in note for note in done.notes)


class Losing(KubeApi):
    """Loses the answers to writes, as often as told; the writes arrive."""

    lose = 0

    def hurried(self, timeout_s: float) -> KubeApi:
        return self

    def _json(self, method: str, *args: Any, **more: Any) -> dict[str, Any]:
        answer = super()._json(method, *args, **more)
        if method in ("POST", "PUT") and self.lose:
            self.lose -= 1
            raise UnavailableError("the answer was lost")
        return answer


@pytest.mark.parametrize("before", [False, True])
def test_a_lost_answer_does_not_hold_the_lease_against_ourselves(before: bool, stage: Stage) -> None:
    where = stage.target.namespace, stage.target.name
    if before:
        ended = ClusterLease(stage.api(), *where, by="boris")
        ended.acquire()
        ended.release()
    api = Losing(stage.api().client)
    lease = ClusterLease(api, *where, by="anna")
    api.lose = 1
    lease.acquire()
    lease.renew()
    api.lose = 1
    lease.release()
    ClusterLease(stage.api(), *where, by="boris").acquire()


def test_the_lease_of_a_dead_process_of_this_machine_is_taken_over_and_no_other_one(stage: Stage) -> None:
    where = stage.target.namespace, stage.target.name
    theirs = ClusterLease(stage.api(), *where, by="boris")
    theirs.acquire()
    own = Holder.own("boris")
    path = f"/apis/coordination.k8s.io/v1/namespaces/{where[0]}/leases/{where[1]}-promotion"

    def held_by(holder: Holder) -> None:
        stage.api().patch(path, {"spec": {"holderIdentity": holder.identity}})

    mine = ClusterLease(stage.api(), *where, by="anna")
    for alive in (own, replace(own, table="elsewhere", start="1"), replace(own, table="", start="")):
        held_by(alive)
        with pytest.raises(ConflictError, match="boris, process"):
            mine.acquire()
    held_by(replace(own, start=str(int(own.start) - 1)))
    mine.acquire()
