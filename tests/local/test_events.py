"""`events.jsonl`: what happened, in order, a line each; and a record read back from it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from evctl.backends.base import RunState
from evctl.backends.local.events import EventLog, read_events, record_from
from tests.local.conftest import Engine

REQUEST = {"run_id": "r", "name": "n", "env": "local", "parameters": {}, "created_at": 1.0}


def events_of(engine: Engine, run_id: str) -> list[tuple[str, str | None]]:
    path = engine.backend.home / "runs" / run_id / "events.jsonl"
    return [(event["event"], event.get("task")) for event in read_events(path)]


@pytest.mark.local
def test_a_run_tells_each_start_attempt_and_end_in_order_in_utc(engine: Engine) -> None:
    run = engine.run("0.9")
    assert events_of(engine, run.run_id) == [
        ("run_started", None),
        ("task_started", "step"),
        ("task_attempt", "step"),
        ("task_finished", "step"),
        ("task_started", "inner"),
        ("task_attempt", "inner"),
        ("task_finished", "inner"),
        ("task_started", "last"),
        ("task_attempt", "last"),
        ("task_finished", "last"),
        ("run_finished", None),
    ]
    lines = (engine.backend.home / "runs" / run.run_id / "events.jsonl").read_text().splitlines()
    times = [json.loads(line)["at"] for line in lines]
    assert times == sorted(times)
    assert all(at.endswith("Z") for at in times)


@pytest.mark.local
def test_what_was_cached_kept_by_a_retry_or_cancelled_is_told_as_such(engine: Engine) -> None:
    failed = engine.run("0.9", last="1 / 0 if not len(last) > 9000 else 1")
    engine.backend.retry(failed.run_id)
    engine.wait(failed.run_id, lambda r: ("run_started", None) in events_of(engine, r.run_id)[9:] and r.finished)
    told = events_of(engine, failed.run_id)
    assert ("task_failed", "inner") in told
    assert ("task_kept", "step") in told
    again = engine.run("0.9")
    assert ("task_cached", "step") in events_of(engine, again.run_id)


def test_a_line_that_a_power_cut_left_half_is_no_event_and_spoils_none_after_it(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    EventLog(path).write("run_started")
    with path.open("a") as file:
        file.write('{"at": "2026-11-23T23:18:13.024Z", "event": "task_st')
    EventLog(path).write("run_finished", state="FAILED", reason=None)
    assert [event["event"] for event in read_events(path)] == ["run_started", "run_finished"]
    assert "reason" not in list(read_events(path))[1]


def test_a_record_read_back_has_the_tasks_the_model_and_the_end(tmp_path: Path) -> None:
    log = EventLog(tmp_path / "events.jsonl")
    log.write("run_started")
    log.write("task_started", task="a")
    log.write("task_attempt", task="a", attempt=2)
    log.write("task_finished", task="a")
    log.write("model_registered", model={"version": "v", "uri": "file:///m/"})
    log.write("task_started", task="b")
    log.write("task_failed", task="b", reason="why")
    log.write("run_finished", state="FAILED", reason="b: why")
    record = record_from(REQUEST, log.path)
    assert (record["state"], record["reason"]) == ("FAILED", "b: why")
    assert (record["tasks"]["a"]["state"], record["tasks"]["a"]["attempts"]) == ("SUCCEEDED", 2)
    assert record["failures"] == [["b", "why"]]
    assert record["model"] == {"version": "v", "uri": "file:///m/"}


def test_a_run_that_never_wrote_an_event_reads_back_as_never_begun(tmp_path: Path) -> None:
    assert RunState(record_from(REQUEST, tmp_path / "none")["state"]) is RunState.PENDING
