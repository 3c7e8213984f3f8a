"""Every verb's JSON, from real runs: held to its model, and to a golden file of its keys and words.

After a change that is meant: `EVCTL_UPDATE_GOLDEN=1 pytest tests/test_golden.py`, and read the difference.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from evctl.cli import VERBS, run
from evctl.schemas.verbs import DOCUMENTS

pytestmark = [pytest.mark.local, pytest.mark.slow, pytest.mark.xdist_group("golden"), pytest.mark.timeout(900)]
UPDATE = bool(os.environ.get("EVCTL_UPDATE_GOLDEN"))
GOLDEN = Path(__file__).parent / "golden"
REPO = Path(__file__).parents[1]
NO_DOCUMENT = {"help", "completion"}
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
schedules:
  - {name: nightly, cron: "0 3 * * mon-fri", parameters: {data_version: v1}}
"""
CRONTAB = """#!/bin/sh
case $1 in -l) cat {kept} ;; -) cat >{kept} ;; *) exit 1 ;; esac
"""
"""A crontab of the test's own: the command itself is held to the real one in test_schedules."""
VOLATILE = [
    (re.compile(r"\b[0-9a-f]{40}(-dirty)?\b"), "<commit>"),
    (re.compile(r"Python [0-9.]+"), "Python <version>"),
    (re.compile(r"\b\d+ packages"), "<number> packages"),
    (re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z"), "<time>"),
    (re.compile(r"\b[0-9a-f]{64}\b"), "<digest>"),
    (re.compile(r"\bv(\d)-[0-9a-f]{12}\b"), r"v\1-<digest>"),
    (re.compile(r"\b[0-9a-f]{16}\b"), "<run>"),
    (re.compile(r"\b[0-9a-f]{12}\b"), "<short digest>"),
    (re.compile(r"\b[0-9a-f]{8}\b"), "<run>"),
    (re.compile(r"\d{4}-\d{6}\b"), "<stamp>"),
    (re.compile(r"ev-battery-health-fault-pipeline-[0-9-]+"), "<folder>"),
    (re.compile(r"127\.0\.0\.1:\d+"), "<address>"),
    (re.compile(r"[0-9][0-9,]*\.[0-9]+"), "<number>"),
]
"""What differs from run to run; the keys and the words do not."""


class Life:
    """The documents of a small product's whole life, by verb, each asked once."""

    def __init__(self, home: Path) -> None:
        self.home, self.documents = home, dict[str, Any]()

    def ask(self, verb: str, *line: str, code: int = 0, said_by: str = "stdout") -> Any:
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            assert run([*verb.split(), *line, "-o", "json"]) == code, err.getvalue()
        text = out.getvalue() if said_by == "stdout" else err.getvalue().splitlines()[-1]
        return json.loads(text)

    def keep(self, verb: str, *line: str, code: int = 0, name: str | None = None) -> Any:
        self.documents[name or verb] = self.ask(verb, *line, code=code)
        return self.documents[name or verb]


@pytest.fixture(scope="module")
def life(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Life]:
    folder = tmp_path_factory.mktemp("life")
    (folder / "profiles").mkdir()
    (folder / "profiles" / "local.yaml").write_text(PROFILE)
    (folder / "bin").mkdir()
    (folder / "kept").touch()
    (folder / "bin" / "crontab").write_text(CRONTAB.replace("{kept}", str(folder / "kept")))
    (folder / "bin" / "crontab").chmod(0o755)
    (folder / "values.env").write_text("TELEMETRY_TOKEN=never-shown\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EVCTL_HOME", str(folder / "state"))
        patch.setenv("EVCTL_PROFILES", str(folder / "profiles"))
        patch.setenv("EVCTL_USER", "somebody")
        patch.setenv("PATH", str(folder / "bin"), prepend=os.pathsep)
        known = Life(folder)
        try:
            _live(known, folder)
            yield known
        finally:
            run(["serving", "stop", "-q"])


def _live(life: Life, folder: Path) -> None:
    keep = life.keep
    keep("profile list")
    keep("profile show", "local")
    keep("profile check", "local")
    keep("secrets apply", "ev-telemetry-secret", "-f", str(folder / "values.env"))
    keep("secrets list")
    keep("compile", "--env", "local", "-f", str(folder / "pipeline.yaml"))
    keep("upload")
    keep("plan")
    keep("run")
    first = life.documents["run"]["run_id"]
    life.ask("run", "--accuracy-threshold", "0.9999", code=5)
    keep("status", code=5)
    keep("runs")
    keep("logs", first, "train_fault_classifier")
    keep("outputs", first)
    keep("experiments")
    keep("compare", first, "@latest")
    keep("report", first, "-f", str(folder / "report.html"))
    life.ask("run", "--data-version", "v2")
    keep("models list")
    keep("models show", life.documents["models list"]["models"][0]["version"])
    keep("rollback", "--yes")
    keep("promote", "@latest", "--yes")
    keep("history")
    keep("serving")
    keep("predict", str(REPO / "examples" / "session.csv"))
    keep("drift", "--data-version", "v1")
    keep("drift", "--history", name="drift --history")
    keep("notify test")
    keep("doctor")
    open_run = life.ask("run", "--detach", "--no-cache")["run_id"]
    keep("cancel", open_run)
    keep("retry", open_run)
    _ended(life, open_run)
    keep("schedule apply")
    keep("schedule list")
    keep("schedule delete", "--all")
    life.documents["error"] = life.ask("status", "no-such-run", code=3, said_by="stderr")


def _ended(life: Life, run_id: str) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        with contextlib.redirect_stdout(io.StringIO()):
            if run(["status", run_id, "-q"]) != 8:
                return
        time.sleep(0.2)
    raise AssertionError(f"run {run_id} has not ended")


def _same(value: Any) -> Any:
    """Replace what differs from run to run; long lists keep their first two entries."""
    if isinstance(value, dict):
        # a log line is kfp's own, with times and folders
        return {_same(key): "<line>" if key == "text" else _same(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_same(each) for each in value[:2]]
    if isinstance(value, int | float) and not isinstance(value, bool):
        return "<number>"
    if isinstance(value, str):
        for pattern, word in VOLATILE:
            value = pattern.sub(word, value)
    return value


def test_every_verb_has_a_document_or_prints_none() -> None:
    assert set(VERBS) - NO_DOCUMENT <= set(DOCUMENTS)


@pytest.mark.parametrize("verb", sorted(DOCUMENTS))
def test_a_verbs_json_is_its_model_and_its_golden_file(verb: str, life: Life) -> None:
    document = life.documents[verb]
    DOCUMENTS[verb].model_validate(document, strict=False)
    text = json.dumps(_same(document), indent=1, sort_keys=True).replace(str(life.home), "<home>") + "\n"
    golden = GOLDEN / f"{verb.replace(' ', '_').replace('--', '')}.json"
    if UPDATE:
        golden.parent.mkdir(exist_ok=True)
        golden.write_text(text)
    assert text == golden.read_text()


def test_help_json_prints_a_schema_for_every_verb(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["help", "json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert set(printed) == set(DOCUMENTS)
    assert printed["status"]["properties"]["tasks"]["type"] == "array"
    assert run(["help", "json", "models", "show"]) == 0
    assert json.loads(capsys.readouterr().out)["title"] == "Model"
    assert run(["help", "json", "nope"]) == 3
