"""Clients of a service: what they ask, and whether every answer is one model's, whole."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx

PATH = "/v2/models/ev-battery-fault-classifier/infer"


def until(holds: Callable[[], bool], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "did not come true in time"
        time.sleep(0.05)


def request_of(bundle: Path) -> dict[str, Any]:
    row = json.loads((bundle / "golden.json").read_text())["rows"][0]
    return {"inputs": [{"name": "rows", "shape": [1, len(row)], "datatype": "FP64", "data": row}]}


def wanted_of(bundles: dict[str, Path], *names: str) -> dict[str, tuple[str, list[float]]]:
    """Return digest and probabilities for `request_of(bundles[names[0]])` by model version, from the models themselves."""
    import pandas as pd

    from ev_ml.bundle import load

    golden = json.loads((bundles[names[0]] / "golden.json").read_text())
    row = pd.DataFrame(golden["rows"][:1], columns=golden["features"], dtype=float)
    found = {}
    for name in names:
        loaded = load(bundles[name])
        probabilities = [float(p) for p in loaded.model.predict_proba(row)[0]]
        found[loaded.manifest.version] = loaded.manifest.digest, probabilities
    return found


class Clients:
    """Ask at a rate, from several clients, until told to stop; `bad` holds what was not a whole answer of one model."""

    def __init__(self, url: str, asked: dict[str, Any], wanted: dict[str, tuple[str, list[float]]]) -> None:
        self._url, self._asked, self._wanted = url, asked, wanted
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []
        self.bad: list[str] = []
        self.versions: list[str] = []

    def start(self, *, per_s: float, keep_alive: bool) -> None:
        thread = threading.Thread(target=self._ask, args=(1.0 / per_s, keep_alive))
        thread.start()
        self._threads.append(thread)

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _ask(self, period: float, keep_alive: bool) -> None:
        limits = httpx.Limits(max_keepalive_connections=1 if keep_alive else 0)
        due = time.monotonic()
        with httpx.Client(base_url=self._url, limits=limits, timeout=10) as http:
            while not self._stop.is_set():
                self._one(http)
                due += period
                if (left := due - time.monotonic()) > 0:
                    time.sleep(left)

    def _one(self, http: httpx.Client) -> None:
        try:
            reply = http.post(PATH, json=self._asked)
            told = reply.json()
            digest, probabilities = self._wanted[told["model_version"]]
            got = next(each["data"] for each in told["outputs"] if each["name"] == "probabilities")
            same = max(abs(a - b) for a, b in zip(got, probabilities, strict=True)) < 1e-9
            if reply.status_code != 200 or told["parameters"]["model_digest"] != digest or not same:
                self.bad.append(reply.text)
            self.versions.append(told["model_version"])
        except (httpx.HTTPError, KeyError, ValueError) as error:
            self.bad.append(repr(error))
