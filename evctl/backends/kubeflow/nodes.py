"""What the API's `task_details` tell: Argo's nodes, unlinked and mostly called `executor`, found again by their ids. Pure.

Argo's node id is `<workflow>-<FNV-1a of the node's name>` (argo-workflows, workflow/util `NodeID`), and an entry names its
children by id. A node's name is its place in the tree, which the spec tells, so each node is found exactly where several
tasks have one name: in loops, and in a pipeline that is used twice.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

_ATTEMPT = re.compile(r"\(\d+\)$")
_NUMBER = re.compile(r"-(\d+)$")
_ITERATION = re.compile(r"iteration-iterations\((\d+):.*\)$")
EPOCH_YEARS = (1, 1970)
"""`0001-...` and `1970-...` stand for "not yet" (kubeflow-facts 6)."""
ROOT = "root"
HOOK = "onExit"
MOST_ATTEMPTS = 30
Name = tuple[str, int]
"""A node's whole name, and the hash of it."""


def moment(text: Any) -> datetime | None:
    """Parse an API time; None for the API's placeholders."""
    if not isinstance(text, str) or not text:
        return None
    try:
        value = datetime.fromisoformat(text.replace("Z", "+00:00"))
    except ValueError:
        return None
    value = value if value.tzinfo is not None else value.replace(tzinfo=UTC)
    return None if value.year in EPOCH_YEARS else value


def iteration(loop: str, index: int) -> str:
    """Return the place of a loop's iteration: KFP wraps it in nodes of its own."""
    return f"{loop}.iteration-iterations({index}:{index}).iteration-item"


def place_of(node_name: str) -> str:
    """Return a node's place: its name without the workflow's and without the numbers of attempts."""
    return ".".join(_ATTEMPT.sub("", part) for part in node_name.split(".")[1:])


@dataclass(frozen=True, slots=True)
class Entry:
    """One Argo node as the API shows it. `children` are the numbers of their ids."""

    name: str
    state: str | None
    started_at: datetime | None
    finished_at: datetime | None
    children: frozenset[int]


