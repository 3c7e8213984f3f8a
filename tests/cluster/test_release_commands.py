"""promote, history, serving, predict and rollback through `--env NAME`: what a profile says reaches the cluster it names."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from evctl.cli import run
from tests.cluster.stage import CREATE, GOOD, IMAGE, SESSION, Stage

BACK = "6_rollback_after_corrupt"


@pytest.fixture
def ask(
    stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Callable[..., Any]:
    """Run a verb against the stage; its profile names the context, the kubeconfig's own current one is dead."""
    config = yaml.safe_load(stage.kubeconfig.read_text())
    named = config["current-context"]
    config["clusters"].append({"name": "other", "cluster": {"server": "https://127.0.0.1:1"}})
    config["contexts"].append({"name": "other", "context": {"cluster": "other", "user": config["users"][0]["name"]}})
    config["current-context"] = "other"
    (tmp_path / "kubeconfig").write_text(yaml.safe_dump(config))
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
    target = stage.target
    profile = {
        "backend": "kubeflow",
        "namespace": target.namespace,
        "image": {"mode": "prebuilt", "name": IMAGE},
        "store": dict(target.store),
        "serving": {"name": target.name, "mode": "Standard", "proof_timeout_s": 60},
        "kubeflow": {"context": named},
    }
    (tmp_path / "profiles").mkdir()
    (tmp_path / "profiles" / "tier.yaml").write_text(yaml.safe_dump(profile))
    monkeypatch.setenv("EVCTL_PROFILES", str(tmp_path / "profiles"))

    def call(*line: str, code: int = 0) -> Any:
        got = run([*line, "--env", "tier", "-o", "json"])
        out, err = capfd.readouterr()
        assert got == code, err
        return json.loads(out or err.splitlines()[-1])

    return call


def test_a_models_life_on_the_cluster_that_the_profile_names(stage: Stage, ask: Callable[..., Any]) -> None:
    stage.plays("a", CREATE, BACK)
    stage.plays("b", GOOD)
    stage.start()
    a, b = stage.models["a"].version, stage.models["b"].version
    assert ask("history")["releases"] == []
    first = ask("promote", a, "--yes")
    assert (first["changed"], first["model"]) == (True, a)
    assert ask("promote", a, "--yes")["changed"] is False
    second = ask("promote", b, "--yes")
    assert (second["model"], second["previous"]) == (b, a)
    assert ask("rollback", "--yes")["model"] == a
    releases = ask("history")["releases"]
    assert [(each["model"], each["status"]) for each in releases] == [
        (a, "live"),
        (b, "rolled_back"),
        (a, "superseded"),
    ]
    assert ask("serving")["model"] == a
    service = stage.service()["spec"]["predictor"]["model"]
    assert service["storageUri"] == stage.models["a"].uri


def test_a_model_that_is_not_in_the_store_is_refused_and_changes_nothing(stage: Stage, ask: Callable[..., Any]) -> None:
    uri = stage.models["a"].uri.replace(stage.models["a"].version, "v9-000000000000")
    assert ask("promote", uri, "--yes", code=5)["error"]["code"] == "refused"
    assert ask("history")["releases"] == []


def test_predict_asks_the_model_on_the_cluster_that_the_profile_names(
    stage: Stage, ask: Callable[..., Any], own_address: str, real_predictor: int
) -> None:
    stage.plays("a", CREATE)
    stage.start(url=f"http://{own_address}:{real_predictor}")
    ask("promote", stage.models["a"].version, "--yes")
    answer = ask("predict", str(SESSION))
    assert answer["model"]["version"] == stage.models["a"].version
    assert answer["sessions"][0]["class"] in answer["sessions"][0]["probabilities"]
    assert ask("predict", str(SESSION.parent / "nothing.csv"), code=3)["error"]["code"] == "not_found"


def test_a_share_of_the_requests_that_somebody_set_by_hand_is_shown(stage: Stage, ask: Callable[..., Any]) -> None:
    stage.plays("a", CREATE)
    stage.start()
    ask("promote", stage.models["a"].version, "--yes")
    assert ask("serving")["by_hand"] == []
    base = f"/apis/serving.kserve.io/v1beta1/namespaces/{stage.target.namespace}/inferenceservices"
    patch = {"spec": {"predictor": {"canaryTrafficPercent": 20}}}
    stage.api().patch(f"{base}/{stage.target.name}", patch, fieldManager="bob")
    assert ask("serving")["by_hand"] == [{"name": "canaryTrafficPercent", "revision": "1", "percent": 20}]
    told = ask("promote", stage.models["a"].version, "--yes", code=6)["error"]
    assert "divides its requests by canaryTrafficPercent, set by bob at " in told["message"]
    assert "/spec/predictor/canaryTrafficPercent" in told["hint"]
