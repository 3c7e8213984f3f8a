"""Cron expressions of five fields, checked and normalised. Pure."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Any

from evctl.errors import UsageError

FIELDS = ("minute", "hour", "day of the month", "month", "day of the week")
_TERM = re.compile(r"(\*|\d+|[A-Z]{3})(-(\d+|[A-Z]{3}))?(/\d+)?")
_STAR = re.compile(r"\*(/\d+)?")


def cron_fields(cron: str) -> tuple[str, ...]:
    """Return the five fields, normalised: names and ranges as numbers, Sunday as 0, `*` and `*/n` as they are.

    Both crons read such a list alike, which they do not for `5/15`, `7` or `L`.

    Raises:
        UsageError: not five fields, or one of them is none.
    """
    from cronsim import CronSim, CronSimError

    parts = cron.upper().split()
    if len(parts) != 5:
        said = "six, with seconds: leave the first away" if len(parts) == 6 else str(len(parts))
        raise UsageError(
            f"cron {cron!r} has {said} fields, not five", hint="minute hour day month weekday, in UTC: '0 3 * * *'"
        )
    for part, name in zip(parts, FIELDS, strict=True):
        if not all(_TERM.fullmatch(term) for term in part.split(",")):
            raise UsageError(f"cron {cron!r}: {part!r} is no {name}", hint="numbers, names, lists, a-b, */n")
    try:
        parsed = CronSim(cron, datetime(2026, 1, 1, tzinfo=UTC))
        next(parsed)
    except CronSimError as error:
        raise UsageError(
            f"cron {cron!r}: {str(error).lower()}", hint="'0 3 * * 1-5' is 03:00 UTC on weekdays"
        ) from error
    except StopIteration as error:
        raise UsageError(
            f"cron {cron!r} never fires", hint="mend schedules in the profile, then evctl schedule apply"
        ) from error
    sets = (parsed.minutes, parsed.hours, parsed.days, parsed.months, {_day(day) for day in parsed.weekdays})
    return tuple(
        part if _STAR.fullmatch(part) else ",".join(map(str, sorted(numbers)))
        for part, numbers in zip(parts, sets, strict=True)
    )


def _day(day: Any) -> int:
    return int(day) % 7
