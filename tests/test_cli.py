"""The command line: exit codes, the error boundary, and stdout for results only."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from evctl.cli import EXIT_CODES, VERBS, run


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
        assert "Traceback" not in err
    else:
        json.loads(out)


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
        "store: {uri: /tmp/x}\nbackand: local\n": ("x.yaml:2", "backand"),
        "store: {uri: /tmp/x}\naccuracy_threshold: high\n": ("x.yaml:2", "accuracy_threshold"),
        "store: {uri: /tmp/x}\nsteps:\n  train_fault_classifier: {memory: 8Gigs}\n": ("x.yaml:3", "memory"),
        "store: {uri: '${NOT_SET_ANYWHERE}'}\n": ("x.yaml:1", "NOT_SET_ANYWHERE"),
        "store: {uri: /a}\nstore: {uri: /b}\n": ("x.yaml:2", "stands twice"),
        "store: [\n": ("x.yaml:2", "not YAML"),
        "store: {uri: /a}\nnotify:\n  password: hunter2\n": ("x.yaml:3", "secret"),
    }
    for text, said in cases.items():
        (tmp_path / "x.yaml").write_text(text)
        assert run(["profile", "check", "x"]) == 2
        err = capsys.readouterr().err
        assert all(part in err for part in said), err
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
