"""`evctl report`: a run as one page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from evctl.commands import resolve
from evctl.commands.options import Debug, Env, Format, Output, Quiet, RunRef
from evctl.output import emit


def report(
    run: RunRef = None,
    file: Annotated[Path | None, typer.Option("--file", "-f", help="Where to write it.")] = None,
    env: Env = None,
    output: Output = Format.table,
    quiet: Quiet = False,
    debug: Debug = False,
) -> int:
    """Write one self-contained HTML page about a run."""
    from evctl.report import write_report

    found = resolve.run(run, env)
    path = write_report(found.profile, found.backend, found.run_id, file)
    document = {"run_id": found.run_id, "path": str(path), "size_bytes": path.stat().st_size}
    emit(document, output, lambda d: [str(d["path"])], lambda d: d, name=str(path), quiet=quiet)
    return 0
