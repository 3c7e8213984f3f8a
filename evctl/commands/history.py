"""`evctl history`: the release ledger."""

from __future__ import annotations

from evctl.commands import release, resolve
from evctl.commands.options import Debug, Env, Format, Output, Quiet
from evctl.output import emit
from evctl.rollout import promotion


def history(env: Env = None, output: Output = Format.table, quiet: Quiet = False, debug: Debug = False) -> int:
    """Show every release, the newest first."""
    world = promotion.open_world(release.target_of(resolve.profile(env)))
    releases = list(reversed(world.ledger().read()[0].releases))
    emit(
        releases,
        output,
        release.release_lines,
        lambda found: {"releases": [release.release_document(each) for each in found]},
        name="\n".join(str(each.revision) for each in releases),
        quiet=quiet,
    )
    return 0
