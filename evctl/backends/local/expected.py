"""How long each task will take, as far as earlier runs tell."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

ENOUGH = 5
"""Good runs that are looked at: an identical rerun took no time for what was cached, so older ones are asked too."""


def expected_seconds(records: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """Return seconds by task: of the newest good run in which the task really ran.

    Args:
        records: an environment's records, newest first; those of runs that have not succeeded are passed over.
    """
    found: dict[str, float] = {}
    good = 0
    for record in records:
        if record.get("state") != "SUCCEEDED":
            continue
        for name, entry in record["tasks"].items():
            began, ended = entry.get("started_at"), entry.get("finished_at")
            if entry.get("state") == "SUCCEEDED" and began is not None and ended is not None:
                found.setdefault(name, round(max(0.0, ended - began), 3))
        good += 1
        if good == ENOUGH:
            break
    return found
