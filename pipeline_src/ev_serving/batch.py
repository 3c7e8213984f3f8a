"""Predictions off the event loop, everything that waits in one call: a row costs little beside the call itself."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np

Predict = Callable[[np.ndarray], np.ndarray]
MAX_BATCH_ROWS = 4096


class Batcher:
    """Runs `predict` in one thread; what arrives meanwhile goes together into the next call. Adds no delay."""

    def __init__(self, predict: Predict) -> None:
        self._predict = predict
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="predict")
        self._waiting: list[tuple[np.ndarray, asyncio.Future[np.ndarray]]] = []
        self._runner: asyncio.Task[None] | None = None

    async def __call__(self, rows: np.ndarray) -> np.ndarray:
        """Return the answers for these rows, in their order."""
        done: asyncio.Future[np.ndarray] = asyncio.get_running_loop().create_future()
        self._waiting.append((rows, done))
        if self._runner is None:
            self._runner = asyncio.create_task(self._run())
        return await done

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            while self._waiting:
                batch = self._take()
                rows = batch[0][0] if len(batch) == 1 else np.concatenate([each for each, _ in batch])
                try:
                    answer = await loop.run_in_executor(self._pool, self._predict, rows)
                except Exception as error:  # handed to whoever asked
                    for _, done in batch:
                        if not done.done():
                            done.set_exception(error)
                    continue
                start = 0
                for each, done in batch:
                    if not done.done():
                        done.set_result(answer[start : start + len(each)])
                    start += len(each)
        finally:
            self._runner = None

    def _take(self) -> list[tuple[np.ndarray, asyncio.Future[np.ndarray]]]:
        taken, rows = 0, 0
        for each, _ in self._waiting:
            if taken and rows + len(each) > MAX_BATCH_ROWS:
                break
            taken, rows = taken + 1, rows + len(each)
        batch, self._waiting = self._waiting[:taken], self._waiting[taken:]
        return batch
