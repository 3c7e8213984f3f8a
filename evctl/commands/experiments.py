"""`evctl experiments`: the groups of runs."""

from __future__ import annotations

from evctl.backends import get_backend
from evctl.commands import resolve
from evctl.commands.options import Debug, Env, Format, Output, Quiet
from evctl.documents import experiments_document
from evctl.output import emit
from evctl.views import experiments_lines


def experiments(env: Env = None, output: Output = Format.table, quiet: Quiet = False, debug: Debug = False) -> int:
    """List the experiments of an environment."""
    found = get_backend(resolve.profile(env)).experiments()
    emit(found, output, experiments_lines, experiments_document, name="\n".join(e.name for e in found), quiet=quiet)
    return 0
