"""`evctl outputs`: parameters and artifacts, apart."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from evctl.backends.base import Artifact, Backend
from evctl.commands import resolve
from evctl.commands.options import Debug, Env, Format, Output, Quiet, RunRef
from evctl.documents import outputs_document
from evctl.errors import FailedError, NotFoundError
from evctl.output import emit, say
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
    if task:
        wanted = task.replace("-", "_")
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
        _download(found.backend, result.artifacts, download)
    emit(
        result,
        output,
        outputs_lines,
        outputs_document,
        name="\n".join(each.uri for each in result.artifacts),
        quiet=quiet,
    )
    return 0


def _download(backend: Backend, artifacts: Iterable[Artifact], folder: Path) -> None:
    """Copy every artifact that can be had, then tell which could not."""
    missing = []
    for each in artifacts:
        try:
            where = backend.fetch(each, folder / each.task / each.name)
        except NotFoundError as error:
            if each.type.endswith("Metrics"):  # Kubeflow keeps these as metadata and writes no file
                say(f"{each.task}.{each.name}: no file, its values are its metadata")
                continue
            say(f"{each.task}.{each.name}: {error.message}")
            missing.append(f"{each.task}.{each.name}")
            continue
        say(f"{each.task}.{each.name} -> {where}")
    if missing:
        raise FailedError(
            f"could not be copied, since it is gone from the store: {', '.join(missing)}",
            hint="evctl outputs shows what is left; evctl run makes it again",
        )
