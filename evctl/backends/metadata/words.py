"""What a failed container's log says of why. Pure; the exit handler's pod imports this too."""

from __future__ import annotations

import re

from evctl.errors import trim

_NOISE = re.compile(
    r"""^([IWEF]\d{4}\s|time="?\d{4}|\[KFP\ Executor|\s*$|\d{4}/\d\d/\d\d\s|
    \[notice\]|WARNING:\ Running\ pip|(Error:\ )?exit\ status\ \d+$)""",
    re.VERBOSE,
)
_FATAL = re.compile(r"^F\d{4}\s[^\]]*\]\s*(.*)$")
"""The last thing that KFP's launcher and driver say: why they gave up."""
_AROUND = re.compile(r"^(failed to execute (importer )?component: |KFP driver: |driver\.\w+\(.*?\) failed: )")
_STEPS_OWN = re.compile(r"^exit status \d+$")
KILLED = "killed (signal: killed), most likely for memory: raise the step's memory in the profile"


def last_words(log: str) -> str | None:
    """Return the line of a failed container's log that says why.

    It is the step's own last line, unless the launcher around it, or a driver, failed at something of its own: ML Metadata,
    the object store, a parameter.
    """
    lines = [line.strip() for line in log.splitlines()]
    fatal = next((found[1] for found in map(_FATAL.match, reversed(lines)) if found), "")
    while (shorter := _AROUND.sub("", fatal)) != fatal:
        fatal = shorter
    if fatal.endswith("signal: killed"):
        return KILLED
    if fatal and not _STEPS_OWN.match(fatal):
        return trim(fatal)
    own = [line for line in lines if not _NOISE.match(line)]
    return trim(own[-1]) if own else None
