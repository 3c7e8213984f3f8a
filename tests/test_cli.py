"""The command line: exit codes, the error boundary, and stdout for results only."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from evctl.cli import EXIT_CODES, VERBS, run
from evctl.errors import EvctlError, NotAllowedError, UnavailableError, UsageError


def test_help_lists_every_verb_and_the_exit_codes(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--help"]) == 0
    shown = capsys.readouterr().out
    assert all(verb in shown for verb in VERBS)
    assert EXIT_CODES in shown


@pytest.mark.parametrize(
    ("line", "code"),
    [
        (["status"], 3),
        (["status", "nope"], 3),
        (["run", "--accuracy-threshold", "high"], 2),
        (["run", "--accuracy-threshold", "7"], 2),
        (["run", "--data-version", "v9"], 2),
        (["run", "--param", "nope=1"], 2),
        (["run", "--timeout", "-1"], 2),
        (["run", "--run-id-file", "/nowhere/at/all"], 2),
        (["--env", "dev"], 2),
        (["run", "--param", "pair"], 2),
        (["predict", "/nowhere.csv"], 3),
        (["run", "--nope"], 2),
        (["run", "--env", "nope"], 3),
        (["run", "--env", "prod"], 5),
        (["runs", "--env", "dev"], 9),
        (["rnus"], 2),
        (["profile"], 2),
        (["secrets", "apply"], 2),
        (["runs"], 0),
        (["experiments"], 0),
    ],
)
def test_each_outcome_has_its_exit_code_and_one_json_error_on_stderr(
    line: list[str], code: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run([*line, "-o", "json"]) == code
    out, err = capsys.readouterr()
    if code:
        assert out == ""
        error = json.loads(err.splitlines()[-1])["error"]
        assert set(error) == {"code", "message", "hint"}
        assert error["hint"], "an error says what to type next"
        assert "Traceback" not in err
    else:
        json.loads(out)


@pytest.mark.parametrize(("line", "code"), [([], 2), (["--help"], 0), (["-h"], 0), (["help"], 0)])
def test_evctl_alone_shows_its_verbs(line: list[str], code: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(line) == code
    assert "usage: evctl VERB" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("error", "line", "hint"),
    [
        (UnavailableError("away"), ["runs", "--env", "local"], "evctl doctor --env local"),
        (NotAllowedError("no"), ["runs"], "evctl doctor"),
        (UsageError("odd"), ["runs"], "evctl runs --help"),
    ],
)
def test_an_error_that_names_no_next_command_gets_the_usual_one(
    error: EvctlError,
    line: list[str],
    hint: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def broken(*_: object) -> None:
        raise error

    monkeypatch.setattr("evctl.commands.resolve.profile", broken)
    assert run(line) == error.exit_code
    assert capsys.readouterr().err.splitlines()[-1] == f"  next: {hint}"


def test_a_near_verb_is_suggested(capsys: pytest.CaptureFixture[str]) -> None:
    run(["statsu"])
    assert "evctl status" in capsys.readouterr().err


def test_a_bug_is_70_without_a_traceback(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("oops")

    monkeypatch.setattr("evctl.commands.resolve.profile", broken)
    assert run(["runs"]) == 70
    assert "--debug" in capsys.readouterr().err
    with pytest.raises(ZeroDivisionError):
        run(["runs", "--debug"])


def evctl(*line: str, **more: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "evctl", *line], capture_output=True, text=True, **more)


def on_a_terminal(*line: str, **env: str) -> str:
    """Run evctl with a terminal as its stdout; return what the terminal got."""
    ours, theirs = os.openpty()
    with (
        open(ours, "rb", buffering=0) as screen,
        subprocess.Popen(
            [sys.executable, "-m", "evctl", *line],
            stdout=theirs,
            stderr=theirs,
            env={**os.environ, "TERM": "xterm", **env},
        ),
    ):
        os.close(theirs)
        shown = b""
        with contextlib.suppress(OSError):
            while chunk := screen.read(4096):
                shown += chunk
    return shown.decode()


def test_a_reader_that_has_gone_ends_it_quietly_with_141() -> None:
    line = f"{sys.executable} -m evctl help json | (exec 0<&-; sleep 3); echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True)
    assert done.stdout == "141\n"
    assert done.stderr == ""


def test_a_full_disk_under_stdout_is_told_without_a_traceback() -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run([sys.executable, "-m", "evctl", "--help"], stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 9
    assert "disk is full" in done.stderr and "Traceback" not in done.stderr


def test_colour_is_for_a_terminal_and_nobody_who_said_no() -> None:
    assert "\x1b[" in on_a_terminal("doctor")
    assert "\x1b[" not in on_a_terminal("doctor", "--no-color")
    assert "\x1b[" not in on_a_terminal("doctor", NO_COLOR="1")
    assert "\x1b[" not in on_a_terminal("doctor", TERM="dumb")
    assert "\x1b[" not in evctl("doctor").stdout


def test_a_wrong_value_lists_the_right_ones() -> None:
    done = evctl("runs", "-o", "nope")
    assert done.returncode == 2
    assert "'table', 'json', 'yaml', 'name'" in done.stderr
    assert "Value error" not in done.stderr


def test_a_bad_profile_is_listed_with_what_is_wrong_and_hides_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("EVCTL_PROFILES", str(tmp_path))
    (tmp_path / "bad.yaml").write_text("backand: local\n")
    (tmp_path / "good.yaml").write_text("store: {uri: /tmp/x}\n")
    assert run(["profile", "list", "-o", "json"]) == 0
    bad, good = json.loads(capsys.readouterr().out)["profiles"]
    assert "backand" in bad["error"] and good["error"] is None
    assert run(["profile", "check"]) == 2
    assert "bad.yaml" in capsys.readouterr().err
    assert run(["profile", "check", "--env", "good"]) == 0


def test_what_a_variable_holds_is_not_quoted_in_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("EVCTL_PROFILES", str(tmp_path))
    monkeypatch.setenv("HELD", "hunter2")
    (tmp_path / "x.yaml").write_text("store: {uri: /tmp/x}\naccuracy_threshold: ${HELD}\n")
    assert run(["profile", "check", "x"]) == 2
    err = capsys.readouterr().err
    assert "accuracy_threshold" in err and "x.yaml:2" in err
    assert "hunter2" not in err


HEAVY = {
    "kfp",
    "kubernetes",
    "pandas",
    "sklearn",
    "scipy",
    "kserve",
    "pyarrow",
    "obstore",
    "apprise",
    "grpc",
    "matplotlib",
}


def test_a_tasks_name_in_a_runs_place_is_told_what_to_type(stranger: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["logs", "train-fault-classifier"]) == 3
    assert "next: evctl logs @latest train-fault-classifier" in capsys.readouterr().err


@pytest.mark.parametrize(
    "line",
    [
        ["--help"],
        ["runs"],
        ["status", "nope"],
        ["profile", "list"],
        ["logs", "nope"],
        ["secrets", "list"],
        ["cancel", "nope"],
        ["retry", "nope"],
        ["outputs", "nope"],
        ["history"],
        ["secrets", "list"],
        ["experiments"],
        ["completion", "bash"],
        ["help", "json"],
        ["help", "exit-codes"],
        ["profile", "show"],
        ["profile", "check"],
        ["compare", "a", "b"],
        ["report", "nope"],
        ["rollback"],
        ["schedule", "list"],
    ],
)
def test_a_verb_that_reads_imports_nothing_heavy(line: list[str], stranger: Path) -> None:
    code = f"import sys; from evctl.cli import run; run({line!r}); print(sorted({HEAVY!r} & set(sys.modules)), file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.splitlines()[-1] == "[]"


def test_profile_errors_name_file_key_and_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("EVCTL_PROFILES", str(tmp_path))
    cases = {
        "store: {uri: /a}\nnotify:\n  password: hunter2\n": ("x.yaml:3", "secret"),
        "store: {uri: /tmp/x}\nbackand: local\n": ("x.yaml:2", "backand"),
        "store: {uri: /tmp/x}\naccuracy_threshold: high\n": ("x.yaml:2", "accuracy_threshold"),
        "store: {uri: /tmp/x}\nsteps:\n  train_fault_classifier: {memory: 8Gigs}\n": ("x.yaml:3", "memory", "like 8Gi"),
        "store: {uri: /tmp/x}\nsteps:\n  train_fault_clasifier: {memory: 8Gi}\n": (
            "x.yaml:3",
            "unknown key steps.train_fault_clasifier",
            "did you mean train_fault_classifier?",
        ),
        "store: {uri: /tmp/x}\nsecrets:\n- {name: s, tasks: [train]}\n": ("x.yaml:3", "no task has this name"),
        "store: {uri: /tmp/x}\ncolour: blue\n": ("x.yaml:2", "known here: name, description"),
        "store: {uri: '${NOT_SET_ANYWHERE}'}\n": ("x.yaml:1", "NOT_SET_ANYWHERE"),
        "store: {uri: /a}\nstore: {uri: /b}\n": ("x.yaml:2", "stands twice"),
        "store: [\n": ("x.yaml:2", "not YAML"),
    }
    for text, said in cases.items():
        (tmp_path / "x.yaml").write_text(text)
        assert run(["profile", "check", "x"]) == 2
        err = capsys.readouterr().err
        assert all(part in err for part in said), err
        assert "\n  next: " in err
        assert "Value error" not in err
        assert "hunter2" not in err


def test_secrets_are_kept_private_and_never_shown(
    stranger: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "env").write_text("TELEMETRY_TOKEN=s3cr3t-value\nOTHER='x y'\n")
    apply = ["secrets", "apply", "ev-telemetry-secret", "-f", str(tmp_path / "env"), "-o", "json"]
    assert run(apply) == 0
    assert json.loads(capsys.readouterr().out)["added"] == ["OTHER", "TELEMETRY_TOKEN"]
    kept = stranger / "secrets" / "ev-telemetry-secret" / "TELEMETRY_TOKEN"
    assert kept.read_text() == "s3cr3t-value"
    assert kept.stat().st_mode & 0o777 == 0o600
    assert run(apply) == 0
    assert json.loads(capsys.readouterr().out)["changed"] is False
    run(["secrets", "list"])
    assert "s3cr3t" not in "".join(capsys.readouterr())
