"""What a run's tasks gave out, from ML Metadata's executions and events. Pure.

By events, since a cached task's artifacts belong to the older run's context (kubeflow-facts 3).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from evctl.backends.base import Artifact, Outputs
from evctl.backends.metadata.values import Execution, RunMetadata, StoredArtifact
from evctl.backends.spec import Node

LOG_ARTIFACT = "executor-logs"
"""The launcher stores each attempt's log under this name; it is a log, not an output."""
_RETRY = re.compile(rf"{LOG_ARTIFACT}-(\d+)$")
Path = tuple[tuple[str, int | None], ...]
"""(task, iteration) of each DAG around an execution, outermost first, and of itself."""


@dataclass(frozen=True, slots=True)
class Place:
    """One task's execution, and the label a person knows it by."""

    execution: Execution
    path: Path
    label: str


def label(name: str, path: Sequence[str]) -> str:
    """Return a task's label: its name, and `[i]` for each loop around it. `path` is `TaskStatus.path`."""
    return name + "".join(f"[{part}]" for part in path if part.isdigit())


def places(metadata: RunMetadata, nodes: Sequence[Node] = ()) -> tuple[Place, ...]:
    """Return each task's newest execution, in the order of the flow; by id where the spec is unknown.

    A retry makes new executions under new or old DAGs, so the newest is found by path, not by parent. Two tasks of one
    name in different groups get their group's name in front.
    """
    by_id = {each.id: each for each in metadata.executions}
    newest: dict[Path, Execution] = {}
    for each in sorted(metadata.executions, key=lambda e: e.id):
        if not each.is_dag:
            newest[_path(each, by_id)] = each
    names = Counter(_plain_label(path) for path in newest)
    order = {key: at for at, key in enumerate(_flow(nodes))}
    found = [
        Place(each, path, _plain_label(path) if names[_plain_label(path)] == 1 else _full_label(path))
        for path, each in newest.items()
    ]

    def rank(place: Place) -> tuple[int, tuple[int, ...], int]:
        indices = tuple(index for _, index in place.path if index is not None)
        return order.get(tuple(task for task, _ in place.path), len(order)), indices, place.execution.id

    return tuple(sorted(found, key=rank))


def outputs_of(run_id: str, metadata: RunMetadata, nodes: Sequence[Node] = ()) -> Outputs:
    """Return a run's output parameters, keyed `task.output`, and its artifacts, cached ones included.

    Args:
        nodes: the spec's tree, for the order of the flow.
    """
    parameters = {}
    artifacts = []
    for place in places(metadata, nodes):
        for key, value in sorted(place.execution.outputs.items()):
            parameters[f"{place.label}.{key}"] = value
        for name, stored in _written(place.execution, metadata):
            if name != LOG_ARTIFACT:
                artifacts.append(_artifact(place.label, name, stored, metadata.store))
    return Outputs(run_id, parameters, tuple(artifacts))


def log_artifacts(metadata: RunMetadata, task: str, path: Sequence[str] = ()) -> tuple[tuple[int, Artifact], ...]:
    """Return (attempt, stored log) of a task, attempts from 1. `task` and `path` are `TaskStatus`' own."""
    wanted = label(task, path)
    found: dict[int, Artifact] = {}
    for place in places(metadata):
        if wanted not in (place.label, _plain_label(place.path)):
            continue
        for name, stored in _written(place.execution, metadata):
            if name == LOG_ARTIFACT:
                retry = _RETRY.search(stored.uri)
                found[int(retry[1]) + 1 if retry else 1] = _artifact(place.label, name, stored, metadata.store)
    return tuple(sorted(found.items()))


def _path(execution: Execution, by_id: Mapping[int, Execution]) -> Path:
    steps: list[tuple[str, int | None]] = []
    at: Execution | None = execution
    seen: set[int] = set()
    while at is not None and at.id not in seen:
        seen.add(at.id)
        loop = by_id.get(at.parent) if at.parent is not None else None
        if at.iteration is not None and loop is not None and loop.task == at.task and loop.iterations is not None:
            at_loop = loop
            steps.append((at.task, at.iteration))
            seen.add(at_loop.id)
            at = by_id.get(at_loop.parent) if at_loop.parent is not None else None
            continue
        if at.task:
            steps.append((at.task, at.iteration))
        at = loop
    return tuple(reversed(steps))


def _shown(task: str) -> str:
    return task.replace("-", "_")


def _plain_label(path: Path) -> str:
    return label(_shown(path[-1][0]) if path else "", [str(i) for _, i in path if i is not None])


def _full_label(path: Path) -> str:
    return "/".join(label(_shown(task), [] if index is None else [str(index)]) for task, index in path)


def _flow(nodes: Sequence[Node], path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for node in nodes:
        here = (*path, node.key)
        if node.children:
            yield from _flow(node.children, here)
        else:
            yield here


def _written(execution: Execution, metadata: RunMetadata) -> Iterator[tuple[str, StoredArtifact]]:
    """Yield (name, artifact) of what an execution wrote; a list of artifacts as `name[0]`, `name[1]`."""
    links = [link for link in metadata.links if link.execution == execution.id and link.output]
    kept: dict[str, list[StoredArtifact]] = {}
    for link in sorted(links, key=lambda each: each.artifact):
        stored = metadata.artifacts.get(link.artifact)
        if stored is not None and stored not in kept.setdefault(link.name or stored.display_name, []):
            kept[link.name or stored.display_name].append(stored)
    for name, found in kept.items():
        several = len(found) > 1 and name != LOG_ARTIFACT
        for at, stored in enumerate(found):
            yield f"{name}[{at}]" if several else name, stored


def _artifact(task: str, name: str, stored: StoredArtifact, store: str | None) -> Artifact:
    metadata = {key: value for key, value in stored.metadata.items() if key != "summary"}
    return Artifact(task, name, stored.type, stored.uri, metadata=metadata, store=stored.store or store)
