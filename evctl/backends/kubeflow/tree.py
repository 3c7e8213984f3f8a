"""The task tree: each node of the spec with what the sources say of it. Pure; `tasks` says what one task's line is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from evctl.backends.base import GOOD_TASK_STATES, TERMINAL_TASK_STATES, RunState, TaskState, TaskStatus
from evctl.backends.kubeflow.artifacts import folded
from evctl.backends.kubeflow.nodes import HOOK, ROOT, Nodes, iteration
from evctl.backends.kubeflow.seen import Walk
from evctl.backends.kubeflow.tasks import DONE, reason_of, task_of
from evctl.backends.metadata.values import Execution
from evctl.backends.spec import Node, gate_words


def walk(tree: Sequence[Node] | None, seen: Walk) -> tuple[TaskStatus, ...]:
    """Return the tree's lines in the order of the flow; from what ran alone where the spec is gone."""
    root = seen.root()
    nodes = _from_executions(seen, root) if tree is None else tuple(tree)
    if tree is None and not nodes:
        # nothing tells what is inside what, so names alone have to do
        nodes = tuple(Node(key, "task") for key in seen.nodes.names())
        seen = replace(seen, nodes=Nodes(seen.nodes.by_name))
    return _told_apart(tuple(_lines(nodes, seen, root, Spot(ROOT, ()), skipped=False)))


def _told_apart(lines: tuple[TaskStatus, ...]) -> tuple[TaskStatus, ...]:
    """Return the lines with their groups in front of tasks that have one name."""
    labels = Counter(line.label for line in lines if line.kind == "task")
    return tuple(
        replace(line, group=folded(line.path)) if line.kind == "task" and labels[line.label] > 1 else line
        for line in lines
    )


@dataclass(frozen=True, slots=True)
class Spot:
    """Where the walk is: `place` among Argo's nodes, `path` as a person sees it."""

    place: str
    path: tuple[str, ...]

    def of(self, node: Node) -> str:
        """Return a node's place: a task that always runs is a hook of the handler that it waits for."""
        if node.always_runs and node.after:
            return f"{self.place}.{node.after[0]}.{HOOK}.{node.key}"
        return f"{self.place}.{node.key}"


def _from_executions(seen: Walk, parent: Execution | None) -> tuple[Node, ...]:
    if parent is None:
        return ()
    found: dict[str, Node] = {}
    for child in seen.executions():
        if child.parent == parent.id and child.iteration is None:
            begun = [each for _, each in seen.iterations(child, "") if each is not None]
            kind = ("loop" if child.iterations is not None else "group") if child.is_dag else "task"
            inner = _from_executions(seen, begun[0] if begun else child)
            found[child.task] = Node(child.task, kind, child.display_name, inner, importer=child.importer)  # type: ignore[arg-type]
    return tuple(found.values())


def _lines(
    nodes: Sequence[Node], seen: Walk, parent: Execution | None, spot: Spot, *, skipped: bool
) -> Iterator[TaskStatus]:
    for node in nodes:
        execution = seen.inside(parent, node)
        place = spot.of(node)
        if node.kind == "task":
            yield task_of(node, execution, seen, place, spot.path, skipped=skipped)
            continue
        closed = skipped or _refused(node, execution, seen, place)
        inner = list(_inner(node, execution, seen, Spot(place, (*spot.path, node.name)), skipped=closed))
        yield _group(node, execution, seen, Spot(place, spot.path), inner, skipped=closed)
        yield from inner


def _inner(node: Node, execution: Execution | None, seen: Walk, spot: Spot, *, skipped: bool) -> Iterator[TaskStatus]:
    iterations = seen.iterations(execution, spot.place) if node.kind == "loop" else []
    if not iterations:
        yield from _lines(node.children, seen, execution, spot, skipped=skipped)
    for index, begun in iterations:
        inside = Spot(iteration(spot.place, index), (*spot.path, str(index)))
        yield from _lines(node.children, seen, begun, inside, skipped=skipped)


def _refused(node: Node, execution: Execution | None, seen: Walk, place: str) -> bool:
    """Whether nothing inside will run: a gate said no, or a loop has nothing to go over."""
    if execution is not None:
        return execution.state == "CANCELED" or execution.iterations == 0
    return node.kind == "gate" and seen.nodes.state(place) == "SKIPPED"


def _group(
    node: Node,
    execution: Execution | None,
    seen: Walk,
    spot: Spot,
    inner: Sequence[TaskStatus],
    *,
    skipped: bool,
) -> TaskStatus:
    broken = next((each for each in _drivers(node, seen, spot.place) if seen.nodes.state(each) == "FAILED"), None)
    state = TaskState.SKIPPED if skipped else _group_state(node, execution, seen, spot.place, inner)
    reason, pod = None, None
    if broken is not None and not skipped and TaskState.FAILED not in {line.state for line in inner}:
        state = TaskState.CANCELED if seen.ending else TaskState.FAILED
        pods = seen.at(broken)
        pod = pods[-1].name if pods else seen.nodes.pod(broken, "system-dag-driver")
        reason = reason_of(state, seen, pods, pod, broken)
    starts = [line.started_at for line in inner if line.started_at]
    ends = [line.finished_at for line in inner if line.finished_at]
    note = gate_words(node, execution.inputs if execution else {}, seen.parameters) if node.kind == "gate" else None
    return TaskStatus(
        name=node.name,
        state=state,
        kind=node.kind,
        path=spot.path,
        started_at=min(starts, default=execution.created_at if execution else None),
        finished_at=max(ends, default=None) if state in TERMINAL_TASK_STATES else None,
        reason=reason,
        pod=pod,
        note=note,
    )


def _drivers(node: Node, seen: Walk, place: str) -> Iterator[str]:
    """Yield the places of the drivers of a DAG, which resolve its inputs and its condition."""
    if node.kind != "loop":
        yield f"{place}-driver"
        return
    yield f"{place}.iteration-driver"
    for index in seen.nodes.iterations(place):
        yield f"{iteration(place, index)}-driver"


def _group_state(
    node: Node, execution: Execution | None, seen: Walk, place: str, inner: Sequence[TaskStatus]
) -> TaskState:
    states = {line.state for line in inner}
    if execution is not None and execution.state in DONE and not seen.live:
        return DONE[execution.state]
    for worst in (TaskState.FAILED, TaskState.CANCELED):
        if worst in states:
            return worst
    if states and states <= TERMINAL_TASK_STATES and states & GOOD_TASK_STATES:
        return TaskState.SUCCEEDED
    if not seen.live:
        started = execution is not None or seen.nodes.state(place) not in (None, "")
        return TaskState.CANCELED if started and seen.state is RunState.CANCELED else TaskState.SKIPPED
    return TaskState.RUNNING if execution is not None or states - {TaskState.PENDING} else TaskState.PENDING
