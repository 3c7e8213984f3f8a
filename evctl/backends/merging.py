"""What several sources give, as it comes: each is read by a thread of its own."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

T = TypeVar("T")
AT_ONCE = 8
"""Sources read at the same time, as many as a connection pool has connections; the others wait for one to end."""
AHEAD = 1000
"""Items that are read and not yet taken."""


@dataclass(frozen=True, slots=True)
class _End:
    error: Exception | None


def merged(
    sources: Callable[[], tuple[Mapping[Hashable, Callable[[], Iterator[T]]], bool]], poll_s: float
) -> Iterator[T]:
    """Yield the items of all sources; the first error of one is raised when all have ended.

    Args:
        sources: the sources known by now, by key, and whether others may come; asked every `poll_s` seconds while so.
    """
    arrived: queue.Queue[Any] = queue.Queue(AHEAD)
    begun: set[Hashable] = set()
    active, failed, due = 0, None, 0.0
    known: Mapping[Hashable, Callable[[], Iterator[T]]] = {}
    more = True
    while more or active or known.keys() - begun:
        if more and time.monotonic() >= due:
            known, more = sources()
            due = time.monotonic() + poll_s
        for key in [key for key in known if key not in begun][: AT_ONCE - active]:
            begun.add(key)
            active += 1
            threading.Thread(target=_read, args=(known[key], arrived), daemon=True).start()
        try:
            item = arrived.get(timeout=max(0.01, min(poll_s, due - time.monotonic())))
        except queue.Empty:
            continue
        if isinstance(item, _End):
            active -= 1
            failed = failed or item.error
        else:
            yield item
    if failed is not None:
        raise failed


def _read(source: Callable[[], Iterator[Any]], into: queue.Queue[Any]) -> None:
    error: Exception | None = None
    try:
        for item in source():
            into.put(item)
    except Exception as raised:  # whoever takes the items raises it
        error = raised
    into.put(_End(error))
