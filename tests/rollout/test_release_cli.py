"""The release verbs as scripts use them: JSON on stdout and nothing else, errors as JSON on stderr, exit codes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest

from evctl.backends.base import Gate, RegisteredModel, Run, RunState
from evctl.cli import run
from evctl.rollout.registry import Published, publish
from evctl.rollout.serving.local import LocalWorld
from evctl.rollout.target import ServiceTarget

REPO = Path(__file__).parents[2]
SESSIONS = REPO / "examples" / "session.csv"
PROFILE = """
backend: local
deploy: manual
store: {uri: "${EVCTL_HOME}/store"}
image: {mode: prebuilt, name: python-local}
"""


class Shell:
    """Runs command lines in this process; every result and every error is held to the contract."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    def __call__(self, *line: str, code: int = 0) -> Any:
        self._capsys.readouterr()
        got = run([*line, "-o", "json"])
        said = self._capsys.readouterr()
        assert got == code, said.err
        if said.out:
            return json.loads(said.out)
        assert code, "a success says something"
        error = json.loads(said.err.splitlines()[-1])["error"]
        assert set(error) == {"code", "message", "hint"}
        assert "Traceback" not in said.err
        return error


@pytest.fixture
def shell(
    tmp_path: Path, stranger: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Shell]:
    folder = tmp_path / "profiles"
    folder.mkdir()
    (folder / "local.yaml").write_text(PROFILE)
    (folder / "asks.yaml").write_text(PROFILE + "confirm: true\n")
    remote = 'backend: local\nstore: {uri: "s3://bucket/x", endpoint: "http://127.0.0.1:9"}\n'
    (folder / "remote.yaml").write_text(remote + "image: {mode: prebuilt, name: python-local}\n")
    monkeypatch.setenv("EVCTL_PROFILES", str(folder))
    monkeypatch.setenv("EVCTL_USER", "ada")
    yield Shell(capsys)
    run(["serving", "stop", "-q"])


@pytest.fixture
def registered(shell: Shell, stranger: Path, bundles: dict[str, Path]) -> dict[str, Published]:
    return {name: publish(folder, {"uri": str(stranger / "store")}) for name, folder in bundles.items()}


def stored(stranger: Path, model: Published) -> Path:
    return stranger / "store" / "models" / model.name / model.version


