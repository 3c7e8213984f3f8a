"""What a pipe or a log file gets of a run while it goes."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from evctl.backends.base import Gate, Run, RunState, TaskState, TaskStatus
from evctl.follow import show

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
TRAIN = TaskStatus("train", TaskState.PENDING)
GATE = TaskStatus("condition_1", TaskState.PENDING, kind="gate", note="accuracy >= 0.9")
START = Run("0123456789abcdef", "one", "local", RunState.RUNNING, NOW, tasks=(TRAIN, GATE))


def lines(capsys: pytest.CaptureFixture[str], *snapshots: Run) -> list[str]:
    show(snapshots)
    told = capsys.readouterr()
    assert not told.out
    return told.err.splitlines()[1:]


def test_a_state_is_told_once_however_often_it_is_seen(capsys: pytest.CaptureFixture[str]) -> None:
    running = replace(TRAIN, state=TaskState.RUNNING, started_at=NOW)
    seen = [replace(START, tasks=(task, GATE)) for task in (TRAIN, running, replace(running, attempts=1), running)]
    assert len([line for line in lines(capsys, START, *seen) if "train" in line]) == 1


def test_a_second_attempt_is_news(capsys: pytest.CaptureFixture[str]) -> None:
    running = replace(TRAIN, state=TaskState.RUNNING, started_at=NOW, attempts=1, max_attempts=4)
    seen = [replace(START, tasks=(replace(running, attempts=n), GATE)) for n in (1, 1, 2, 2)]
    told = [line for line in lines(capsys, *seen) if "train" in line]
    assert len(told) == 2
    assert told[1].endswith("attempt 2 of 4")


@pytest.mark.parametrize("decision", ["passed", "refused"])
def test_a_gate_is_told_when_it_has_decided_and_not_before(decision: str, capsys: pytest.CaptureFixture[str]) -> None:
    decided = replace(START, gate=Gate(decision, 0.95, 0.9))  # type: ignore[arg-type]
    told = lines(capsys, START, START, decided, decided)
    assert [line.split() for line in told] == [["◇", "gate", "accuracy", ">=", "0.9", decision]]
