"""What people read: how far a run is."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

from evctl.backends.base import RegisteredModel, Run, RunState, TaskState, TaskStatus
from evctl.views import progress, run_lines

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)


def a_run(*tasks: TaskStatus) -> Run:
    return Run("0123456789abcdef", "one", "local", RunState.RUNNING, NOW, tasks=tasks)


def task(name: str, state: TaskState, expected_s: float | None = None, ran_s: float | None = None) -> TaskStatus:
    started = None if ran_s is None else NOW - timedelta(seconds=ran_s)
    return TaskStatus(name, state, started_at=started, expected_s=expected_s)


def test_without_earlier_runs_tasks_are_counted() -> None:
    run = a_run(task("a", TaskState.SUCCEEDED), task("b", TaskState.RUNNING, ran_s=5), task("c", TaskState.PENDING))
    assert progress(run, NOW) == (1 / 3, "1 of 3")


def test_with_them_a_task_counts_for_what_it_took_before() -> None:
    run = a_run(task("a", TaskState.CACHED, 10), task("b", TaskState.RUNNING, 30, 15), task("c", TaskState.PENDING, 10))
    assert progress(run, NOW) == (0.5, "1 of 3, about 0:25 left")


def test_a_task_slower_than_ever_never_fills_the_bar() -> None:
    share, words = progress(a_run(task("a", TaskState.RUNNING, 10, 500)), NOW)
    assert (share, words) == (0.95, "0 of 1, about 0:01 left")


def test_an_empty_tree_is_no_division_by_nothing() -> None:
    assert progress(a_run(), NOW) == (0.0, "0 of 0")


def test_a_name_with_control_characters_is_left_to_the_output_to_clean() -> None:
    from evctl.output import clean

    assert "\x1b" not in clean("\n".join(run_lines(a_run(task("a\x1b[2J", TaskState.PENDING)))))


def test_a_model_registered_by_a_run_that_failed_later_is_promoted_next_not_trained_again() -> None:
    failed = replace(a_run(), state=RunState.FAILED, finished_at=NOW, reason="deploy: worse than the live one")
    assert "evctl retry 01234567" in list(run_lines(failed))[-1]
    assert "evctl promote 01234567" in list(run_lines(replace(failed, model=RegisteredModel("v1-a", "s3://x/"))))[-1]
