"""The logs of a local run's tasks: one file an attempt, read or followed."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path

from evctl.backends.base import LogLine, Run
from evctl.backends.local.folder import RunFolder

POLL_S = 0.3


def log_files(folder: RunFolder, task: str) -> list[tuple[int, Path]]:
    """Return (attempt, file) of a task, in order."""
    found = [(int(path.suffixes[-2].lstrip(".")), path) for path in (folder.path / "logs").glob(f"{task}.*.log")]
    return sorted(found)


def read_logs(folder: RunFolder, task: str, tail: int | None = None) -> Iterator[LogLine]:
    """Yield a task's lines; with `tail` its last ones."""
    lines = _all(folder, task)
    return lines if tail is None else iter(deque(lines, maxlen=tail))


def _all(folder: RunFolder, task: str) -> Iterator[LogLine]:
    for attempt, path in log_files(folder, task):
        with path.open(errors="replace") as file:
            for line in file:
                yield LogLine(task, line.rstrip("\n"), attempt)


def follow_logs(look: Callable[[], Run], folder: RunFolder, task: str) -> Iterator[LogLine]:
    """Yield a task's lines as they come, waiting for its first attempt, until it has ended."""
    seen: dict[int, int] = {}
    while True:
        run = look()
        ended = run.finished or any(t.name == task and t.finished_at is not None for t in run.tasks)
        for attempt, path in log_files(folder, task):
            with path.open("rb") as file:
                file.seek(seen.get(attempt, 0))
                fresh = file.read()
            complete = fresh if ended else fresh[: fresh.rfind(b"\n") + 1]
            seen[attempt] = seen.get(attempt, 0) + len(complete)
            for line in complete.decode(errors="replace").splitlines():
                yield LogLine(task, line, attempt)
        if ended:
            return
        time.sleep(POLL_S)
