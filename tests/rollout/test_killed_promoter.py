"""A promoter killed with SIGKILL at each stage: what serves goes on, the next command finishes or undoes, and says so."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from evctl.errors import ConflictError, RefusedError
from evctl.rollout.promotion import promote, rollback, switch
from evctl.rollout.registry import Published
from evctl.rollout.serving import golden
from evctl.rollout.serving.local import LocalWorld
from evctl.rollout.target import ServiceTarget
from tests.rollout.asking import PATH, Clients, request_of, until, wanted_of

pytestmark = [pytest.mark.local, pytest.mark.slow]
Models = dict[str, Published]
PROMOTER = """
import json, os, sys, time
from evctl.rollout import promotion
from evctl.rollout.serving import door, local
from evctl.rollout.target import ServiceTarget
stage, target, uri = sys.argv[1], ServiceTarget(**json.loads(sys.argv[2])), sys.argv[3]
def dies(*_, **__): os.kill(os.getpid(), 9)
def sleeps(*_, **__): print("asleep", flush=True); time.sleep(60)
def then(where, name, end):
    real = getattr(where, name)
    def both(*given, **named):
        made = real(*given, **named)
        end()
        return made
    setattr(where, name, both)
if stage == "recorded": local.LocalWorld.apply = dies
elif stage == "applied": then(local.LocalWorld, "apply", dies)
elif stage == "proved": local.LocalWorld.commit = dies
elif stage == "switched": then(door, "switch", dies)
elif stage == "committed": then(local.LocalWorld, "commit", dies)
elif stage == "sleeping": then(local.LocalWorld, "apply", sleeps)
promotion.promote(target, local.LocalWorld(target), uri, by="anna")
"""
STAGES = ("recorded", "applied", "proved", "switched", "committed")
FINISHED = ("switched", "committed")


def promoter(stage: str, target: ServiceTarget, uri: str) -> subprocess.Popen[str]:
    asked = [sys.executable, "-c", PROMOTER, stage, json.dumps(dataclasses.asdict(target)), uri]
    return subprocess.Popen(asked, stdout=subprocess.PIPE, text=True, env=dict(os.environ))


def killed(stage: str, target: ServiceTarget, uri: str) -> None:
    process = promoter(stage, target, uri)
    assert process.wait(60) == -signal.SIGKILL


def servers(world: LocalWorld) -> list[int]:
    """Pids of every model server of this world's folder."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                command = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if b"ev_serving" in command and str(world.folder).encode() in command:
                found.append(int(entry.name))
    return found


@pytest.mark.parametrize("stage", STAGES)
def test_the_next_promotion_finishes_or_undoes_it_and_no_request_fails(
    stage: str, target: ServiceTarget, world: LocalWorld, models: Models, bundles: dict[str, Path]
) -> None:
    promote(target, world, models["a"].uri, by="me")
    clients = Clients(str(world.read().url), request_of(bundles["a"]), wanted_of(bundles, "a", "b"))
    clients.start(per_s=20, keep_alive=True)
    told: list[str] = []
    try:
        killed(stage, target, models["b"].uri)
        assert [r.status for r in world.ledger().read()[0].releases] == ["live", "pending"]
        assert world.read().digest == models["b" if stage in FINISHED else "a"].digest
        done = promote(target, world, models["b"].uri, by="me", tell=told.append)
    finally:
        clients.stop()
    half = f"revision 2 ({models['b'].version}) was left half-way by anna: "
    ended = "finished" if stage in FINISHED else "undone, its promoter died"
    assert half + ended in told
    assert done.notes == (half + ended,)
    assert (done.changed, done.previous) == (True, models["a"].version)
    assert (done.revision, done.begun_by) == ((2, "anna") if stage in FINISHED else (3, None))
    assert world.read().digest == models["b"].digest
    statuses = [r.status for r in world.ledger().read()[0].releases]
    assert statuses == (["superseded", "live"] if stage in FINISHED else ["superseded", "failed", "live"])
    assert clients.bad == []
    assert servers(world) == [world.read().extra["pid"]], "a server of a dead promoter was left"


@pytest.mark.parametrize("stage", ["applied", "switched"])
def test_the_next_rollback_deals_with_it_first(
    stage: str, target: ServiceTarget, world: LocalWorld, models: Models
) -> None:
    promote(target, world, models["a"].uri, by="me")
    killed(stage, target, models["b"].uri)
    told: list[str] = []
    if stage == "switched":
        assert rollback(target, world, by="me", tell=told.append).model == models["a"].version
    else:
        with pytest.raises(RefusedError, match="no older good release"):
            rollback(target, world, by="me", tell=told.append)
    assert any("left half-way by anna" in line for line in told)
    assert world.read().digest == models["a"].digest


def test_the_first_promotion_ever_killed_leaves_nothing_behind_once_seen(
    target: ServiceTarget, world: LocalWorld, models: Models
) -> None:
    killed("applied", target, models["a"].uri)
    assert len(servers(world)) == 1
    assert promote(target, world, models["b"].uri, by="me").previous is None
    assert servers(world) == [world.read().extra["pid"]]
    assert [r.status for r in world.ledger().read()[0].releases] == ["failed", "live"]


