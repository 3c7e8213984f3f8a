"""The service on one machine: real KServe servers behind a real front."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from evctl.errors import EvctlError, FailedError, RefusedError
from evctl.rollout.promotion import deploy, promote, rollback
from evctl.rollout.registry import Published
from evctl.rollout.serving.local import LocalWorld
from evctl.rollout.target import ServiceTarget

pytestmark = [pytest.mark.local, pytest.mark.slow]
PATH = "/v2/models/ev-battery-fault-classifier/infer"
Models = dict[str, Published]


def request_of(bundle: Path) -> dict[str, Any]:
    golden = json.loads((bundle / "golden.json").read_text())
    rows = golden["rows"][:1]
    return {"inputs": [{"name": "rows", "shape": [1, len(rows[0])], "datatype": "FP64", "data": list(rows[0])}]}


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


def test_no_request_fails_and_no_answer_is_mixed_through_swaps(
    target: ServiceTarget, world: LocalWorld, models: Models, bundles: dict[str, Path]
) -> None:
    promote(target, world, models["a"].uri, by="me")
    wanted = {}
    for name in ("a", "b"):
        golden = json.loads((bundles[name] / "golden.json").read_text())
        wanted[models[name].version] = models[name].digest, golden["classes"]
    asked = request_of(bundles["a"])
    stop, bad, count = threading.Event(), [], [0]

    def client() -> None:
        with httpx.Client(base_url=str(world.read().url)) as http:
            while not stop.is_set():
                start = time.monotonic()
                try:
                    reply = http.post(PATH, json=asked)
                    document = reply.json()
                    digest = document["parameters"]["model_digest"]
                    if reply.status_code != 200 or wanted[document["model_version"]][0] != digest:
                        bad.append(document)
                except (httpx.HTTPError, KeyError) as error:
                    bad.append(repr(error))
                count[0] += 1
                time.sleep(max(0.0, 0.02 - (time.monotonic() - start)))

    thread = threading.Thread(target=client)
    thread.start()
    for _ in range(5):
        promote(target, world, models["b"].uri, by="me")
        rollback(target, world, by="me")
        ledger, token = world.ledger().read()
        assert ledger.live and ledger.live.digest == models["a"].digest and token
    stop.set()
    thread.join()
    assert bad == []
    assert count[0] > 200


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
    with pytest.raises(EvctlError) as told:
        promote(target, world, models["b"].uri, by="me")
    assert told.value.exit_code in (3, 5)
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
    for role in ("front", "backend"):
        process = world._process(role)
        assert process
        process.stop(grace_s=0.1)
    assert world.read().state == "stopped"
    live = world.ledger().read()[0].live
    assert live
    world.start(live)
    assert (world.read().state, world.read().url) == ("serving", url)
