"""A local run's record joined with its compiled spec: the same tree before, while and after it runs. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from evctl.backends.base import (
    GOOD_TASK_STATES,
    Gate,
    RegisteredModel,
    Run,
    RunState,
    TaskState,
    TaskStatus,
)
from evctl.backends.spec import Node, gate_sides

WORKER_DIED = "the worker died (killed, or the machine went down)"
NEGATED = {">=": "<", ">": "<=", "<=": ">", "<": ">="}


def moment(seconds: float | None) -> datetime | None:
    """Return seconds since the epoch as UTC, None as None."""
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC)


def to_run(document: Mapping[str, Any], nodes: Sequence[Node], *, alive: bool, why_died: str = WORKER_DIED) -> Run:
    """Return the run that a record and its spec's nodes say. A record that ends nowhere without a worker has failed."""
    state = RunState(document["state"])
    reason = document.get("reason")
    died = not alive and state in (RunState.PENDING, RunState.RUNNING)
    if died:
        state, reason = RunState.FAILED, why_died
    values = _values(document)
    tasks = tuple(_lines(nodes, document, values, (), state, reason if died else None))
    created = moment(document["created_at"])
    ended = [t.finished_at for t in tasks if t.finished_at is not None]
    finished = moment(document.get("finished_at")) or (max(ended, default=created) if died else None)
    model = document.get("model")
    assert created is not None
    return Run(
        run_id=document["run_id"],
        name=document["name"],
        env=document["env"],
        state=state,
        created_at=created,
        finished_at=finished if state not in (RunState.PENDING, RunState.RUNNING) else None,
        parameters=document["parameters"],
        tasks=tasks,
        gate=_gate(nodes, values, document),
        model=RegisteredModel(model["version"], model["uri"]) if model else None,
        reason=reason,
        warnings=(*document.get("warnings", ()), *_untold(nodes, document)),
    )


def _untold(nodes: Sequence[Node], document: Mapping[str, Any]) -> Iterator[str]:
    """Say whom the run's end could not be told to."""
    for node in nodes:
        entry = document["tasks"].get(node.name, {}) if node.always_runs else {}
        if undelivered := (entry.get("outputs") or {}).get("undelivered"):
            yield f"not told how it ended: {undelivered}"


def _values(document: Mapping[str, Any]) -> dict[str, Any]:
    """Return what gates compare: parameters, and task outputs as kfp's channels name them."""
    values = dict(document["parameters"])
    for task, entry in document["tasks"].items():
        for key, value in (entry.get("outputs") or {}).items():
            values[f"{task.replace('_', '-')}-{key}"] = value
    return values


def _lines(
    nodes: Sequence[Node],
    document: Mapping[str, Any],
    values: Mapping[str, Any],
    path: tuple[str, ...],
    run: RunState,
    died: str | None,
) -> Iterator[TaskStatus]:
    for node in nodes:
        if node.kind == "task":
            yield _task(node, document, path, run, died)
            continue
        inner = tuple(_lines(node.children, document, values, (*path, node.name), run, died))
        if node.kind == "exit_handler":
            yield from _lines(node.children, document, values, path, run, died)
            continue
        yield TaskStatus(
            name=node.name, state=_group_state(inner, run), kind=node.kind, path=path, note=_words(node, values)
        )
        yield from inner


def _group_state(inner: Sequence[TaskStatus], run: RunState) -> TaskState:
    states = {line.state for line in inner}
    if states <= GOOD_TASK_STATES:
        return TaskState.SUCCEEDED
    for state in (TaskState.FAILED, TaskState.CANCELED, TaskState.RUNNING):
        if state in states:
            return state
    if states & GOOD_TASK_STATES:
        return TaskState.RUNNING
    return TaskState.PENDING if run in (RunState.PENDING, RunState.RUNNING) else TaskState.SKIPPED


def _task(
    node: Node,
    document: Mapping[str, Any],
    path: tuple[str, ...],
    run: RunState,
    died: str | None,
) -> TaskStatus:
    entry = document["tasks"].get(node.name, {})
    failures = document.get("failures", ())
    ended = run not in (RunState.PENDING, RunState.RUNNING)
    state = TaskState(entry.get("state", "SKIPPED" if ended else "PENDING"))
    reason = entry.get("reason")
    if lost := next((said for name, said in failures if name == node.name), None):
        state, reason = (TaskState.FAILED, lost) if state in GOOD_TASK_STATES else (state, reason or lost)
    if ended and state is TaskState.RUNNING:
        state, reason = TaskState.FAILED, died or document.get("reason") or reason
    return TaskStatus(
        name=node.name,
        state=state,
        path=path,
        cached=state is TaskState.CACHED,
        attempts=int(entry.get("attempts", 0)),
        max_attempts=node.max_attempts,
        started_at=moment(entry.get("started_at")),
        finished_at=moment(entry.get("finished_at")),
        reason=reason if state not in GOOD_TASK_STATES else None,
        note=_note(entry.get("outputs") or {}),
        always_runs=node.always_runs,
        expected_s=document.get("expected_s", {}).get(node.name),
    )


def _note(outputs: Mapping[str, Any]) -> str | None:
    if isinstance(outputs.get("summary"), str):
        return str(outputs["summary"])
    notes = [
        v["metadata"]["summary"] for v in outputs.values() if isinstance(v, dict) and "summary" in v.get("metadata", {})
    ]
    return str(notes[0]) if notes else None


def _words(node: Node, values: Mapping[str, Any]) -> str | None:
    sides = gate_sides(node, values, values)
    if sides is None:
        return None
    left, operator, right, _, bound = sides
    return f"{left} {operator} {bound if bound is not None else right}"


def _gates(nodes: Sequence[Node]) -> Iterator[Node]:
    for node in nodes:
        if node.kind == "gate":
            yield node
        yield from _gates(node.children)


def _gate(nodes: Sequence[Node], values: Mapping[str, Any], document: Mapping[str, Any]) -> Gate:
    accuracy, threshold = document.get("accuracy"), document["parameters"].get("accuracy_threshold")
    decided = False
    for node in _gates(nodes):
        sides = gate_sides(node, values, values)
        if sides is None or sides[3] is None or sides[4] is None:
            return Gate("not_reached", accuracy, threshold)
        left, operator, value, bound = sides[0], sides[1], sides[3], sides[4]
        met = {">=": value >= bound, ">": value > bound, "<=": value <= bound, "<": value < bound}.get(operator, True)
        if not met:
            return Gate("refused", accuracy, threshold, (f"{left} {value:.4f} {NEGATED[operator]} {bound:g}",))
        decided = True
    return Gate("passed" if decided else "not_reached", accuracy, threshold)