def test_a_power_cut_in_mid_promotion_is_undone_by_the_next_start(
    target: ServiceTarget, world: LocalWorld, models: Models, bundles: dict[str, Path]
) -> None:
    promote(target, world, models["a"].uri, by="me")
    url = world.read().url
    killed("proved", target, models["b"].uri)
    for pid in (world.read().extra["front_pid"], *servers(world)):
        os.kill(pid, signal.SIGKILL)
    until(lambda: not servers(world) and world.read().state == "stopped")
    told: list[str] = []
    switch(target, world, on=True, by="me", tell=told.append)
    assert any("undone, its promoter died" in line for line in told)
    assert world.read().url == url
    reply = httpx.post(str(url) + PATH, json=request_of(bundles["a"]))
    assert reply.json()["model_version"] == models["a"].version
    assert [r.status for r in world.ledger().read()[0].releases] == ["live", "failed"]


def test_undoing_starts_the_previous_model_anew_where_its_process_is_there_but_does_not_answer(
    target: ServiceTarget, world: LocalWorld, models: Models, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after a power cut: the kernel shows a killed process as running until its memory is given back."""
    promote(target, world, models["a"].uri, by="me")
    killed("proved", target, models["b"].uri)
    held = world.read().extra["pid"]
    os.kill(world.read().extra["front_pid"], signal.SIGKILL)
    os.kill(held, signal.SIGSTOP)
    monkeypatch.setattr(golden, "TIMEOUT_S", 1.0)
    switch(target, world, on=True, by="me")
    now = world.read()
    assert (now.state, now.digest) == ("serving", models["a"].digest)
    assert now.extra["pid"] != held
    assert servers(world) == [now.extra["pid"]]


def test_a_promoter_that_lives_is_a_conflict_and_one_that_slept_past_its_lease_changes_nothing(
    target: ServiceTarget, world: LocalWorld, models: Models, monkeypatch: pytest.MonkeyPatch
) -> None:
    promote(target, world, models["a"].uri, by="me")
    process = promoter("sleeping", target, models["b"].uri)
    try:
        assert process.stdout
        assert process.stdout.readline() == "asleep\n"
        with pytest.raises(ConflictError, match=rf"anna \(process {process.pid} on .* is promoting; .* until \d{{4}}-"):
            promote(target, world, models["b"].uri, by="me")
    finally:
        process.kill()
        process.wait()
    # the same within this process: the lease ends and is taken over between proof and commit
    promote(target, world, models["b"].uri, by="me")
    real = LocalWorld.prove

    def slow(self: LocalWorld, release: object, deadline_s: float) -> object:
        yield from real(self, release, deadline_s)  # type: ignore[arg-type]
        document = json.loads((self.folder / "lease.json").read_text())
        (self.folder / "lease.json").write_text(json.dumps({**document, "identity": "bert", "by": "bert"}))

    monkeypatch.setattr(LocalWorld, "prove", slow)
    with pytest.raises(ConflictError, match="theirs to finish or undo"):
        promote(target, world, models["a"].uri, by="me")
    monkeypatch.undo()
    assert world.read().digest == models["b"].digest
    assert world.ledger().read()[0].pending
    (world.folder / "lease.json").write_text(json.dumps({"identity": "bert", "by": "bert", "expires": time.time() - 1}))
    told: list[str] = []
    switch(target, world, on=True, by="bert", tell=told.append)
    assert any("undone" in line for line in told)
    assert world.read().digest == models["b"].digest


def test_an_interrupted_promoter_takes_back_what_it_began_and_records_it(
    target: ServiceTarget, world: LocalWorld, models: Models
) -> None:
    promote(target, world, models["a"].uri, by="me")
    process = promoter("sleeping", target, models["b"].uri)
    assert process.stdout
    assert process.stdout.readline() == "asleep\n"
    process.send_signal(signal.SIGINT)
    assert process.wait(30) not in (0, -signal.SIGKILL)
    failed = world.ledger().read()[0].releases[-1]
    assert failed.status == "failed"
    assert failed.reason == f"interrupted (KeyboardInterrupt); {models['a'].version} serves again, proved"
    assert (world.read().digest, servers(world)) == (models["a"].digest, [world.read().extra["pid"]])
    # and where only the front dies, the next start has the address again
    url, front_pid = world.read().url, world.read().extra["front_pid"]
    os.kill(front_pid, signal.SIGKILL)
    until(lambda: world.read().state == "stopped")
    assert world.read().detail == "the front is gone, its model server runs"
    switch(target, world, on=True, by="me")
    assert (world.read().state, world.read().url, len(servers(world))) == ("serving", url, 1)


def test_history_survives_the_loss_of_everything_but_the_ledger(
    target: ServiceTarget, world: LocalWorld, models: Models
) -> None:
    import shutil

    promote(target, world, models["a"].uri, by="me")
    promote(target, world, models["b"].uri, by="me")
    world.stop()
    for each in world.folder.iterdir():
        if each.name != "releases.json":
            shutil.rmtree(each) if each.is_dir() else each.unlink()
    assert world.read().state == "absent"
    back = rollback(target, world, by="me")
    assert (back.model, back.revision) == (models["a"].version, 3)
    assert (world.read().state, world.read().digest) == ("serving", models["a"].digest)
