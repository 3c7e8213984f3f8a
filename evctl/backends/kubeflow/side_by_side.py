"""Requests in threads that hold nobody up: a pool's are waited for when it is left, and when the process ends."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from queue import SimpleQueue
from typing import TypeVar

from evctl.errors import EvctlError

Item = TypeVar("Item")
Answer = TypeVar("Answer")


class LeftError(EvctlError):
    """Whoever waited for this work has left: it ends where it is."""


class Leaving:
    """Tells the threads of some work that nobody waits for it any more."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._left = False

    def leave(self) -> None:
        """Let nothing begin any more that is `staying`; returns when nothing is in the middle of it."""
        with self._lock:
            self._left = True

    def check(self) -> None:
        """Raise LeftError after `leave`."""
        if self._left:
            raise LeftError("left")

    @contextmanager
    def staying(self) -> Iterator[None]:
        """Keep `leave` waiting for a moment. LeftError after it."""
        with self._lock:
            self.check()
            yield


def side_by_side(work: Callable[[Item], Answer], items: Sequence[Item], at_once: int) -> list[Answer]:
    """Return the answers in order, at most `at_once` worked on together.

    The first error is raised at once. After it, or an interrupt, no other item is begun; what is under way goes on, and
    nobody waits for it.
    """
    left = deque(enumerate(items))
    done: SimpleQueue[tuple[int, Answer | None, Exception | None]] = SimpleQueue()

    def run() -> None:
        while True:
            try:
                index, item = left.popleft()
            except IndexError:
                return
            try:
                done.put((index, work(item), None))
            except Exception as error:  # raised again where the answer is waited for
                done.put((index, None, error))

    answers: dict[int, Answer | None] = {}
    try:
        for _ in range(min(at_once, len(items))):
            threading.Thread(target=run, daemon=True).start()
        while len(answers) < len(items):
            index, answer, error = done.get()
            if error is not None:
                raise error
            answers[index] = answer
    finally:
        left.clear()
    return [answers[index] for index in range(len(items))]  # type: ignore[misc]