@pytest.mark.slow
@pytest.mark.local
def test_the_life_of_a_release_through_the_command(
    shell: Shell, registered: dict[str, Published], stranger: Path
) -> None:
    a, b = registered["a"], registered["b"]
    first = shell("promote", a.version)
    assert first == {
        "changed": True,
        "revision": 1,
        "model": a.version,
        "previous": None,
        "verified": {"version": a.version, "digest": a.digest, "golden": True, "percent": 100},
        "duration_s": first["duration_s"],
    }
    again = shell("promote", a.uri)
    assert (again["changed"], again["revision"], again["previous"]) == (False, 1, a.version)
    assert shell("promote", b.digest)["previous"] == a.version
    back = shell("rollback")
    assert (back["model"], back["previous"], back["revision"]) == (a.version, b.version, 3)
    assert shell("rollback", code=5)["message"] == "there is no older good release to roll back to"
    assert shell("rollback", "--to", "2")["model"] == b.version
    assert shell("rollback", "--to", "99", code=3)["code"] == "not_found"
    told = shell("history")["releases"]
    assert [(each["revision"], each["status"], each["by"], each["reason"]) for each in told] == [
        (4, "live", "ada", "rollback to revision 2"),
        (3, "rolled_back", "ada", "rollback to revision 1"),
        (2, "rolled_back", "ada", ""),
        (1, "superseded", "ada", ""),
    ]
    assert set(told[0]) == {"revision", "model", "digest", "run_id", "status", "at", "by", "reason"}
    serving = shell("serving")
    assert (serving["state"], serving["model"], serving["revision"]) == ("serving", b.version, 4)
    answer = shell("predict", str(SESSIONS))
    assert answer["model"] == {"version": b.version, "digest": b.digest}
    assert len(answer["sessions"]) == pd.read_csv(SESSIONS).session_id.nunique()
    assert abs(sum(answer["sessions"][0]["probabilities"].values()) - 1) < 1e-9
    for damage, told_by in (("flipped byte", "not the file"), ("emptied", "no finished model"), ("other", "1.5.2")):
        damaged = stored(stranger, registered["worse"])
        kept = {file.name: file.read_bytes() for file in damaged.iterdir()}
        if damage == "flipped byte":
            content = bytearray(kept["model.joblib"])
            content[len(content) // 2] ^= 1
            (damaged / "model.joblib").write_bytes(content)
        elif damage == "emptied":
            (damaged / "manifest.json").unlink()
        else:
            document = json.loads(kept["manifest.json"])
            document["versions"]["scikit-learn"] = "1.5.2"
            (damaged / "manifest.json").write_text(json.dumps(document))
        for reference in (registered["worse"].version, registered["worse"].uri):
            error = shell("promote", reference, "--override-champion", "a test", code=5)
            assert error["code"] == "refused"
            assert told_by in error["message"]
        assert shell("predict", str(SESSIONS))["model"]["version"] == b.version
        for name, content in kept.items():
            (damaged / name).write_bytes(content)
    refused = shell("promote", registered["worse"].version, code=5)
    assert "recall 0.500 is 0.410 below the live model's 0.910" in refused["message"]
    assert "--override-champion" in refused["hint"]
    shell("promote", registered["worse"].version, "--override-champion", "labels were wrong")
    assert shell("history")["releases"][0]["reason"].startswith("champion overridden: labels were wrong (recall 0.500")
    assert shell("serving", "stop")["state"] == "stopped"
    assert shell("serving", code=9)["state"] == "stopped"
    assert shell("predict", str(SESSIONS), code=9)["hint"] == "evctl serving start, or evctl promote"
    assert shell("serving", "start")["url"] == serving["url"]
    assert shell("models", "list")["models"][0]["metrics"]["recall"] == 0.9


def test_models_are_shown_by_any_unambiguous_beginning(shell: Shell, registered: dict[str, Published]) -> None:
    assert [each["version"] for each in shell("models", "list")["models"]] == sorted(
        each.version for each in registered.values()
    )
    a = registered["a"]
    for reference in (a.version, a.version[:5], a.digest, a.digest[:10]):
        assert shell("models", "show", reference)["digest"] == a.digest
    assert "is the beginning of 3 models" in shell("models", "show", "v", code=2)["message"]
    assert shell("models", "show", "nope", code=3)["hint"] == "evctl models list"


def test_before_the_first_release_every_verb_says_what_is_next(shell: Shell, registered: dict[str, Published]) -> None:
    assert shell("history") == {"releases": []}
    assert shell("serving", code=9)["state"] == "absent"
    assert shell("serving", "start", code=3)["hint"] == "evctl promote"
    assert shell("rollback", code=5)["code"] == "refused"
    assert shell("predict", str(SESSIONS), code=9)["message"].endswith("is absent")
    assert shell("promote", code=3)["code"] == "not_found"
    assert shell("promote", "v9-nothing", code=3)["message"] == "no run and no model 'v9-nothing'"
    assert "not in the store" in shell("promote", "s3://elsewhere/models/x/y/", code=5)["message"]
    assert (
        "canary needs a traffic split" in shell("promote", registered["a"].version, "--canary", "10", code=5)["message"]
    )
    assert shell("promote", registered["a"].version, "--canary", "0", code=2)["code"] == "usage"
    assert shell("history") == {"releases": []}


def test_a_model_that_was_never_finished_is_refused(
    shell: Shell, registered: dict[str, Published], stranger: Path
) -> None:
    (stored(stranger, registered["a"]) / "manifest.json").unlink()
    error = shell("promote", registered["a"].version, code=5)
    assert "no finished model: its upload was cut short" in error["message"]
    assert registered["a"].version not in [each["version"] for each in shell("models", "list")["models"]]


@pytest.mark.parametrize(
    ("state", "gate", "model", "told"),
    [
        (RunState.RUNNING, Gate("passed"), True, "has not finished"),
        (RunState.SUCCEEDED, Gate("refused", 0.8, 0.9, ("accuracy 0.800 < 0.900",)), False, "accuracy 0.800 < 0.900"),
        (RunState.FAILED, Gate(), False, "registered no model"),
        (RunState.CANCELED, Gate(), False, "registered no model"),
    ],
)
def test_a_run_whose_model_may_not_serve_is_refused_by_run_and_by_model(
    state: RunState,
    gate: Gate,
    model: bool,
    told: str,
    shell: Shell,
    registered: dict[str, Published],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from evctl.commands import resolve
    from evctl.index import IndexEntry, RunIndex

    a = registered["a"]
    made = Run(
        "run-v1", "n", "local", state, datetime.now(UTC), gate=gate,
        model=RegisteredModel(a.version, a.uri) if model else None,
    )  # fmt: skip
    backend = SimpleNamespace(get=lambda run_id: made)
    RunIndex().add(IndexEntry("run-v1", "local", "local", "n", time.time()))
    monkeypatch.setattr("evctl.commands.resolve.get_backend", lambda profile: backend)
    assert resolve.run("run-v1", None).backend is backend
    for reference in ("run-v1", a.version, a.uri):
        error = shell("promote", reference, "--yes", code=5)
        assert (error["code"], told in error["message"]) == ("refused", True), error
    assert shell("history") == {"releases": []}


def test_somebody_elses_promotion_is_exit_6(shell: Shell, registered: dict[str, Published], stranger: Path) -> None:
    target = ServiceTarget("ev-battery-fault-classifier", "local", "local", {"uri": str(stranger / "store")})
    lease = LocalWorld(target).lease("grace")
    lease.acquire()
    for line in (("promote", registered["a"].version), ("rollback",), ("serving", "start")):
        error = shell(*line, code=6)
        assert error["code"] == "conflict"
        assert "grace" in error["message"]
        assert f"holds until {datetime.now(UTC):%Y}-" in error["message"]
    lease.release()


def test_a_store_without_credentials_or_without_an_answer(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    for line in (("models", "list"), ("promote", "v1-x"), ("promote", "s3://bucket/x/models/m/v/")):
        error = shell(*line, "--env", "remote", code=4)
        assert "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY not set" in error["message"]
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "somebody")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "never-shown")
    start = time.monotonic()
    error = shell("models", "list", "--env", "remote", code=9)
    assert time.monotonic() - start < 6
    assert "never-shown" not in json.dumps(error)


def test_a_profile_that_asks_needs_yes_without_a_terminal(shell: Shell, registered: dict[str, Published]) -> None:
    for line in (("promote", registered["a"].version), ("rollback",)):
        error = shell(*line, "--env", "asks", code=5)
        assert error["hint"] == "the same command with --yes"


INTERRUPT = b"ctrl-c"


def typed(answer: bytes, *line: str) -> tuple[int, str]:
    """Run evctl with a terminal as its stdin and type an answer once asked. Returns the exit code and stderr."""
    ours, theirs = os.openpty()
    with subprocess.Popen(
        [sys.executable, "-m", "evctl", *line], stdin=theirs, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        os.close(theirs)
        assert process.stderr
        said = b""
        while b"[y/N]" not in said:
            byte = process.stderr.read(1)
            assert byte, said.decode()
            said += byte
        if answer == INTERRUPT:
            process.send_signal(signal.SIGINT)
        else:
            os.write(ours, answer)
        said += process.stderr.read()
        code = process.wait(60)
    os.close(ours)
    return code, said.decode()


def test_a_profile_that_asks_asks_on_a_terminal(shell: Shell, registered: dict[str, Published]) -> None:
    line = ("promote", registered["a"].version, "--env", "asks")
    for answer in (b"n\n", b"\n", b"\x04"):
        code, said = typed(answer, *line)
        assert code == 5
        assert f"promote {registered['a'].uri} to ev-battery-fault-classifier in asks? [y/N]" in said
        assert "not confirmed; nothing was changed" in said
    assert typed(INTERRUPT, *line)[0] == 130
    assert shell("history", "--env", "asks") == {"releases": []}
    code, said = typed(b"yes\n", "rollback", "--env", "asks")
    assert (code, "no older good release" in said) == (5, True)


def columns(change: Any) -> Any:
    def made(file: Path) -> None:
        frame = pd.read_csv(SESSIONS)
        change(frame).to_csv(file, index=False)

    return made


BAD_FILES = {
    "empty.csv": (lambda file: file.write_bytes(b""), 2, "is no telemetry"),
    "garbage.csv": (lambda file: file.write_bytes(b"\xff\xfe\x00\x01" * 50), 2, "garbage.csv"),
    "garbage.parquet": (lambda file: file.write_bytes(b"PAR1nonsense"), 2, "is no telemetry"),
    "head.csv": (columns(lambda frame: frame.head(0)), 2, "no rows"),
    "lacks.csv": (columns(lambda frame: frame.drop(columns="soc_pct")), 2, "soc_pct"),
    "text.csv": (columns(lambda frame: frame.assign(soc_pct="much")), 2, "another type"),
    "time.csv": (columns(lambda frame: frame.assign(timestamp="yesterday")), 2, "is no telemetry"),
    "folder.csv": (lambda file: file.mkdir(), 3, "is a folder"),
    "missing.csv": (lambda file: None, 3, "does not exist"),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_a_file_that_is_no_telemetry_is_told_as_such(name: str, shell: Shell, tmp_path: Path) -> None:
    make, code, told = BAD_FILES[name]
    make(tmp_path / name)
    error = shell("predict", str(tmp_path / name), code=code)
    assert name in error["message"]
    assert told in error["message"]
