"""stdout is the result and nothing else; stderr is for people. Whether there is colour is asked of each stream."""

from __future__ import annotations

import json
import math
import os
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import IO, Any, TypeVar

Result = TypeVar("Result")
_COLOURS = {"✓": 32, "≡": 34, "✗": 31, "↻": 36, "■": 33, "–": 2, "·": 2, "!": 33}
"""ANSI colour by the sign a line begins with."""
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def open_streams() -> None:
    """Put /dev/null where a standard stream is closed: the next file opened would take its number, and what is printed."""
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(number)
        except OSError:
            # the lowest free number is this one
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, mode, closefd=False))  # noqa: SIM115


def is_terminal(stream: IO[str]) -> bool:
    """Return whether a stream shows a person something live."""
    if os.environ.get("EVCTL_FORCE_TTY"):
        return True
    return stream.isatty() and os.environ.get("TERM") != "dumb"


def in_colour(stream: IO[str]) -> bool:
    """Return whether a stream takes colour: a terminal, and nobody said no (no-color.org, `--no-color`)."""
    return stream.isatty() and os.environ.get("TERM") != "dumb" and not os.environ.get("NO_COLOR")


def painted(line: str) -> str:
    """Return a line in the colour of its sign."""
    code = _COLOURS.get(line.lstrip()[:1])
    return f"\x1b[{code}m{line}\x1b[0m" if code else line


def clean(text: str) -> str:
    """Return foreign text without control characters: a name must not move the cursor."""
    return _CONTROL.sub("�", text)


def say(text: str) -> None:
    """Tell a person something, on stderr."""
    print(text, file=sys.stderr, flush=True)


def emit(
    result: Result,
    output: str,
    lines: Callable[[Result], Iterable[str]],
    document: Callable[[Result], Any],
    *,
    name: str | None = None,
    quiet: bool = False,
) -> None:
    """Print a result on stdout as table, json, yaml or name. In a document NaN and infinity are null: JSON has neither."""
    if quiet or output == "name":
        if name:
            print(name)
    elif output == "json":
        print(json.dumps(finite(document(result)), indent=2, allow_nan=False))
    elif output == "yaml":
        import yaml

        print(yaml.safe_dump(finite(document(result)), sort_keys=False), end="")
    else:
        colour = in_colour(sys.stdout)
        for line in map(clean, lines(result)):
            print(painted(line) if colour else line)


def finite(value: Any) -> Any:
    """Return a document with None for each float that is NaN or infinite: a metric of anybody's run may be."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: finite(each) for key, each in value.items()}
    return [finite(each) for each in value] if isinstance(value, list | tuple) else value


def columns(rows: Iterable[Iterable[str]]) -> list[str]:
    """Return rows as aligned lines; nothing is ever cut off."""
    table = [list(row) for row in rows]
    widths = [max(len(row[k]) for row in table) for k in range(len(table[0]))] if table else []
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in table]
