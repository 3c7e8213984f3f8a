"""The task tree: each node of the spec with what the three sources say of it. Pure."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator, Sequence

from evctl.backends.base import (
    GOOD_TASK_STATES,
    TERMINAL_TASK_STATES,
    RunState,
    TaskState,
    TaskStatus,
)
from evctl.backends.kubeflow.pods import Pod
from evctl.backends.kubeflow.seen import Walk
from evctl.backends.metadata.values import Execution, RunMetadata
from evctl.backends.spec import Node, gate_words

_DONE = {"COMPLETE": TaskState.SUCCEEDED, "CACHED": TaskState.CACHED, "FAILED": TaskState.FAILED}
_API = {
    "SUCCEEDED": TaskState.SUCCEEDED,
    "FAILED": TaskState.FAILED,
    "SKIPPED": TaskState.SKIPPED,
    "RUNNING": TaskState.RUNNING,
    "PENDING": TaskState.PENDING,
    "": TaskState.SKIPPED,
}


def walk(tree: Sequence[Node] | None, seen: Walk) -> tuple[TaskStatus, ...]:
    """Return the tree's lines in the order of the flow; from what ran alone where the spec is gone."""
    root = seen.root()
    nodes = _from_executions(seen, root) if tree is None else tuple(tree)
    if tree is None and not nodes:
        nodes = tuple(Node(key, "task") for key in seen.nodes.names())
    return tuple(_lines(nodes, seen, root, (), skipped=False))


def _from_executions(seen: Walk, parent: Execution | None) -> tuple[Node, ...]:
    if parent is None:
        return ()
    found: dict[str, Node] = {}
    for child in seen.executions():
        if child.parent == parent.id and child.iteration is None:
            inner = seen.iterations(child)[:1] or [child]
            kind = ("loop" if child.iterations is not None else "group") if child.is_dag else "task"
            found[child.task] = Node(child.task, kind, child.display_name, _from_executions(seen, inner[0]))  # type: ignore[arg-type]
    return tuple(found.values())


def _lines(
    nodes: Sequence[Node], seen: Walk, parent: Execution | None, path: tuple[str, ...], *, skipped: bool
) -> Iterator[TaskStatus]:
    for node in nodes:
        execution = seen.inside(parent, node.key)
        if node.kind == "task":
            yield _task(node, execution, seen, path, skipped=skipped)
            continue
        closed = skipped or _refused(node, execution, seen)
        inner = list(_inner(node, execution, seen, (*path, node.name), skipped=closed))
        yield _group(node, execution, seen, path, inner, skipped=closed)
        yield from inner


def _inner(
    node: Node, execution: Execution | None, seen: Walk, path: tuple[str, ...], *, skipped: bool
) -> Iterator[TaskStatus]:
    iterations = seen.iterations(execution) if node.kind == "loop" else []
    if not iterations:
        yield from _lines(node.children, seen, execution, path, skipped=skipped)
    for iteration in iterations:
        yield from _lines(node.children, seen, iteration, (*path, str(iteration.iteration)), skipped=skipped)


def _refused(node: Node, execution: Execution | None, seen: Walk) -> bool:
    if execution is not None:
        return execution.state == "CANCELED"
    return node.kind == "gate" and seen.nodes.state(node.key) == "SKIPPED"


def _task(node: Node, execution: Execution | None, seen: Walk, path: tuple[str, ...], *, skipped: bool) -> TaskStatus:
    api = seen.nodes.state(node.key)
    state = TaskState.SKIPPED if skipped else _task_state(node, execution, seen, api)
    pod = _pod_of(node, execution, seen)
    entry = seen.nodes.entry(node.key)
    started = execution.created_at if execution else (entry.started_at if entry else None)
    finished = execution.updated_at if execution else (entry.finished_at if entry else None)
    if execution is not None and execution.state not in ("COMPLETE", "CACHED", "FAILED"):
        finished = seen.ended
    if state in (TaskState.PENDING, TaskState.SKIPPED):
        started = None
    cached = state is TaskState.CACHED
    # in a loop the pods of all iterations have one name
    own = [] if any(part.isdigit() for part in path) else seen.pods_of(node.key)
    attempts = _attempts(execution, seen, state, pod, own)
    return TaskStatus(
        name=node.name,
        state=state,
        path=path,
        cached=cached,
        attempts=attempts,
        max_attempts=node.max_attempts,
        started_at=started,
        finished_at=finished if started and state in TERMINAL_TASK_STATES else None,
        reason=_reason(node, state, seen, pod) or _again(node, state, seen, own, attempts),
        pod=pod,
        note=note_of(execution, seen.metadata),
        always_runs=node.always_runs,
    )


def _task_state(node: Node, execution: Execution | None, seen: Walk, api: str | None) -> TaskState:
    if execution is None:
        return _without_execution(node, seen, api)
    done = _DONE.get(execution.state)
    if seen.live:
        if done is TaskState.FAILED and api in ("RUNNING", "PENDING"):
            done = None  # another attempt is on its way: one execution holds only the last one's end
        if done is not None:
            return done
        # KFP's driver writes RUNNING before there is a pod; the pod's name is written by its launcher
        started = execution.pod or any(pod.running for pod in seen.pods_of(node.key))
        return TaskState.RUNNING if started else TaskState.PENDING
    if done is not None:
        return done
    if execution.state == "CANCELED" or seen.state is RunState.CANCELED:
        return TaskState.CANCELED
    return _API.get(api or "RUNNING", TaskState.FAILED) if api == "SUCCEEDED" else TaskState.FAILED


