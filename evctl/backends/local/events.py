"""A run's events: `events.jsonl`, one JSON object a line, appended and flushed; what is there is never changed.

    {"at": "2026-11-23T23:18:13.024Z", "event": "task_started", "task": "ingest_battery_data"}

`event` is one of run_started, run_finished, cancel_requested, model_registered, and task_ with started, attempt, cached,
kept (by a retry), finished, failed, canceled. `task`, `attempt`, `state`, `reason`, `seconds`, `model` come where they apply.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

ENDS = {
    "task_cached": "CACHED",
    "task_kept": "SUCCEEDED",
    "task_finished": "SUCCEEDED",
    "task_failed": "FAILED",
    "task_canceled": "CANCELED",
}
"""State of a task after an event."""
EVENT_OF = {"CACHED": "task_cached", "SUCCEEDED": "task_finished", "FAILED": "task_failed", "CANCELED": "task_canceled"}


class EventLog:
    """Appends to a run's events; threads of parallel tasks share one."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._cut = _ends_in_the_middle(path)

    def write(self, event: str, **fields: Any) -> None:
        """Append one event with the time it is now; fields that are None are left out."""
        at = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        told = {key: value for key, value in fields.items() if value is not None}
        line = json.dumps({"at": at, "event": event, **told}) + "\n"
        with self._lock:
            # one write each: a line that a power cut has left half is ended first, and is no event
            handle = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
            try:
                data = ("\n" * self._cut + line).encode()
                while data:
                    data = data[os.write(handle, data) :]
            finally:
                os.close(handle)
            self._cut = False


def _ends_in_the_middle(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            file.seek(-1, os.SEEK_END)
            return file.read(1) != b"\n"
    except OSError:
        return False


def read_events(path: Path) -> Iterator[dict[str, Any]]:
    """Yield a run's events in order; a line that a power cut has left half is none."""
    try:
        lines = path.read_text(errors="replace").splitlines()
    except OSError:
        return
    for line in lines:
        try:
            event = json.loads(line)
        except ValueError:
            continue
        if isinstance(event, dict) and "event" in event and "at" in event:
            yield event


def record_from(request: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """Return a run's record as its request and its events tell it, for a run whose own record is damaged.

    What the tasks gave out is not among the events, so a retry runs them again (or finds them in the cache).
    """
    kept = ("run_id", "name", "env", "parameters", "created_at")
    record: dict[str, Any] = {key: request[key] for key in kept}
    record.update(state="PENDING", tasks={}, model=None, failures=[])
    for event in read_events(path):
        _apply(record, event["event"], event, datetime.fromisoformat(event["at"]).timestamp())
    record["warnings"] = ["the run's record was damaged; this is what its events tell"]
    return record


def _apply(record: dict[str, Any], what: str, event: Mapping[str, Any], at: float) -> None:
    if what == "run_started":
        record.update(state="RUNNING", finished_at=None, reason=None, failures=[])
    elif what == "run_finished":
        record.update(state=event["state"], reason=event.get("reason"), finished_at=at)
    elif what == "model_registered":
        record["model"] = event["model"]
    elif what == "cancel_requested":
        record["cancel_requested"] = True
    if "task" not in event:
        return
    entry = record["tasks"].setdefault(event["task"], {"attempts": 0})
    if what == "task_started":
        entry.update(state="RUNNING", started_at=at, finished_at=None, reason=None, attempts=0)
    elif what == "task_attempt":
        entry["attempts"] = event.get("attempt", entry["attempts"])
    elif what in ENDS:
        entry.update(state=ENDS[what], finished_at=at, reason=event.get("reason"))
        if ENDS[what] == "FAILED":
            record["failures"].append([event["task"], event.get("reason")])