@dataclass(frozen=True, slots=True)
class Nodes:
    """The entries of a run, by display name without the retry index."""

    by_name: Mapping[str, tuple[Entry, ...]] = field(default_factory=dict)
    workflow: str = ""
    ids: frozenset[int] = frozenset()
    """The numbers of all ids that are somebody's child."""
    _known: dict[str, Name | None] = field(default_factory=dict, compare=False, repr=False)

    @property
    def exact(self) -> bool:
        """Whether places can be told apart; else tasks of one name answer for each other."""
        return self._named(ROOT) is not None or self._named(f"{ROOT}-driver") is not None

    def state(self, place: str) -> str | None:
        """Return the state of a node; '' for one that was omitted, None when there is no such node.

        Where places cannot be told apart the least finished node of the name answers.
        """
        if self.exact:
            if self._named(place) is None:
                return None
            entry = self.entry(place)
            return (entry.state or "") if entry else ""
        states = [entry.state or "" for entry in self.by_name.get(_last(place), ())]
        for state in ("RUNNING", "PENDING", "FAILED", "SUCCEEDED", "SKIPPED", ""):
            if state in states:
                return state
        return states[0] if states else None

    def entry(self, place: str) -> Entry | None:
        """Return a node's entry."""
        found = self.by_name.get(_last(place), ())
        if not self.exact:
            return found[0] if found else None
        name = self._named(place)
        if name is None:
            return None
        if len(found) <= 1:
            return found[0] if found else None
        own = set(self._attempts_of(name)) | {_more(name, ".executor")[1]}
        if near := [entry for entry in found if entry.children & own]:
            return near[0]
        # a DAG without attempts has its tasks for children, and a task that was left out has what needs it
        above = self._named(_above(place))
        inner = [self._inner(each) for each in (name, above) if each is not None]
        around = {_more(each, f".{shown}")[1] for each in inner for shown in self.by_name}
        near = [entry for entry in found if entry.children & around]
        left = near or [entry for entry in found if not entry.children]
        return left[0] if left and len({entry.state for entry in left}) == 1 else None

    def iterations(self, loop: str) -> tuple[int, ...]:
        """Return the indices of a loop's iterations that have begun."""
        found = [match for match in map(_ITERATION.match, self.by_name) if match]
        named = sorted({int(match[1]) for match in found})
        return tuple(index for index in named if self._named(_above(iteration(loop, index))) is not None)

    def attempts(self, pod: str | None) -> int | None:
        """Return how many pods were tried where `pod` was the last; None when the API does not say."""
        number = _NUMBER.search(pod or "")
        if number is None:
            return None
        for entry in self.by_name.get("executor", ()):
            if int(number[1]) in entry.children:
                return len(entry.children)
        return None

    def tried(self, place: str) -> int:
        """Return how many attempts of a task have a node."""
        name = self._named(f"{place}.executor")
        return len(list(self._attempts_of(name))) if name is not None else 0

    def cached(self, place: str) -> bool:
        """Whether a succeeded task's executor was skipped, which is what a cache hit looks like."""
        task = self.entry(place)
        if task is None or task.state != "SUCCEEDED":
            return False
        root = self._named(ROOT)
        if root is not None and self._inner(root) != root:
            # a default install retries every node, so each executor that was started has attempts
            return self._named(f"{place}.executor") is not None and not self.tried(place)
        executors = self.by_name.get("executor", ())
        return any(entry.state == "SKIPPED" and entry.started_at == task.started_at for entry in executors)

    def pod(self, place: str, template: str) -> str | None:
        """Return the name of the pod of a node's last attempt (argo-workflows, workflow/util `GeneratePodName`)."""
        name = self._named(place)
        return f"{self.workflow}-{template}-{self._inner(name)[1]}" if name is not None else None

    def names(self) -> tuple[str, ...]:
        """Return the names that have a driver, which are the pipeline's tasks and DAGs, in the order of start."""
        found = [key for key in self.by_name if key != ROOT and f"{key}-driver" in self.by_name]
        first = {key: min((e.started_at for e in self.by_name[key] if e.started_at), default=None) for key in found}
        return tuple(sorted(found, key=lambda key: (first[key] is None, str(first[key]), key)))

    def _named(self, place: str) -> Name | None:
        """Return the whole name of the node at a place; None when there is none."""
        if place not in self._known:
            self._known[place] = self._find(place)
        return self._known[place]

    def _find(self, place: str) -> Name | None:
        if not place:
            return _more(("", _SEED), self.workflow) if self.workflow else None
        above = self._named(_above(place))
        if above is None:
            return None
        # a hook hangs on the task itself, everything else on its last attempt
        inner = above if _last(place) == HOOK else self._inner(above)
        name = _more(inner, f".{_last(place)}")
        return name if name[1] in self.ids else None

    def _inner(self, name: Name) -> Name:
        last = -1
        for at, _ in enumerate(self._attempts_of(name)):
            last = at
        return _more(name, f"({last})") if last >= 0 else name

    def _attempts_of(self, name: Name) -> Iterator[int]:
        for at in range(MOST_ATTEMPTS):
            number = _more(name, f"({at})")[1]
            if number not in self.ids:
                return
            yield number


_SEED, _PRIME = 0x811C9DC5, 0x01000193


def _more(name: Name, text: str) -> Name:
    """Return a longer name with its FNV-1a hash."""
    whole, number = name
    for byte in text.encode():
        number = ((number ^ byte) * _PRIME) & 0xFFFFFFFF
    return whole + text, number


def _last(place: str) -> str:
    return place.rpartition(".")[2]


def _above(place: str) -> str:
    return place.rpartition(".")[0]


def read(run: Mapping[str, Any]) -> Nodes:
    """Return the Argo nodes of a run document."""
    details = (run.get("run_details") or {}).get("task_details") or ()
    by_name: dict[str, list[Entry]] = {}
    ids: set[int] = set()
    workflow = ""
    for item in filter(_is_mapping, details):
        children = set()
        for child in _children(item):
            number = _NUMBER.search(child)
            if number is not None:
                children.add(int(number[1]))
                workflow = workflow or child[: number.start()]
        ids |= children
        name = item.get("display_name")
        if not name or _ATTEMPT.search(name):
            continue
        entry = Entry(
            name,
            item.get("state"),
            moment(item.get("start_time")),
            moment(item.get("end_time")),
            frozenset(children),
        )
        by_name.setdefault(name, []).append(entry)
    return Nodes({name: tuple(entries) for name, entries in by_name.items()}, workflow, frozenset(ids))


def _children(item: Mapping[str, Any]) -> Iterable[str]:
    children = filter(_is_mapping, item.get("child_tasks") or ())
    return [str(child["pod_name"]) for child in children if child.get("pod_name")]


def _is_mapping(item: Any) -> bool:
    return isinstance(item, Mapping)
