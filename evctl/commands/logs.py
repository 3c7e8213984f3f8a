"""`evctl logs`: what the tasks printed."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from typing import Annotated

import typer

from ev_pipeline.settings import TASKS
from evctl import lifecycle
from evctl.backends.base import LogLine
from evctl.commands import resolve
from evctl.commands.options import Debug, Env, Format, Output, Quiet, RunRef
from evctl.errors import EvctlError, NotFoundError, UsageError
from evctl.output import clean, emit


def logs(
    run: RunRef = None,
    task: Annotated[
        str | None, typer.Argument(metavar="TASK", help="One task; none is all, in the order of the flow.")
    ] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until it has ended.")] = False,
    tail: Annotated[int | None, typer.Option(min=0, help="The last lines of each task.")] = None,
    failed: Annotated[bool, typer.Option("--failed", help="Only the tasks that failed.")] = False,
    env: Env = None,
    output: Output = Format.table,
    quiet: Quiet = False,
    debug: Debug = False,
) -> int:
    """Print the logs of a run's tasks; `-o json` is one document, with `-f` one a line."""
    if failed and task:
        raise UsageError(
            "--failed and a task do not go together", hint="evctl logs RUN --failed, or evctl logs RUN TASK"
        )
    found = _run(run, task, env)
    names = lifecycle.failed_tasks(found.backend.get(found.run_id)) if failed else [task]
    lines = _each(
        names, lambda name: found.backend.logs(found.run_id, name and name.replace("-", "_"), follow=follow, tail=tail)
    )
    if output is Format.table or output is Format.name or follow:
        _print(lines, alone=task is not None, as_json=output is Format.json, follow=follow)
        return 0
    came, broken = _gathered(lines)
    if came or broken is None:
        emit(came, output, lambda _: (), lambda all_: {"run_id": found.run_id, "lines": [*map(_line, all_)]})
    if broken is not None:
        raise broken
    return 0


def _each(names: Iterable[str | None], read: Callable[[str | None], Iterable[LogLine]]) -> Iterator[LogLine]:
    """Yield the lines of each, whatever became of the one before; raise what went wrong first at the end."""
    wrong: EvctlError | None = None
    for name in names:
        try:
            yield from read(name)
        except EvctlError as error:
            wrong = wrong or error
    if wrong is not None:
        raise wrong


def _gathered(lines: Iterable[LogLine]) -> tuple[list[LogLine], EvctlError | None]:
    """Return the lines, and why there are no more of them."""
    came: list[LogLine] = []
    try:
        came.extend(lines)
    except EvctlError as error:
        return came, error
    return came, None


def _run(run: str | None, task: str | None, env: str | None) -> resolve.FoundRun:
    try:
        return resolve.run(run, env)
    except NotFoundError as error:
        if run and task is None and run.replace("-", "_") in TASKS:
            raise NotFoundError(f"{error.message}: that is a task", hint=f"evctl logs @latest {run}") from error
        raise


def _print(lines: Iterable[LogLine], *, alone: bool, as_json: bool, follow: bool) -> None:
    for line in lines:
        if as_json:  # followed: a document a line, since nobody knows the last one yet
            print(json.dumps(_line(line)), flush=True)
        else:
            print(clean(line.text if alone else f"{line.task} | {line.text}"), flush=follow)


def _line(line: LogLine) -> dict[str, object]:
    return {"task": line.task, "attempt": line.attempt, "text": line.text}
