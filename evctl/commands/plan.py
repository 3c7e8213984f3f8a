"""`evctl plan`: what a run would do."""

from __future__ import annotations

from evctl.backends import get_backend
from evctl.commands import resolve
from evctl.commands.options import Debug, Env, Format, Output, Quiet
from evctl.compiler import compile_profile
from evctl.errors import EvctlError
from evctl.output import columns, emit, say
from evctl.plan import Plan, plan_of


def plan(env: Env = None, output: Output = Format.table, quiet: Quiet = False, debug: Debug = False) -> int:
    """Show tasks, images, limits, retries, timeouts, caching, secrets, parameters and warnings; starts nothing."""
    profile = resolve.profile(env)
    compiled = compile_profile(profile)
    result = plan_of(compiled, profile)
    try:
        latest = get_backend(profile).latest_version()
    except EvctlError as error:
        # a plan must not need a cluster
        say(f"not compared with the last upload: {error.message}")
        latest = None
    if latest is not None:
        result = result.against(latest[0].version, latest[1], compiled)
    emit(result, output, _lines, lambda p: p.document(), name=result.digest[:12], quiet=quiet)
    return 0


def _lines(result: Plan) -> list[str]:
    rows = [("TASK", "CPU", "MEMORY", "ATTEMPTS", "TIMEOUT", "CACHED", "SECRETS", "IMAGE")]
    for task in result.tasks:
        timeout = f"{task.timeout_s} s" if task.timeout_s else "none"
        rows.append(
            (
                task.name,
                task.cpu or "-",
                task.memory or "-",
                str(task.retries + 1),
                timeout,
                "yes" if task.cache else "never",
                ", ".join(task.secrets) or "-",
                task.image,
            )
        )
    parameters = [("  " + key, str(value)) for key, value in result.parameters.items()]
    return [
        f"{result.env}  pipeline {result.digest[:12]}",
        *columns(rows),
        "parameters",
        *columns(parameters),
        *(f"warning: {w}" for w in result.warnings),
        *_changes(result),
    ]


def _changes(result: Plan) -> list[str]:
    last = result.last_upload
    if last is None:
        return []
    if not last.changes:
        return [f"no task or parameter changes against the last upload, {last.version}"]
    return [f"against the last upload, {last.version}", *(f"  {change}" for change in last.changes)]
