"""What `evctl serving` says serves: the ledger's live release, unless the service was left with another one."""

from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest

from evctl.cli import run
from evctl.rollout import promotion
from evctl.rollout.ledger import Ledger, Release
from evctl.rollout.serving.base import Serving

GOOD = Release(25, "v2-b", "s3://m/2/", "b", None, "live", "2026-11-28T08:11:10Z", "ada")
FAILED = replace(GOOD, revision=26, model="v1-a", uri="s3://m/1/", digest="a", status="failed")
SERVES = Serving("serving", "a", "v1-a", "s3://m/1/", "http://it", extra={"rolling": False})


def left(monkeypatch: pytest.MonkeyPatch, now: Serving) -> None:
    ledger = SimpleNamespace(read=lambda: (Ledger((GOOD, FAILED), 26), "7"))
    world = SimpleNamespace(read=lambda: now, ledger=lambda: ledger)
    monkeypatch.setattr(promotion, "open_world", lambda target: world)


def test_a_release_that_failed_and_was_not_taken_back_is_named_where_it_serves(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    left(monkeypatch, SERVES)
    assert run(["serving", "--env", "local", "-o", "json"]) == 0
    told = json.loads(capfd.readouterr().out)
    assert (told["model"], told["revision"], told["digest"]) == ("v1-a", 26, "a")
    assert run(["serving", "--env", "local"]) == 0
    lines = capfd.readouterr().out.splitlines()
    assert lines[0].endswith(
        ": serving, v1-a (revision 26, v1-a, failed and could not be taken back; v2-b is what should serve)"
    )
    assert lines[-1] == "  next: evctl rollback"


def test_while_its_pods_are_not_ready_the_release_before_it_serves(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    left(monkeypatch, replace(SERVES, detail="0 of 1 new pods ready", extra={"rolling": True}))
    assert run(["serving", "--env", "local", "-o", "json"]) == 0
    told = json.loads(capfd.readouterr().out)
    assert (told["model"], told["revision"], told["digest"]) == ("v2-b", 25, "b")
    assert told["detail"].startswith("revision 26, v1-a, failed and could not be taken back")


def test_a_service_that_has_what_is_live_in_the_ledger_is_told_without_more(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    left(monkeypatch, replace(SERVES, digest="b", version="v2-b"))
    assert run(["serving", "--env", "local"]) == 0
    assert "taken back" not in capfd.readouterr().out


def test_the_help_says_that_start_is_for_a_clusters_service_too(capfd: pytest.CaptureFixture[str]) -> None:
    assert run(["serving", "--help"]) == 0
    told = " ".join(capfd.readouterr().out.split())
    assert (
        "start brings the live release up again, proved, here or on a cluster; stop is for the local service." in told
    )
