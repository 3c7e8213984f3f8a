"""How long tasks took before: what the live progress goes by."""

from __future__ import annotations

from typing import Any

import pytest

from evctl.backends.local.expected import expected_seconds
from tests.local.conftest import Engine


def record(state: str = "SUCCEEDED", **tasks: tuple[str, float]) -> dict[str, Any]:
    entries = {n: {"state": s, "started_at": 10.0, "finished_at": 10.0 + took} for n, (s, took) in tasks.items()}
    return {"state": state, "tasks": entries}


def test_the_newest_good_run_in_which_the_task_really_ran_says_how_long_it_takes() -> None:
    records = [
        record("FAILED", a=("SUCCEEDED", 99)),
        record(a=("CACHED", 0), b=("SUCCEEDED", 2)),
        record(a=("SUCCEEDED", 7), b=("SUCCEEDED", 3)),
    ]
    assert expected_seconds(records) == {"a": 7, "b": 2}


def test_there_is_nothing_to_expect_without_a_good_run() -> None:
    assert expected_seconds([record("CANCELED", a=("SUCCEEDED", 1))]) == {}


def test_runs_long_ago_are_not_asked() -> None:
    assert expected_seconds([record()] * 5 + [record(a=("SUCCEEDED", 1))]) == {}


@pytest.mark.local
def test_a_run_knows_what_the_last_good_one_took(engine: Engine) -> None:
    first = engine.run("0.9")
    took = next(task.duration_s for task in first.tasks if task.name == "step")
    second = engine.run("0.9")
    step = next(task for task in second.tasks if task.name == "step")
    assert step.expected_s == pytest.approx(took, abs=0.01)
    assert all(task.expected_s is None for task in first.tasks)
