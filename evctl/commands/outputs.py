"""`evctl outputs`: parameters and artifacts, apart."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from evctl.commands import resolve
from evctl.commands.options import Debug, Env, Format, Output, Quiet, RunRef
from evctl.documents import outputs_document
from evctl.downloading import download as copy_all
from evctl.errors import NotFoundError
from evctl.output import emit
from evctl.views import outputs_lines


def outputs(
    run: RunRef = None,
    task: Annotated[str | None, typer.Option("--task", "-t", help="Of one task only.")] = None,
    download: Annotated[Path | None, typer.Option(help="Copy the artifacts here.")] = None,
    env: Env = None,
    output: Output = Format.table,
    quiet: Quiet = False,
    debug: Debug = False,
) -> int:
    """Show a run's output parameters and artifacts."""
    found = resolve.run(run, env)
    result = found.backend.outputs(found.run_id)
    artifacts, wanted = result.artifacts, task.replace("-", "_") if task else None
    if wanted:
        result = replace(
            result,
            parameters={key: value for key, value in result.parameters.items() if key.partition(".")[0] == wanted},
            artifacts=tuple(each for each in result.artifacts if each.task == wanted),
        )
        if not result.parameters and not result.artifacts:
            raise NotFoundError(
                f"task {wanted} of run {found.run_id[:8]} has no outputs", hint=f"evctl status {found.run_id[:8]}"
            )
    if download is not None:
        copy_all(found.backend, artifacts, download, wanted)
    emit(
        result,
        output,
        outputs_lines,
        outputs_document,
        name="\n".join(each.uri for each in result.artifacts),
        quiet=quiet,
    )
    return 0
