"""Which run is meant where none is named, and whose environment it may be."""

from __future__ import annotations

import json
from typing import Any

import pytest

from evctl.cli import run
from evctl.commands import resolve
from evctl.errors import NotFoundError, UsageError
from evctl.index import IndexEntry, RunIndex

NEWEST = (None, "@latest", "@last-good")


@pytest.fixture(autouse=True)
def engines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resolve, "get_backend", lambda profile: profile.backend)


def started(*runs: tuple[str, str]) -> None:
    """Remember runs, oldest first, each with its environment and a model."""
    for at, (run_id, env) in enumerate(runs):
        backend = "local" if env == "local" else "kubeflow"
        RunIndex().add(IndexEntry(run_id, env, backend, f"run {run_id}", float(at), registered=True))


@pytest.mark.parametrize("reference", NEWEST)
def test_without_an_environment_the_newest_run_is_of_whichever_it_was_started_in_and_that_is_told(
    reference: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    started(("aaaaaaaa1", "local"), ("bbbbbbbb1", "dev"), ("cccccccc1", "qa"), ("dddddddd1", "dev"))
    found = resolve.run(reference, None)
    assert (found.run_id, found.profile.name, found.backend) == ("dddddddd1", "dev", "kubeflow")
    assert capsys.readouterr() == ("", f"{reference or '@latest'} is run dddddddd of dev\n")


@pytest.mark.parametrize("reference", NEWEST)
def test_the_default_environments_newest_is_taken_without_a_word(
    reference: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    started(("bbbbbbbb1", "dev"), ("aaaaaaaa1", "local"))
    for acts in (False, True):
        assert resolve.run(reference, None, acts=acts).run_id == "aaaaaaaa1"
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("reference", NEWEST)
@pytest.mark.parametrize("acts", [False, True])
def test_an_environment_that_is_named_has_the_newest_of_its_own(
    reference: str | None, acts: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    started(("aaaaaaaa1", "local"), ("bbbbbbbb1", "dev"), ("cccccccc1", "qa"))
    assert resolve.run(reference, "dev", acts=acts).run_id == "bbbbbbbb1"
    assert resolve.run(reference, "local", acts=acts).run_id == "aaaaaaaa1"
    monkeypatch.setenv("EVCTL_ENV", "dev")
    assert resolve.run(reference, None, acts=acts).run_id == "bbbbbbbb1"
    assert resolve.run(reference, "qa", acts=acts).run_id == "cccccccc1"
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("reference", NEWEST)
def test_whoever_acts_takes_no_other_environments_run_unasked(
    reference: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    started(("aaaaaaaa1", "local"), ("bbbbbbbb1", "dev"))
    with pytest.raises(UsageError, match=r"is run bbbbbbbb of dev, and no environment is named") as told:
        resolve.run(reference, None, acts=True)
    assert told.value.hint == "the same command with --env dev, or with --env local"
    assert resolve.run("bbbbbbbb", None, acts=True).profile.name == "dev"  # named, it is meant
    assert capsys.readouterr() == ("", "")


def test_where_nothing_was_started_that_is_told_as_before() -> None:
    for acts in (False, True):
        with pytest.raises(NotFoundError, match="no run has been started yet"):
            resolve.run(None, None, acts=acts)


@pytest.mark.parametrize("line", ["cancel @latest", "retry @latest", "promote --yes", "promote @last-good --yes"])
def test_verbs_that_act_ask_which_environment(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    started(("aaaaaaaa1", "local"), ("bbbbbbbb1", "dev"))
    assert run([*line.split(), "-o", "json"]) == 2
    out, err = capsys.readouterr()
    error: dict[str, Any] = json.loads(err)["error"]
    assert (out, error["code"]) == ("", "usage")
    assert "--env dev" in error["hint"]
