"""What the API's `task_details` still tell: they are Argo nodes, unlinked and mostly called `executor`. Pure.

Argo's node id is `<workflow>-<FNV-1a of the node's name>` (argo-workflows, workflow/util `NodeID`), and an entry names its
children by id; so a pod's number finds the retry node above it, and that node's children are the attempts.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

_ATTEMPT = re.compile(r"\(\d+\)$")
_NUMBER = re.compile(r"-(\d+)$")
EPOCH_YEARS = (1, 1970)
"""`0001-...` and `1970-...` stand for "not yet" (kubeflow-facts 6)."""


def moment(text: Any) -> datetime | None:
    """Parse an API time; None for the API's placeholders."""
    if not isinstance(text, str) or not text:
        return None
    try:
        value = datetime.fromisoformat(text.replace("Z", "+00:00"))
    except ValueError:
        return None
    return None if value.year in EPOCH_YEARS else value


@dataclass(frozen=True, slots=True)
class Entry:
    """One Argo node as the API shows it."""

    name: str
    state: str | None
    started_at: datetime | None
    finished_at: datetime | None
    children: frozenset[str]


@dataclass(frozen=True, slots=True)
class Nodes:
    """The entries of a run, by display name without the retry index."""

    by_name: Mapping[str, tuple[Entry, ...]] = field(default_factory=dict)

    def state(self, key: str) -> str | None:
        """Return the state of a task's own node; '' for one that was omitted, None when there is no such node.

        In a loop several nodes share a name: the least finished one answers.
        """
        states = [entry.state or "" for entry in self.by_name.get(key, ())]
        for state in ("RUNNING", "PENDING", "FAILED", "SUCCEEDED", "SKIPPED", ""):
            if state in states:
                return state
        return states[0] if states else None

    def entry(self, key: str) -> Entry | None:
        """Return a task's own node."""
        found = self.by_name.get(key, ())
        return found[0] if found else None

    def attempts(self, pod: str | None) -> int | None:
        """Return how many pods were tried where `pod` was the last; None when the API does not say."""
        number = _NUMBER.search(pod or "")
        if number is None:
            return None
        for entry in self.by_name.get("executor", ()):
            if any(child.endswith(f"-{number[1]}") for child in entry.children):
                return len(entry.children)
        return None

    def cached(self, key: str) -> bool:
        """Whether a succeeded task's executor was skipped, which is what a cache hit looks like."""
        task = self.entry(key)
        if task is None or task.state != "SUCCEEDED":
            return False
        return any(e.state == "SKIPPED" and e.started_at == task.started_at for e in self.by_name.get("executor", ()))

    def names(self) -> tuple[str, ...]:
        """Return the names that have a driver, which are the pipeline's tasks and DAGs, in the order of start."""
        found = [key for key in self.by_name if key != "root" and f"{key}-driver" in self.by_name]
        first = {key: min((e.started_at for e in self.by_name[key] if e.started_at), default=None) for key in found}
        return tuple(sorted(found, key=lambda key: (first[key] is None, str(first[key]), key)))


def read(run: Mapping[str, Any]) -> Nodes:
    """Return the Argo nodes of a run document."""
    details = (run.get("run_details") or {}).get("task_details") or ()
    by_name: dict[str, list[Entry]] = {}
    for item in details:
        name = item.get("display_name")
        if not name or _ATTEMPT.search(name):
            continue
        children = frozenset(c["pod_name"] for c in item.get("child_tasks") or () if c.get("pod_name"))
        entry = Entry(name, item.get("state"), moment(item.get("start_time")), moment(item.get("end_time")), children)
        by_name.setdefault(name, []).append(entry)
    return Nodes({name: tuple(entries) for name, entries in by_name.items()})
