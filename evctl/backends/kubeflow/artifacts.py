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
Flow = Mapping[tuple[str, ...], tuple[int, tuple[str, ...]]]
"""Place in the order of the flow, and the names that people see, by ML Metadata's names of a task and its groups."""


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
    flow = {key: (at, shown) for at, (key, shown) in enumerate(_flow(nodes))}
    named = {path: _named(path, flow) for path in newest}
    labels = Counter(map(_plain_label, named.values()))
    found = [
        Place(each, path, _plain_label(shown) if labels[_plain_label(shown)] == 1 else _full_label(shown))
        for (path, each), shown in zip(newest.items(), named.values(), strict=True)
    ]

    def rank(place: Place) -> tuple[int, tuple[int, ...], int]:
        indices = tuple(index for _, index in place.path if index is not None)
        return flow.get(_keys(place.path), (len(flow), ()))[0], indices, place.execution.id

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
    by_id = {each.id: each for each in metadata.executions}
    same = [each for each in places(metadata) if _plain_label(each.path) == wanted]
    if len(same) > 1:
        # a group's name may be its key or its title
        around = {part for part in path if not part.isdigit()}
        fits = {each.label: len(around & _names_around(each.execution, by_id)) for each in same}
        same = [each for each in same if fits[each.label] == max(fits.values())]
    found: dict[int, Artifact] = {}
    for place in same:
        for name, stored in _written(place.execution, metadata):
            if name == LOG_ARTIFACT:
                retry = _RETRY.search(stored.uri)
                found[int(retry[1]) + 1 if retry else 1] = _artifact(place.label, name, stored, metadata.store)
    return tuple(sorted(found.items()))


def folded(path: Sequence[str]) -> str:
    """Return the names around a task as one text. `path` is `TaskStatus.path`."""
    text = ""
    for part in path:
        text += f"[{part}]" if part.isdigit() else f"/{part}"
    return text.removeprefix("/")


def _path(execution: Execution, by_id: Mapping[int, Execution]) -> Path:
    steps: list[tuple[str, int | None]] = []
    at: Execution | None = execution
    seen: set[int] = set()
    while at is not None and at.id not in seen:
        seen.add(at.id)
        above = by_id.get(at.parent) if at.parent is not None else None
        if at.iteration is not None and above is not None and above.iterations is not None:
            # an iteration is called `iteration-item`, whatever its loop is called
            steps.append((above.task, at.iteration))
            seen.add(above.id)
            at = by_id.get(above.parent) if above.parent is not None else None
            continue
        if at.task:
            steps.append((at.task, at.iteration))
        at = above
    return tuple(reversed(steps))


def _names_around(execution: Execution, by_id: Mapping[int, Execution]) -> set[str]:
    names: set[str] = set()
    at = by_id.get(execution.parent or -1)
    for _ in by_id:
        if at is None:
            break
        names |= {_shown(at.task), _shown(at.display_name)}
        at = by_id.get(at.parent or -1)
    return names


def _keys(path: Path) -> tuple[str, ...]:
    return tuple(task for task, _ in path)


def _named(path: Path, flow: Flow) -> Path:
    """Return a path in the names that people see."""
    shown = flow.get(_keys(path), (0, ()))[1] or _keys(path)
    return tuple((name, index) for name, (_, index) in zip(shown, path, strict=True))


def _shown(task: str) -> str:
    return task.replace("-", "_")


def _plain_label(path: Path) -> str:
    return label(_shown(path[-1][0]) if path else "", [str(i) for _, i in path if i is not None])


def _full_label(path: Path) -> str:
    return "/".join(label(_shown(task), [] if index is None else [str(index)]) for task, index in path)


def _flow(
    nodes: Sequence[Node], path: tuple[str, ...] = (), shown: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], tuple[str, ...]]]:
    """Yield (ML Metadata's names, people's names) of each task with its groups, in the order of the flow."""
    for node in nodes:
        # KFP writes loops and importers under the name that is shown
        own = node.title if node.title and (node.kind == "loop" or node.importer) else node.key
        here, names = (*path, own), (*shown, node.name)
        if node.children:
            yield from _flow(node.children, here, names)
        else:
            yield here, names


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
