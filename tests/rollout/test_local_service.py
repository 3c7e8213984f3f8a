"""The service on one machine: real KServe servers behind a real front."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from evctl.errors import FailedError, RefusedError
from evctl.rollout.promotion import deploy, promote, rollback, switch
from evctl.rollout.registry import Published
from evctl.rollout.serving.keeper import read_roles
from evctl.rollout.serving.local import LocalWorld
from evctl.rollout.serving.processes import started_at
from evctl.rollout.target import ServiceTarget
from tests.rollout.asking import PATH, Clients, request_of, until, wanted_of

pytestmark = [pytest.mark.local, pytest.mark.slow]
Models = dict[str, Published]
REASON = {
    "flipped byte": "model.joblib is not the file the manifest names",
    "empty": "holds no finished model",
    "other scikit-learn": "was pickled with scikit-learn 1.5.2",
}


def test_promote_rollback_promote_and_history(target: ServiceTarget, world: LocalWorld, models: Models) -> None:
    first = promote(target, world, models["a"].uri, by="me")
    assert (first.changed, first.revision, first.previous) == (True, 1, None)
    assert first.duration_s < 15
    again = promote(target, world, models["a"].uri, by="me")
    assert (again.changed, again.revision) == (False, 1)
    port = world.read().url
    second = promote(target, world, models["b"].uri, by="me")
    assert second.previous == models["a"].version
    back = rollback(target, world, by="me")
    assert (back.model, back.revision) == (models["a"].version, 3)
    assert back.duration_s < 10
    assert (world.read().url, world.read().digest) == (port, models["a"].digest)
    with pytest.raises(RefusedError, match="no older good release"):
        rollback(target, world, by="me")
    forward = rollback(target, world, by="me", to=2)
    assert forward.model == models["b"].version
    statuses = [r.status for r in world.ledger().read()[0].releases]
    assert statuses == ["superseded", "rolled_back", "rolled_back", "live"]


def test_fifty_requests_a_second_through_ten_swaps_none_fails_and_none_is_mixed(
    target: ServiceTarget, world: LocalWorld, models: Models, bundles: dict[str, Path]
) -> None:
    promote(target, world, models["a"].uri, by="me")
    clients = Clients(str(world.read().url), request_of(bundles["a"]), wanted_of(bundles, "a", "b"))
    start = time.monotonic()
    clients.start(per_s=40, keep_alive=True)
    clients.start(per_s=10, keep_alive=False)
    try:
        for _ in range(5):
            promote(target, world, models["b"].uri, by="me")
            rollback(target, world, by="me")
    finally:
        clients.stop()
    took = time.monotonic() - start
    assert clients.bad == []
    assert len(clients.versions) > 0.8 * 50 * took
    assert set(clients.versions) == {models["a"].version, models["b"].version}
    alone = [world.read().extra["pid"]]
    assert [each.pid for each in read_roles(world.folder).values()] == alone, "an old server was left"
    assert [r.status for r in world.ledger().read()[0].releases][-1] == "live"


def test_a_server_that_dies_is_started_again_at_the_same_address(
    target: ServiceTarget, world: LocalWorld, models: Models, bundles: dict[str, Path]
) -> None:
    promote(target, world, models["a"].uri, by="me")
    before = world.read()
    with httpx.Client(base_url=str(before.url)) as http:
        assert http.post(PATH, json=request_of(bundles["a"])).status_code == 200
        os.kill(before.extra["pid"], signal.SIGKILL)
        until(lambda: http.post(PATH, json=request_of(bundles["a"])).status_code != 200)
        reply = http.post(PATH, json=request_of(bundles["a"]))
        assert (reply.status_code, reply.headers["retry-after"]) == (503, "2")
        assert "being started again" in reply.json()["error"]
        # one that is being torn down refuses requests while it is still there as a process
        until(lambda: "is being started again" in world.read().detail)
        until(lambda: world.read().state == "serving", 40)
        reply = http.post(PATH, json=request_of(bundles["a"]))
    assert reply.json()["parameters"]["model_digest"] == models["a"].digest
    after = world.read()
    assert (after.url, after.digest, after.extra["starts"]) == (before.url, models["a"].digest, 1)
    assert after.extra["pid"] != before.extra["pid"]
    assert promote(target, world, models["b"].uri, by="me").changed
    assert list(read_roles(world.folder)) == ["current"]


def test_a_release_goes_live_while_the_server_before_is_being_started_again(
    target: ServiceTarget, world: LocalWorld, models: Models
) -> None:
    promote(target, world, models["a"].uri, by="me")
    os.kill(world.read().extra["pid"], signal.SIGKILL)
    until(lambda: world.read().state == "failing")
    assert promote(target, world, models["b"].uri, by="me").changed
    assert world.read().digest == models["b"].digest
    until(lambda: list(read_roles(world.folder)) == ["current"])
    assert world.read().digest == models["b"].digest


def test_a_front_that_hangs_is_told_in_time_and_replaced(
    target: ServiceTarget, world: LocalWorld, models: Models
) -> None:
    promote(target, world, models["a"].uri, by="me")
    url = world.read().url
    os.kill(world.read().extra["front_pid"], signal.SIGSTOP)
    start = time.monotonic()
    assert (world.read().state, world.read().detail) == ("failing", "the front does not answer")
    assert time.monotonic() - start < 10
    switch(target, world, on=False, by="me")
    assert world.read().state == "stopped"
    switch(target, world, on=True, by="me")
    assert (world.read().state, world.read().url) == ("serving", url)


def test_a_service_whose_folder_was_removed_ends(target: ServiceTarget, world: LocalWorld, models: Models) -> None:
    promote(target, world, models["a"].uri, by="me")
    pids = (world.read().extra["pid"], world.read().extra["front_pid"])
    shutil.rmtree(world.folder)
    until(lambda: not any(started_at(pid) for pid in pids))
    assert world.read().state == "absent"


def test_only_loopback_is_listened_on(target: ServiceTarget, world: LocalWorld, models: Models) -> None:
    promote(target, world, models["a"].uri, by="me")
    now = world.read()
    pids = (now.extra["pid"], now.extra["front_pid"])
    sockets = {
        os.readlink(link)
        for pid in pids
        for link in Path(f"/proc/{pid}/fd").iterdir()
        if os.readlink(link).startswith("socket:")
    }
    tables = [
        line.split() for file in ("tcp", "tcp6") for line in Path("/proc/net", file).read_text().split("\n")[1:-1]
    ]
    bound = [row[1].partition(":")[0] for row in tables if row[3] == "0A" and f"socket:[{row[9]}]" in sockets]
    assert bound == ["0100007F"] * 2


def test_nobody_without_the_token_switches_the_service(
    target: ServiceTarget, world: LocalWorld, models: Models
) -> None:
    promote(target, world, models["a"].uri, by="me")
    url = str(world.read().url)
    wanted = {"pid": 1, "started": "1", "port": 9, "digest": "x"}
    assert httpx.post(url + "/-/upstream", json=wanted).status_code == 403
    assert httpx.post(url + "/-/upstream", json=wanted, headers={"x-evctl-token": "guess"}).status_code == 403
    assert world.read().digest == models["a"].digest
    assert (world.folder / "front.token").stat().st_mode & 0o077 == 0
    command = Path(f"/proc/{world.read().extra['front_pid']}/cmdline").read_text()
    assert (world.folder / "front.token").read_text() not in command


@pytest.mark.parametrize("damage", ["flipped byte", "empty", "other scikit-learn"])
def test_a_damaged_bundle_is_refused_and_the_old_model_answers(
    damage: str,
    target: ServiceTarget,
    world: LocalWorld,
    models: Models,
    bundles: dict[str, Path],
    tmp_path: Path,
) -> None:
    promote(target, world, models["a"].uri, by="me")
    stored = tmp_path / "store" / models["b"].uri.split("/store/")[1]
    if damage == "flipped byte":
        content = bytearray((stored / "model.joblib").read_bytes())
        content[len(content) // 2] ^= 1
        (stored / "model.joblib").write_bytes(content)
    elif damage == "empty":
        for file in stored.iterdir():
            file.unlink()
    else:
        manifest = json.loads((stored / "manifest.json").read_text())
        manifest["versions"]["scikit-learn"] = "1.5.2"
        (stored / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(RefusedError) as told:
        promote(target, world, models["b"].uri, by="me")
    assert REASON[damage] in told.value.message
    assert [r.status for r in world.ledger().read()[0].releases] == ["live"]
    reply = httpx.post(str(world.read().url) + PATH, json=request_of(bundles["a"]))
    assert reply.json()["model_version"] == models["a"].version


def test_a_release_that_fails_its_proof_is_taken_back(
    target: ServiceTarget,
    world: LocalWorld,
    models: Models,
    bundles: dict[str, Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    promote(target, world, models["a"].uri, by="me")
    kept = world.folder / "bundles" / models["b"].digest[:16]
    real = LocalWorld.apply

    def spoil(self: LocalWorld, release: Any, *, canary: int | None = None) -> None:
        self._bundle(release)
        (kept / "golden.json").write_text("{}")
        monkeypatch.setattr(LocalWorld, "_bundle", lambda self, release: kept)
        real(self, release, canary=canary)
        monkeypatch.undo()

    monkeypatch.setattr(LocalWorld, "apply", spoil)
    with pytest.raises(FailedError, match=r"DigestMismatch.*serves again, proved"):
        promote(target, world, models["b"].uri, by="me")
    assert world.read().digest == models["a"].digest
    assert [r.status for r in world.ledger().read()[0].releases] == ["live", "failed"]


def test_after_a_reboot_the_service_is_stopped_and_comes_back_at_its_address(
    target: ServiceTarget, world: LocalWorld, models: Models
) -> None:
    deploy(
        {
            "name": target.name,
            "namespace": "local",
            "backend": "local",
            "store": dict(target.store),
            "port": 0,
        },
        models["a"].uri,
        "run-1",
        "pipeline",
    )
    url = world.read().url
    for pid in (world.read().extra["front_pid"], world.read().extra["pid"]):
        os.kill(pid, signal.SIGKILL)
    until(lambda: world.read().state == "stopped")
    assert world.read().state == "stopped"
    live = world.ledger().read()[0].live
    assert live
    world.start(live)
    assert (world.read().state, world.read().url) == ("serving", url)
