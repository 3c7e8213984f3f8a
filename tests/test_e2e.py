"""The script behind `make e2e`: its quick steps pass here, and what fails is told and is exit 1."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.e2e.life import MISSING, SMALL, Answer, Failed, Life, doctor, own_profile

REPO = Path(__file__).parents[1]


def life(*options: str) -> subprocess.CompletedProcess[str]:
    script = REPO / "tests" / "e2e" / "life.py"
    return subprocess.run([sys.executable, str(script), *options], capture_output=True, text=True, check=False)


def test_its_quick_steps_pass_on_this_machine_and_are_told_as_a_table(tmp_path: Path) -> None:
    table = tmp_path / "table.json"
    done = life("--env", "local", "--only", "secrets", "--only", "upload", "--json", str(table))
    assert done.returncode == 0, done.stdout + done.stderr
    steps = json.loads(table.read_text())["steps"]
    assert [(each["step"], each["result"]) for each in steps] == [("secrets", "pass"), ("upload", "pass")]
    assert "2 of 2 passed" in done.stdout


def test_what_fails_is_named_with_why_and_what_needs_it_is_skipped() -> None:
    done = life("--env", "prod", "--only", "upload", "--only", "predict")
    assert done.returncode == 1
    rows = {line.split()[0]: line for line in done.stdout.splitlines() if line.startswith(("upload", "predict"))}
    assert "FAIL" in rows["upload"]
    assert "names no image" in rows["upload"]
    assert "skipped" in rows["predict"]
    assert "not: upload, predict" in done.stdout


def test_it_touches_no_service_store_or_experiment_of_the_profile_itself() -> None:
    source = REPO / "profiles" / "prod.yaml"
    before, own = yaml.safe_load(source.read_text()), own_profile("prod", source)
    assert own["serving"]["name"] == "ev-battery-fault-classifier-e2e"
    assert own["store"]["uri"] == before["store"]["uri"] + "/e2e"
    assert own["experiment"] != before["experiment"]
    assert {SMALL, MISSING} <= set(own["data"]["versions"])
    assert own["namespace"] == before["namespace"]


def test_a_check_of_doctor_that_fails_is_told_with_what_it_said(monkeypatch: pytest.MonkeyPatch) -> None:
    told = {
        "checks": [
            {"name": "kfp", "status": "pass", "message": "v2beta1"},
            {"name": "artifacts", "status": "fail", "message": "no answer within 8 s"},
        ]
    }
    monkeypatch.setattr(Life, "evctl", lambda *_, **__: Answer(5, json.dumps(told), ""))
    with pytest.raises(Failed, match=r"^artifacts: no answer within 8 s$"):
        doctor(Life("local", {}, {}, REPO, 1.0))
