"""Show a run while it goes: a live tree on a terminal, one line a change elsewhere. All on stderr."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from evctl.backends.base import TERMINAL_TASK_STATES, Run, TaskState, TaskStatus
from evctl.output import clean, is_terminal, say
from evctl.views import STYLES, header, progress, task_lines, verdict_lines

if TYPE_CHECKING:
    from rich.console import Group

News = tuple[str, int, str | None]
UNTOLD: News = (TaskState.PENDING, 1, None)


def show(snapshots: Iterable[Run]) -> Run:
    """Render snapshots of a run as they come; return the last one."""
    return _live(snapshots) if is_terminal(sys.stderr) else _lines(snapshots)


def _lines(snapshots: Iterable[Run]) -> Run:
    told: dict[tuple[str, ...], News] = {}
    warned: set[str] = set()
    last: Run | None = None
    for run in snapshots:
        if last is None:
            say(clean(header(run)))
            if run.url:
                say(clean(run.url))
        for task, line in task_lines(run):
            key, now = (*task.path, task.name), _news(run, task)
            before = told.get(key, UNTOLD)
            if before == now or before[0] in TERMINAL_TASK_STATES:
                continue
            told[key] = now
            say(clean(line))
        for warning in (each for each in run.warnings if each not in warned):
            warned.add(warning)
            say(clean(f"  warning: {warning}"))
        last = run
    assert last is not None, "a run has at least one snapshot"
    for line in verdict_lines(last):
        say(clean(line))
    return last


def _news(run: Run, task: TaskStatus) -> News:
    """Return what makes a line worth saying again: not a note that changes, nor the first attempt's number."""
    if task.kind != "task":
        return (run.gate.decision, 1, None) if task.kind == "gate" and run.gate.decision != "not_reached" else UNTOLD
    # what keeps a task from starting is news; that an image is asked for again, and refused again, is none
    held = (task.reason or "").partition(":")[0] if task.state is TaskState.PENDING else None
    return (task.state, max(1, task.attempts), "ImagePullBackOff" if held == "ErrImagePull" else held or None)


def _live(snapshots: Iterable[Run]) -> Run:
    from rich.console import Console
    from rich.live import Live

    console = Console(stderr=True, highlight=False, force_terminal=True)
    last: Run | None = None
    with Live(console=console, refresh_per_second=8, transient=False) as live:
        for run in snapshots:
            live.update(_tree(run), refresh=True)
            last = run
    assert last is not None, "a run has at least one snapshot"
    for line in verdict_lines(last):
        console.print(clean(line), markup=False, style="bold", soft_wrap=True)
    return last


def _tree(run: Run) -> Group:
    from rich.console import Group
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    share, words = progress(run, datetime.now(UTC))
    lines = [
        Text(clean(line), style=STYLES[task.state], no_wrap=True, overflow="ellipsis") for task, line in task_lines(run)
    ]
    # a bar alone ends no line
    bar = Table.grid()
    bar.add_row(ProgressBar(total=1.0, completed=share, width=40), Text(f"  {words}"))
    hint = Text(f"Ctrl-C leaves it running; evctl status {run.run_id[:8]} finds it again.", style="dim")
    where = [Text(clean(run.url), style="dim")] if run.url else []
    said = [Text(clean(f"  warning: {warning}"), style="yellow") for warning in run.warnings]
    top = Text(clean(header(run)), style="bold")
    return Group(top, *where, *lines, *said, *(() if run.finished else (bar, hint)))
