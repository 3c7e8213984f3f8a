"""A promotion in a thread beside the test, and what a test waits for."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

from evctl.rollout.promotion import Outcome
from tests.cluster.stage import Stage


class Background(threading.Thread):
    """A call in a thread; `result` waits for it."""

    def __init__(self, call: Callable[[], Outcome]) -> None:
        super().__init__(daemon=True)
        self._call, self._outcome, self._error = call, None, None  # type: Callable[[], Outcome], Any, Any
        self.start()

    def run(self) -> None:
        try:
            self._outcome = self._call()
        except BaseException as error:
            self._error = error

    def result(self, seconds: float = 60.0) -> Outcome:
        self.join(seconds)
        assert not self.is_alive(), "it did not end"
        if self._error is not None:
            raise self._error
        assert isinstance(self._outcome, Outcome)
        return self._outcome


def until(condition: Callable[[], Any], seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come to be"
        time.sleep(0.02)


def under_way(stage: Stage, model: str) -> Callable[[], bool]:
    return lambda: any(uri == stage.models[model].uri for _, uri, _ in stage.frames)
