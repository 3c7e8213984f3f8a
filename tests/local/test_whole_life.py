"""The product's own pipeline from a small profile: run, serve, predict, refuse, roll back, through the command line."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from evctl.cli import run
from evctl.compiler import compile_profile
from evctl.profile_files import load_profile

pytestmark = [pytest.mark.local, pytest.mark.slow]

REPO = Path(__file__).parents[2]
PROFILE = """
backend: local
deploy: auto
store: {uri: "${EVCTL_HOME}/store"}
image: {mode: prebuilt, name: python-local}
serving: {max_recall_drop: 1.0}
accuracy_threshold: 0.8
data:
  versions:
    v1: {fleet: v1, vehicles: 128}
    v2: {fleet: v2, vehicles: 128}
"""


@pytest.fixture
def answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Any:
    (tmp_path / "profiles").mkdir()
    (tmp_path / "profiles" / "local.yaml").write_text(PROFILE)
    monkeypatch.setenv("EVCTL_PROFILES", str(tmp_path / "profiles"))

    def ask(*line: str, code: int = 0) -> Any:
        assert run([*line, "-o", "json"]) == code
        out = capfd.readouterr().out
        return json.loads(out) if out else None

    yield ask
    run(["serving", "stop"])


def test_a_run_ends_served_and_what_serves_can_be_asked_rolled_back_and_promoted(answer: Any) -> None:
    first = answer("run")
    states = {task["name"]: task["state"] for task in first["tasks"]}
    assert len(states) == 9
    assert set(states.values()) == {"SUCCEEDED"}
    assert first["gate"]["decision"] == "passed"
    model = first["model"]["version"]
    manifest = json.loads((Path(first["model"]["uri"].removeprefix("file://")) / "manifest.json").read_text())
    provenance = manifest["provenance"]
    assert provenance["pipeline_digest"] == compile_profile(load_profile("local").profile).digest
    # a tree without its repository has no commit to tell
    commit = "[0-9a-f]{40}(-dirty)?" if (REPO / ".git").exists() else ""
    assert re.fullmatch(commit, provenance["git_commit"])
    assert (provenance["run_id"], provenance["data_version"]) == (first["run_id"], "v1")

    said = answer("predict", str(REPO / "examples" / "session.csv"))
    assert said["model"]["version"] == model

    refused = answer("run", "--accuracy-threshold", "0.9999", code=5)
    cached = {task["name"]: task["state"] for task in refused["tasks"]}
    assert cached["train_fault_classifier"] == cached["evaluate_fault_model"] == "CACHED"
    assert cached["register_fault_model"] == cached["deploy_model_kserve"] == "SKIPPED"
    assert refused["model"] is None
    assert "accuracy" in refused["gate"]["reasons"][0]

    second = answer("run", "--data-version", "v2")["model"]["version"]
    assert second != model
    assert answer("rollback", "--yes")["model"] == model
    promoted = answer("promote", "@latest", "--yes")
    assert (promoted["model"], promoted["changed"]) == (second, True)
    assert answer("promote", "@latest", "--yes")["changed"] is False
    releases = answer("history")["releases"]
    assert [each["model"] for each in releases] == [second, model, second, model]
    assert [each["status"] for each in releases].count("live") == 1

    outputs = answer("outputs", "--task", "evaluate-fault-model")
    assert 0.8 <= outputs["parameters"]["evaluate_fault_model.accuracy"] <= 1
    assert answer("status", "@last-good")["model"]["version"] == second
