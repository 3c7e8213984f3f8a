"""`evctl status`: the task tree."""

from __future__ import annotations

from typing import Annotated

import typer

from evctl import lifecycle
from evctl.commands import resolve
from evctl.commands.options import Debug, Env, Format, Output, Quiet, RunRef
from evctl.documents import run_document
from evctl.follow import show
from evctl.output import emit
from evctl.views import run_lines


def status(
    run: RunRef = None,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Follow it to its end.")] = False,
    env: Env = None,
    output: Output = Format.table,
    quiet: Quiet = False,
    debug: Debug = False,
) -> int:
    """Show the task tree of a run, and why it failed."""
    found = resolve.run(run, env)
    look = lifecycle.watch(found.profile, found.backend, found.run_id)
    result = show(look) if watch else found.backend.get(found.run_id)
    if not watch or output is not Format.table:
        emit(result, output, run_lines, run_document, name=result.run_id, quiet=quiet)
    return lifecycle.exit_code_of(result)
