"""`evctl retry`: rerun what failed, keep what succeeded."""

from __future__ import annotations

from typing import Annotated

import typer

from evctl import lifecycle
from evctl.commands import resolve
from evctl.commands.options import Debug, Env, Format, Output, Quiet
from evctl.documents import run_document
from evctl.follow import show
from evctl.output import emit
from evctl.views import run_lines


def retry(
    run: Annotated[str, typer.Argument(metavar="RUN", help="Id, unique prefix, name or @latest.")],
    detach: Annotated[bool, typer.Option("--detach", "-d", help="Return once it moves.")] = False,
    env: Env = None,
    output: Output = Format.table,
    quiet: Quiet = False,
    debug: Debug = False,
) -> int:
    """Rerun what failed under the same id and follow it."""
    found = resolve.run(run, env)
    poll_s = min(lifecycle.poll_of(found.profile), 1.0)
    moved = lifecycle.retry_and_check(found.backend, found.run_id, poll_s=poll_s, timeout_s=60 * poll_s)
    ended = moved if detach else show(lifecycle.watch(found.profile, found.backend, found.run_id))
    if detach or output is not Format.table:
        emit(ended, output, run_lines, run_document, name=ended.run_id, quiet=quiet)
    return lifecycle.OK if detach else lifecycle.exit_code_of(ended)