def _without_execution(node: Node, seen: Walk, api: str | None) -> TaskState:
    driver = seen.nodes.state(f"{node.key}-driver")
    if api is None:
        if driver == "FAILED":
            return TaskState.CANCELED if seen.state is RunState.CANCELED else TaskState.FAILED
        return TaskState.PENDING if seen.live else TaskState.SKIPPED
    state = _API.get(api, TaskState.PENDING)
    pods = seen.pods_of(node.key)
    if state is TaskState.RUNNING and pods and pods[-1].blocked:
        return TaskState.PENDING
    if state is TaskState.SUCCEEDED and seen.nodes.cached(node.key):
        return TaskState.CACHED
    if not seen.live and state is TaskState.FAILED and seen.state is RunState.CANCELED:
        return TaskState.CANCELED
    if seen.live or state in TERMINAL_TASK_STATES:
        return state
    return TaskState.CANCELED if seen.state is RunState.CANCELED else TaskState.FAILED


def _pod_of(node: Node, execution: Execution | None, seen: Walk) -> str | None:
    if execution is not None and execution.pod:
        return execution.pod
    if execution is not None and execution.state == "CACHED":
        return None
    own = seen.pods_of(node.key) or seen.pods_of(node.key, driver=True)
    return own[-1].name if own else None


def _attempts(execution: Execution | None, seen: Walk, state: TaskState, pod: str | None, own: Sequence[Pod]) -> int:
    if state in (TaskState.CACHED, TaskState.SKIPPED):
        return 0
    counted = seen.nodes.attempts(pod)
    if counted is not None:
        return max(counted, len(own) if seen.live else 0)
    begun = 1 if execution is not None and execution.pod else 0
    return max(len(own), begun, 0 if state is TaskState.PENDING else 1)


def _again(node: Node, state: TaskState, seen: Walk, own: Sequence[Pod], attempts: int) -> str | None:
    """Return why a task that goes on is being tried again."""
    dead = [pod for pod in own if pod.phase == "Failed"]
    if state not in (TaskState.RUNNING, TaskState.PENDING) or not dead or node.max_attempts == 1:
        return None
    last = dead[-1]
    why = seen.logs.get(last.name) or last.death or (f"exit code {last.exit_code}" if last.exit_code else "failed")
    return f"attempt {attempts} of {node.max_attempts}: {why}"


def _reason(node: Node, state: TaskState, seen: Walk, pod_name: str | None) -> str | None:
    if state in GOOD_TASK_STATES or state is TaskState.SKIPPED:
        return None
    own = seen.pods_of(node.key) + seen.pods_of(node.key, driver=True)
    last = next((pod for pod in own if pod.name == pod_name), own[-1] if own else None)
    blocked = [pod.blocked for pod in own if pod.blocked]
    if blocked:
        return blocked[-1]
    if state is TaskState.CANCELED:
        return "cancelled"
    if state is not TaskState.FAILED:
        return None
    if last is not None and last.death:
        return last.death
    words = seen.logs.get(pod_name or "")
    code = last.exit_code if last else None
    if words:
        return f"{_code(code)}: {words}" if code not in (None, 1) else words
    if code is not None:
        return _code(code)
    if last is not None and last.driver:
        return "its driver failed"
    return seen.deadline or "failed; its pod is gone and its log could not be read"


def _code(code: int | None) -> str:
    """Say an exit code; above 128 a container was ended by a signal."""
    with contextlib.suppress(ValueError, TypeError):
        return f"exit code {code} ({signal.Signals((code or 0) - 128).name})"
    return f"exit code {code}"


def _group(
    node: Node,
    execution: Execution | None,
    seen: Walk,
    path: tuple[str, ...],
    inner: Sequence[TaskStatus],
    *,
    skipped: bool,
) -> TaskStatus:
    state = TaskState.SKIPPED if skipped else _group_state(node, execution, seen, inner)
    starts = [line.started_at for line in inner if line.started_at]
    ends = [line.finished_at for line in inner if line.finished_at]
    note = gate_words(node, execution.inputs if execution else {}, seen.parameters) if node.kind == "gate" else None
    return TaskStatus(
        name=node.name,
        state=state,
        kind=node.kind,
        path=path,
        started_at=min(starts, default=execution.created_at if execution else None),
        finished_at=max(ends, default=None) if state in TERMINAL_TASK_STATES else None,
        note=note,
    )


def _group_state(node: Node, execution: Execution | None, seen: Walk, inner: Sequence[TaskStatus]) -> TaskState:
    states = {line.state for line in inner}
    if execution is not None and execution.state in _DONE and not seen.live:
        return _DONE[execution.state]
    for worst in (TaskState.FAILED, TaskState.CANCELED):
        if worst in states:
            return worst
    if states and states <= TERMINAL_TASK_STATES and states & GOOD_TASK_STATES:
        return TaskState.SUCCEEDED
    if not seen.live:
        started = execution is not None or seen.nodes.state(node.key) not in (None, "")
        return TaskState.CANCELED if started and seen.state is RunState.CANCELED else TaskState.SKIPPED
    return TaskState.RUNNING if execution is not None or states - {TaskState.PENDING} else TaskState.PENDING


def note_of(execution: Execution | None, metadata: RunMetadata | None) -> str | None:
    """Return what a task says of its result: its `summary` parameter, or its first artifact's."""
    if execution is None or execution.state not in ("COMPLETE", "CACHED"):
        return None
    if isinstance(said := execution.outputs.get("summary"), str):
        return said
    for link in metadata.links if metadata else ():
        if link.output and link.execution == execution.id and metadata is not None:
            stored = metadata.artifacts.get(link.artifact)
            if stored is not None and isinstance(said := stored.metadata.get("summary"), str):
                return said
    return None
