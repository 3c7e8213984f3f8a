"""`evctl compile`: DSL to YAML."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from evctl.commands.options import Debug, Env, Format, Output, Quiet
from evctl.compiler import VERSIONED_FILE, compile_profile, difference
from evctl.output import emit, say
from evctl.profile_files import load_profile


def compile_pipeline(
    file: Annotated[
        Path | None, typer.Option("--file", "-f", help="Where to write; none is the versioned file.")
    ] = None,
    check: Annotated[bool, typer.Option("--check", help="Write nothing: is the file current?")] = False,
    env: Env = None,
    output: Output = Format.table,
    quiet: Quiet = False,
    debug: Debug = False,
) -> int:
    """Compile the pipeline; without --env, prod's versioned file."""
    name = env or "prod"
    target = file or (
        Path("pipeline_src") / VERSIONED_FILE
        if name == "prod" and Path("pipeline_src").is_dir()
        else Path(f"{name}-{VERSIONED_FILE}")
    )
    compiled = compile_profile(load_profile(name).profile)
    document: dict[str, Any] = {"env": name, "file": str(target), "digest": compiled.digest, "current": True}
    if check:
        changes = difference(compiled, target)
        if changes:
            say(changes)
        document["current"] = not changes
    else:
        compiled.write(target)
    said = "current" if document["current"] else "STALE; next: evctl compile"
    emit(
        document,
        output,
        lambda d: [f"{d['file']}  {d['digest'][:12]}  {said if check else 'written'}"],
        lambda d: d,
        name=str(target),
        quiet=quiet,
    )
    return 0 if document["current"] else 1
