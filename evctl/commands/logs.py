"""`evctl logs`: what the tasks printed."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from evctl import lifecycle
from evctl.commands import resolve
from evctl.commands.options import Debug, Env, Format, Output, Quiet, RunRef
from evctl.errors import UsageError
from evctl.output import clean


def logs(
    run: RunRef = None,
    task: Annotated[str | None, typer.Argument(help="One task; none is all, in the order of the flow.")] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until it has ended.")] = False,
    tail: Annotated[int | None, typer.Option(min=0, help="The last lines of each task.")] = None,
    failed: Annotated[bool, typer.Option("--failed", help="Only the tasks that failed.")] = False,
    env: Env = None,
    output: Output = Format.table,
    quiet: Quiet = False,
    debug: Debug = False,
) -> int:
    """Print the logs of a run's tasks."""
    if failed and task:
        raise UsageError("--failed and a task do not go together")
    found = resolve.run(run, env)
    names = lifecycle.failed_tasks(found.backend.get(found.run_id)) if failed else [task]
    for name in names:
        for line in found.backend.logs(
            found.run_id, name.replace("-", "_") if name else None, follow=follow, tail=tail
        ):
            if output is Format.json:
                print(json.dumps({"task": line.task, "attempt": line.attempt, "text": line.text}))
            else:
                print(clean(f"{line.text}" if task else f"{line.task} | {line.text}"), flush=follow)
    return 0
