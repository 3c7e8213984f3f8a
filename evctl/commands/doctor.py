"""`evctl doctor`: preflight."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence

from evctl.commands import resolve
from evctl.commands.options import Debug, Env, Format, Output, Quiet
from evctl.doctor.checks import Result, checks_for, diagnose, document, worst
from evctl.output import emit

WIDTH = 110
"""Characters of a message on one line."""
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
        first, *more = textwrap.wrap(result.message, WIDTH, break_long_words=False, break_on_hyphens=False) or [""]
        yield f"{SIGNS[result.status]} {result.name:<{width}}  {first}"
        yield from (f"  {'':<{width}}    {line}" for line in more)
        if result.fix and result.status != "pass":
            # a command is one line, so that it can be copied; two that follow each other are two
            commands = result.fix.replace(" && ", " &&\n").splitlines()
            yield f"  {'':<{width}}  next: {commands[0]}"
            yield from (f"  {'':<{width}}        {command}" for command in commands[1:])
