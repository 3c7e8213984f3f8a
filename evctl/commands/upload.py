"""`evctl upload`: keep a pipeline version named by its content."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated

import typer

from evctl import lifecycle
from evctl.backends import get_backend
from evctl.commands import resolve
from evctl.commands.options import Debug, Env, Format, Output, Quiet
from evctl.compiler import compile_profile, require_image
from evctl.output import emit


def upload(
    set_default: Annotated[
        bool, typer.Option("--set-default", help="Make it the version that runs without one named take.")
    ] = False,
    env: Env = None,
    output: Output = Format.table,
    quiet: Quiet = False,
    debug: Debug = False,
) -> int:
    """Upload the compiled pipeline; the same content again is "unchanged"."""
    profile = resolve.profile(env)
    require_image(profile)
    backend = get_backend(profile)
    with tempfile.TemporaryDirectory() as folder:
        compiled = compile_profile(profile)
        package = Path(folder) / "pipeline.yaml"
        compiled.write(package)
        kept = backend.upload(
            package, compiled.digest, description=lifecycle.describe(profile), set_default=set_default
        )
    document = {
        "pipeline": kept.pipeline,
        "version": kept.version,
        "digest": kept.digest,
        "changed": not kept.unchanged,
    }
    said = "unchanged" if kept.unchanged else "uploaded"
    emit(
        document,
        output,
        lambda d: [f"{d['pipeline']} {d['version']}: {said}"],
        lambda d: d,
        name=kept.version,
        quiet=quiet,
    )
    return 0
