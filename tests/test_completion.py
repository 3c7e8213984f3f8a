"""Completion: what a TAB offers, in the shells themselves, in a blink, without touching the state folder."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import typer

from evctl.cli import VERBS
from evctl.completion import SHELLS, _parse, complete
from evctl.index import IndexEntry, RunIndex
from tests import needs

BIN = Path(sys.executable).parent


def offered(*words: str) -> list[str]:
    return [word for word, _ in complete(words, VERBS)]


@pytest.fixture
def two_runs(stranger: Path) -> tuple[str, str]:
    for at, run_id in enumerate(("aaaa1111bbbb2222", "cccc3333dddd4444")):
        RunIndex().add(IndexEntry(run_id, "local", "local", f"run {at}", float(at), "SUCCEEDED"))
    return "aaaa1111bbbb2222", "cccc3333dddd4444"


def test_the_first_word_is_a_verb_or_a_family() -> None:
    assert {"run", "runs", "rollback", "retry", "report"} == set(offered("r"))
    assert offered("profile", "") == ["list", "show", "check"]


@pytest.mark.parametrize("verb", sorted(VERBS))
def test_the_options_offered_are_those_the_verb_takes(verb: str) -> None:
    module, function = VERBS[verb][1].split(":")
    app = typer.Typer(add_completion=False)
    app.command()(getattr(importlib.import_module(f"evctl.commands.{module}"), function))
    parameters = typer.main.get_command(app).params
    taken = {name for p in parameters if p.param_type_name == "option" for name in p.opts}
    known = _parse(VERBS[verb][1])
    assert set(known.options) - {"--help"} == taken
    valued = {name for p in parameters if p.param_type_name == "option" and not p.is_flag for name in p.opts}
    assert {name for name, (takes, _) in known.options.items() if takes} == valued
    assert len(known.arguments) == sum(p.param_type_name == "argument" for p in parameters)


def test_runs_are_offered_newest_first_with_their_names(two_runs: tuple[str, str]) -> None:
    assert offered("status", "") == ["@latest", "@last-good", two_runs[1], two_runs[0]]
    assert offered("status", "-o", "json", "aa") == [two_runs[0]]
    assert offered("compare", two_runs[0], "cc") == [two_runs[1]]
    assert offered("status", two_runs[0], "") == []


def test_profiles_formats_and_tasks_are_offered() -> None:
    assert offered("run", "--env", "") == ["dev", "local", "prod", "qa"]
    assert offered("profile", "show", "p") == ["prod"]
    assert offered("status", "-o", "j") == ["json"]
    assert offered("logs", "@latest", "tr") == ["train_fault_classifier"]


def test_without_a_state_folder_nothing_is_made_and_nothing_said(stranger: Path) -> None:
    done = subprocess.run([BIN / "evctl", "__complete", "status", ""], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert not stranger.exists()


def test_a_damaged_index_is_an_empty_answer(stranger: Path) -> None:
    stranger.mkdir()
    (stranger / "state.db").write_bytes(b"no database at all" * 100)
    assert offered("status", "") == ["@latest", "@last-good"]


def test_an_answer_takes_less_than_a_fifth_of_a_second_and_imports_no_verb(two_runs: tuple[str, str]) -> None:
    command = [BIN / "evctl", "__complete", "status", ""]
    took = []
    for _ in range(5):
        start = time.perf_counter()
        said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        took.append(time.perf_counter() - start)
    assert two_runs[0] in said
    assert min(took) < 0.2  # the least of five: the tests beside this one take turns on the same cores


def test_bash_completes_runs(two_runs: tuple[str, str]) -> None:
    script = """source <(evctl completion bash)
COMP_WORDS=(evctl status aa); COMP_CWORD=2; _evctl; printf '%s\\n' "${COMPREPLY[@]}"
COMP_WORDS=(evctl run --env ""); COMP_CWORD=3; _evctl; printf '%s\\n' "${COMPREPLY[@]}"; complete -p evctl"""
    said = in_shell(["bash", "-c", script])
    assert said == [two_runs[0], "dev", "local", "prod", "qa", "complete -o default -F _evctl evctl"]


@needs.command("fish", "fish")
def test_fish_completes_runs(two_runs: tuple[str, str]) -> None:
    said = in_shell(["fish", "-c", "evctl completion fish | source; complete -C 'evctl status aa'"])
    assert said == [f"{two_runs[0]}\trun 0 SUCCEEDED"]


@needs.command("zsh", "zsh")
def test_zsh_takes_the_script_and_knows_the_command(two_runs: tuple[str, str]) -> None:
    script = """autoload -Uz compinit; compinit -u -D; source <(evctl completion zsh); print $_comps[evctl]
_describe() { print -l -- $1 ${(P)2}; }
words=(evctl status aa); CURRENT=3; _evctl"""
    assert in_shell(["zsh", "-f", "-c", script]) == ["_evctl", "evctl", f"{two_runs[0]}:run 0 SUCCEEDED"]


@pytest.mark.parametrize("shell", SHELLS)
def test_each_shell_has_a_script(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    from evctl.cli import run

    assert run(["completion", shell]) == 0
    assert "__complete" in capsys.readouterr().out
    assert run(["completion", "tcsh"]) == 2


def in_shell(command: list[str]) -> list[str]:
    env = {**os.environ, "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"}
    return subprocess.run(command, env=env, capture_output=True, text=True, check=True).stdout.splitlines()
