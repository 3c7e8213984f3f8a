"""What a failed container's log says of why. Pure; the exit handler's pod imports this too."""

from __future__ import annotations

import re

from evctl.errors import trim

_NOISE = re.compile(
    r"""^([IWEF]\d{4}\s|time="?\d{4}|\[KFP\ Executor|\s*$|\d{4}/\d\d/\d\d\s|
    \[notice\]|WARNING:\ Running\ pip|exit\ status\ \d+$)""",
    re.VERBOSE,
)


def last_words(log: str) -> str | None:
    """Return the line of a failed container's log that says why: the last one its launcher did not write."""
    lines = [line.strip() for line in log.splitlines() if not _NOISE.match(line.strip())]
    return trim(lines[-1]) if lines else None
