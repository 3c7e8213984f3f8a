"""`evctl rollback`: bring an older release back."""

from __future__ import annotations

from typing import Annotated

import typer

from evctl.commands import release, resolve
from evctl.commands.options import Debug, Env, Format, Output, Quiet
from evctl.output import emit, say
from evctl.rollout import promotion


def rollback(
    to: Annotated[int | None, typer.Option(metavar="REVISION", help="Else the last good release.")] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Don't ask.")] = False,
    env: Env = None,
    output: Output = Format.table,
    quiet: Quiet = False,
    debug: Debug = False,
) -> int:
    """Bring the last good release back as a new revision, proved."""
    profile = resolve.profile(env)
    target = release.target_of(profile)
    world = promotion.open_world(target)
    release.confirm(profile, f"roll {target.name} in {profile.name} back?", yes=yes)
    done = promotion.rollback(target, world, by=release.by(), to=to, tell=say)
    emit(done, output, release.outcome_lines, promotion.Outcome.to_json, name=done.model, quiet=quiet)
    return 0
