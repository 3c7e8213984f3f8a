"""evctl with a standard stream that is closed or takes nothing, and short flags in one word."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from evctl.cli import VERBS, run
from evctl.completion import _parse


def shell(line: str) -> subprocess.CompletedProcess[str]:
    """Run `evctl LINE`, with its redirections, by a shell."""
    return subprocess.run(["bash", "-c", f"{sys.executable} -m evctl {line}"], capture_output=True, text=True)


@pytest.mark.parametrize("line", ["runs", "runs -o json", "--help", "doctor"])
def test_a_closed_stdout_is_one_that_nobody_reads(line: str) -> None:
    closed, away = shell(f"{line} >&-"), shell(f"{line} >/dev/null")
    assert (closed.returncode, closed.stdout) == (away.returncode, "")
    assert closed.stderr == away.stderr


@pytest.mark.parametrize("line", ["status nope", "status nope -o json"])
def test_an_error_that_nobody_can_be_told_is_an_exit_code_and_not_on_stdout(line: str) -> None:
    for stderr in ("2>&-", "2>/dev/full"):
        done = shell(f"{line} {stderr}")
        assert (done.returncode, done.stdout, done.stderr) == (3, "", "")


def test_with_all_streams_closed_no_file_takes_their_place(stranger: Path) -> None:
    # the index, SQLite's file, would be opened as number 0, 1 or 2, and get what is printed
    assert shell("status nope <&- >&- 2>&-").returncode == 3
    assert shell("runs").returncode == 0


def test_a_closed_stdin_is_an_empty_one(stranger: Path) -> None:
    done = shell("secrets apply ev-telemetry-secret -f - <&-")
    empty = shell("secrets apply ev-telemetry-secret -f - </dev/null")
    assert (done.returncode, done.stderr) == (empty.returncode, empty.stderr)


def flags() -> set[str]:
    """Return every short flag that takes no value."""
    known = [_parse(target).options for _, target, _ in VERBS.values()]
    return {name[1] for options in known for name, (value, _) in options.items() if len(name) == 2 and not value} | {
        "h"
    }


@pytest.mark.parametrize("bundle", [f"-{flag}o" for flag in sorted(flags())] + ["-qwo", "-o"])
def test_json_is_asked_for_by_short_flags_in_one_word_too(bundle: str, capsys: pytest.CaptureFixture[str]) -> None:
    for words in ([bundle, "json"], [f"{bundle}json"]):
        assert run(["nope", *words]) == 2
        assert json.loads(capsys.readouterr().err)["error"]["code"] == "usage"


@pytest.mark.parametrize("words", [["-o", "table"], ["-eo", "json"], ["-q", "json"], ["--", "-o", "json"], ["-qo"]])
def test_json_is_not_asked_for_by_a_value_or_an_argument(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["nope", *words]) == 2
    assert capsys.readouterr().err.startswith("error: ")


def test_a_bundle_is_understood_by_the_verb_itself(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["status", "nope", "-qo", "json"]) == 3
    assert json.loads(capsys.readouterr().err)["error"]["code"] == "not_found"
