"""The worker's record of a run and its events: every change is on disk before the run goes on."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Mapping
from typing import Any

from evctl.backends.local.content import output_digests
from evctl.backends.local.events import EVENT_OF, EventLog
from evctl.backends.local.folder import RunFolder

REGISTER, EVALUATE = "register_fault_model", "evaluate_fault_model"


class Recorder:
    """Writes `record.json` and `events.jsonl`. Threads of parallel tasks share one."""

    def __init__(self, folder: RunFolder, document: dict[str, Any]) -> None:
        self._folder = folder
        self._lock = threading.Lock()
        self._events = EventLog(folder.events_file)
        self.document = document
        self._save()

    def begin_run(self) -> None:
        """The run begins, or begins again."""
        self.set(state="RUNNING", finished_at=None, reason=None, cancel_requested=False, failures=[])
        self.event("run_started")

    def event(self, event: str, **fields: Any) -> None:
        """Append an event; fields that are None are left out."""
        self._folder.give_way(lambda: self._events.write(event, **fields))

    def set(self, **fields: Any) -> None:
        """Change fields of the run."""
        with self._lock:
            self.document.update(fields)
            self._save()

    def task(self, name: str, **fields: Any) -> None:
        """Change fields of a task."""
        with self._lock:
            self.document["tasks"].setdefault(name, {"attempts": 0}).update(fields)
            self._save()

    def begin(self, name: str) -> None:
        """A task begins."""
        self.task(name, state="RUNNING", started_at=time.time(), finished_at=None, reason=None, attempts=0)
        self.event("task_started", task=name)

    def attempt(self, name: str) -> int:
        """A process of a task begins; returns which attempt it is, from 1."""
        with self._lock:
            entry = self.document["tasks"].setdefault(name, {"attempts": 0})
            entry["attempts"] += 1
            number = int(entry["attempts"])
            self._save()
        self.event("task_attempt", task=name, attempt=number)
        return number

    def attempts(self, name: str) -> int:
        """Return how many processes a task has had."""
        with self._lock:
            return int(self.document["tasks"].get(name, {}).get("attempts", 0))

    def end(
        self, name: str, state: str, *, reason: str | None = None, outputs: Mapping[str, Any] | None = None
    ) -> None:
        """A task ends; outputs are kfp's cache serialisation of them."""
        with self._lock:
            entry = self.document["tasks"].setdefault(name, {"attempts": 0})
            entry.update(state=state, finished_at=time.time(), reason=reason)
            entry["ends"] = entry.get("ends", 0) + 1
            if outputs is not None:
                entry["outputs"] = dict(outputs)
                entry["digests"] = output_digests(outputs)
            if state == "FAILED":
                # a loop's iterations share a name: what one of them said must outlive the next one's success
                self.document.setdefault("failures", []).append([name, reason])
            registered = self._note(name, outputs or {})
            self._save()
            began, ended = entry.get("started_at"), entry["finished_at"]
        if registered is not None:
            self.event("model_registered", model=registered)
        took = None if began is None else round(ended - began, 3)
        self.event(EVENT_OF[state], task=name, reason=reason, seconds=took)

    def keep(self, name: str) -> None:
        """A retry keeps what a task gave out."""
        self.event("task_kept", task=name)

    def _note(self, name: str, outputs: Mapping[str, Any]) -> dict[str, Any] | None:
        if name == EVALUATE and isinstance(outputs.get("accuracy"), int | float):
            self.document["accuracy"] = outputs["accuracy"]
        if name == REGISTER and outputs.get("model_uri"):
            self.document["model"] = {"version": outputs["model_version"], "uri": outputs["model_uri"]}
            return dict(self.document["model"])
        return None

    def _save(self) -> None:
        self._folder.write(self._folder.record_file, json.dumps(self.document))
