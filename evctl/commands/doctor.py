"""`evctl doctor`: preflight."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from evctl.commands import resolve
from evctl.commands.options import Debug, Env, Format, Output, Quiet
from evctl.doctor.checks import Result, checks_for, diagnose, document, worst
from evctl.output import emit

SIGNS = {"pass": "✓", "warn": "!", "fail": "✗"}


def doctor(env: Env = None, output: Output = Format.table, quiet: Quiet = False, debug: Debug = False) -> int:
    """Check what a run needs; 5 when something would not work."""
    profile = resolve.profile(env)
    results = diagnose(checks_for(profile))
    emit(results, output, _lines, lambda found: document(profile.name, found), name=worst(results), quiet=quiet)
    return 5 if worst(results) == "fail" else 0


def _lines(results: Sequence[Result]) -> Iterator[str]:
    width = max(len(result.name) for result in results)
    for result in results:
        yield f"{SIGNS[result.status]} {result.name:<{width}}  {result.message}"
        if result.fix and result.status != "pass":
            yield f"  {'':<{width}}  next: {result.fix}"
