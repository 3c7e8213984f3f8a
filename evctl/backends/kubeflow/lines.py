"""Bytes of a log as lines. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any

_ARGO = re.compile(r"""^time="?\d{4}\S*\s+level=\w+\s.*\bargo=true\b""")


def without_argos(lines: Iterable[str]) -> Iterator[str]:
    """Yield the lines that are not those by which Argo's executor frames a step's."""
    return (line for line in lines if not _ARGO.match(line))


def lines_of(content: bytes) -> Iterator[str]:
    """Yield a stored log's lines."""
    yield from content.decode(errors="replace").splitlines()


def split_lines(chunks: Iterable[Any], *, whole: bool = False) -> Iterator[str]:
    """Yield the lines of a body that comes in pieces, wherever they were cut.

    Args:
        whole: leave out a last line without its end: the rest of it is still to come.
    """
    rest = b""
    for chunk in chunks:
        rest += chunk if isinstance(chunk, bytes) else str(chunk).encode()
        *lines, rest = rest.split(b"\n")
        for line in lines:
            yield line.decode(errors="replace").rstrip("\r")
    if rest and not whole:
        yield rest.decode(errors="replace").rstrip("\r")
