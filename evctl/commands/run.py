"""`evctl run`: submit and follow."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated

import typer

from evctl import lifecycle
from evctl.backends import get_backend
from evctl.commands import resolve
from evctl.commands.options import Debug, Env, Format, Output, Quiet
from evctl.compiler import require_image
from evctl.documents import run_document
from evctl.errors import UsageError
from evctl.follow import show
from evctl.output import emit, say
from evctl.views import run_lines


def run(
    data_version: Annotated[str | None, typer.Option(help="Which data.")] = None,
    accuracy_threshold: Annotated[str | None, typer.Option(help="The gate, a share from 0 to 1.")] = None,
    param: Annotated[list[str] | None, typer.Option("--param", "-p", help="key=value, more than once.")] = None,
    no_cache: Annotated[bool, typer.Option("--no-cache", help="Run every task anew.")] = False,
    detach: Annotated[bool, typer.Option("--detach", "-d", help="Return the id at once.")] = False,
    timeout: Annotated[float | None, typer.Option(min=0, help="Seconds to follow; the run goes on.")] = None,
    name: Annotated[str | None, typer.Option(help="The run's name.")] = None,
    run_id_file: Annotated[Path | None, typer.Option(help="Write the run's id here.")] = None,
    env: Env = None,
    output: Output = Format.table,
    quiet: Quiet = False,
    debug: Debug = False,
) -> int:
    """Submit a run and follow it; Ctrl-C leaves it running."""
    profile = resolve.profile(env)
    require_image(profile)
    backend = get_backend(profile)
    raw = _parameters(data_version, accuracy_threshold, param or [])
    if run_id_file:
        _writable(run_id_file)
    with tempfile.TemporaryDirectory() as folder:
        run_id = lifecycle.submit(profile, backend, raw, Path(folder), use_cache=not no_cache, name=name)
    if run_id_file:
        run_id_file.write_text(run_id + "\n")
    if detach:
        started = backend.get(run_id)
        emit(started, output, lambda r: [r.run_id], run_document, name=run_id, quiet=quiet)
        return lifecycle.OK
    try:
        ended = show(lifecycle.watch(profile, backend, run_id, timeout_s=timeout))
    except KeyboardInterrupt:
        say(f"\nrun {run_id[:8]} goes on; evctl status {run_id[:8]} finds it again, evctl cancel {run_id[:8]} ends it")
        raise
    if output is not Format.table or quiet:
        emit(ended, output, run_lines, run_document, name=run_id, quiet=quiet)
    else:
        print(run_id)
    return lifecycle.exit_code_of(ended)


def _writable(path: Path) -> None:
    """A run whose id cannot be written would be a run that a script loses."""
    try:
        path.touch()
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror}", hint="name another --run-id-file") from error


def _parameters(data_version: str | None, threshold: str | None, pairs: list[str]) -> dict[str, str]:
    raw: dict[str, str] = {}
    for pair in pairs:
        key, found, value = pair.partition("=")
        if not found or not key:
            raise UsageError(f"--param takes key=value, not {pair!r}", hint="evctl plan shows the parameters")
        raw[key] = value
    if data_version is not None:
        raw["data_version"] = data_version
    if threshold is not None:
        raw["accuracy_threshold"] = threshold
    return raw
