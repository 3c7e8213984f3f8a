"""`evctl cancel`: end a run and wait until it has ended."""

from __future__ import annotations

from typing import Annotated

import typer

from evctl import lifecycle, telling
from evctl.commands import resolve
from evctl.commands.options import Debug, Env, Format, Output, Quiet
from evctl.documents import run_document
from evctl.output import emit, say
from evctl.views import run_lines


def cancel(
    run: Annotated[str, typer.Argument(metavar="RUN", help="Id, unique prefix, name or @latest.")],
    env: Env = None,
    output: Output = Format.table,
    quiet: Quiet = False,
    debug: Debug = False,
) -> int:
    """End a run; its notification still runs."""
    found = resolve.run(run, env)
    local = found.profile.backend == "local"
    if not local:
        say(
            f"ending run {found.run_id[:8]}: its pods take a while to go, and an exit handler, if it has one, still runs"
        )
    ended = lifecycle.cancel_and_wait(
        found.backend,
        found.run_id,
        timeout_s=lifecycle.CANCEL_TIMEOUT_S if local else lifecycle.CLUSTER_CANCEL_TIMEOUT_S,
        poll_s=lifecycle.poll_of(found.profile),
        tell=say,
        outage_s=lifecycle.outage_of(found.profile),
    )
    if warning := lifecycle.untold(ended):
        say(f"warning: {warning}")
        if told := telling.in_its_place(found.profile, ended, say):
            say(told)
    emit(ended, output, run_lines, run_document, name=ended.run_id, quiet=quiet)
    return 0
