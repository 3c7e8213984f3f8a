"""`evctl runs`: the latest runs."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Annotated

import typer

from evctl.backends import get_backend
from evctl.backends.base import RunQuery, RunState
from evctl.commands import resolve
from evctl.commands.options import Debug, Env, Format, Output, Quiet
from evctl.documents import runs_document
from evctl.errors import UsageError, trim
from evctl.output import emit
from evctl.views import runs_lines

_MINUTES = {"m": 1, "h": 60, "d": 24 * 60, "w": 7 * 24 * 60}
OLDEST_DAYS = 36_500


def runs(
    state: Annotated[list[RunState] | None, typer.Option(help="Only these states, more than once.")] = None,
    since: Annotated[str | None, typer.Option(help="Only younger ones: 30m, 6h, 2d, 1w.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="How many.")] = 20,
    env: Env = None,
    output: Output = Format.table,
    quiet: Quiet = False,
    debug: Debug = False,
) -> int:
    """List the latest runs of an environment."""
    query = RunQuery(limit, frozenset(state or ()), _age(since))
    found = get_backend(resolve.profile(env)).list(query)
    emit(found, output, runs_lines, runs_document, name="\n".join(run.run_id for run in found), quiet=quiet)
    return 0


def _age(text: str | None) -> timedelta | None:
    if text is None:
        return None
    parts = re.fullmatch(r"([0-9]{1,9})([mhdw])", text)
    minutes = int(parts[1]) * _MINUTES[parts[2]] if parts else 0
    if not 0 < minutes <= OLDEST_DAYS * _MINUTES["d"]:
        raise UsageError(
            f"--since takes a number with m, h, d or w, from 1m to {OLDEST_DAYS}d, not {trim(text, 40)!r}",
            hint="evctl runs --since 2d",
        )
    return timedelta(minutes=minutes)
