"""`evctl promote`: make a model the one that serves."""

from __future__ import annotations

from typing import Annotated

import typer

from evctl.commands import release
from evctl.commands.options import Debug, Env, Format, Output, Quiet
from evctl.output import emit, say
from evctl.rollout import promotion


def promote(
    model: Annotated[
        str | None,
        typer.Argument(metavar="RUN|MODEL", help="A run, a model version or a model's URI; none is @latest."),
    ] = None,
    canary: Annotated[int | None, typer.Option(min=1, max=99, help="Percent of requests to begin with.")] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Don't ask.")] = False,
    override_champion: Annotated[
        str | None, typer.Option(help="Promote a model worse than the live one, and record why.")
    ] = None,
    env: Env = None,
    output: Output = Format.table,
    quiet: Quiet = False,
    debug: Debug = False,
) -> int:
    """Promote, prove, and take back what does not prove itself."""
    profile, wanted = release.candidate(model, env)
    target = release.target_of(profile)
    world = promotion.open_world(target)
    release.confirm(profile, f"promote {wanted.uri} to {target.name} in {profile.name}?", yes=yes)
    done = promotion.promote(
        target,
        world,
        wanted.uri,
        by=release.by(),
        run_id=wanted.run_id,
        override=override_champion,
        canary=canary,
        tell=say,
    )
    emit(done, output, release.outcome_lines, promotion.Outcome.to_json, name=done.model, quiet=quiet)
    return 0
