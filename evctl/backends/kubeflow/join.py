"""The one place that knows how a run went: spec, API, ML Metadata and pods joined into a task tree. Pure.

None of the four is right alone (kubeflow-facts 1-8, 12-14): the spec has the tasks and no states; the API has Argo nodes;
ML Metadata leaves DAGs and killed tasks RUNNING for ever; pods go away.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from evctl.backends import spec as specs
from evctl.backends.base import TERMINAL_RUN_STATES, Run, RunState, TaskStatus
from evctl.backends.kubeflow import nodes as argo
from evctl.backends.kubeflow import workflow as workflows
from evctl.backends.kubeflow.pods import Pod
from evctl.backends.kubeflow.seen import Walk
from evctl.backends.kubeflow.tasks import plain
from evctl.backends.kubeflow.tree import walk
from evctl.backends.kubeflow.verdict import gate_of, model_of
from evctl.backends.metadata.values import RunMetadata

_RUN_STATES = {
    "PENDING": RunState.PENDING,
    "RUNNING": RunState.RUNNING,
    "PAUSED": RunState.RUNNING,
    "CANCELING": RunState.RUNNING,
    "SUCCEEDED": RunState.SUCCEEDED,
    "SKIPPED": RunState.SKIPPED,
    "FAILED": RunState.FAILED,
    "CANCELED": RunState.CANCELED,
}
METADATA_DOWN = "ML Metadata does not answer: states are the API's alone; outputs and attempts may be missing"


@dataclass(frozen=True, slots=True)
class Sources:
    """Everything that was asked about a run. None means "not answered", empty means "nothing there"."""

    run: Mapping[str, Any]
    spec: Mapping[str, Any] | None = None
    metadata: RunMetadata | None = None
    metadata_down: bool = False
    pods: tuple[Pod, ...] | None = None
    logs: Mapping[str, str] = field(default_factory=dict)
    """The last log line that says why, by pod name."""
    unread: frozenset[str] = frozenset()
    """Failed tasks' pods whose logs were not looked for everywhere."""
    argo: workflows.Workflow | None = None
    argo_gone: bool = False
    """The cluster was asked for the run's workflow, and has none."""
    cancel_requested: bool = False
    env: str = ""
    url: str | None = None
    warnings: tuple[str, ...] = ()


def run_state(run: Mapping[str, Any], *, cancel_requested: bool = False) -> RunState:
    """Return how far a run is. A run that we, or anybody, terminated ends as CANCELED, though KFP says FAILED."""
    state = _RUN_STATES.get(str(run.get("state") or ""), RunState.PENDING)
    if state is RunState.FAILED and (cancel_requested or was_terminated(run)):
        return RunState.CANCELED
    return state


def was_terminated(run: Mapping[str, Any]) -> bool:
    """Whether somebody terminated the run in its current life (a retry begins a new one)."""
    states = [entry.get("state") for entry in _history(run)]
    last = max((i for i, state in enumerate(states) if state == "RUNNING"), default=-1)
    return any(state in ("CANCELING", "CANCELED") for state in states[last + 1 :])


def retried_at(run: Mapping[str, Any]) -> datetime | None:
    """Return when the run's last retry began; None where it was not retried."""
    began = [entry.get("update_time") for entry in _history(run) if entry.get("state") == "RUNNING"]
    return argo.moment(began[-1]) if len(began) > 1 else None


def _history(run: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [entry for entry in run.get("state_history") or () if isinstance(entry, Mapping)]


def finished_at(run: Mapping[str, Any]) -> datetime | None:
    """Return when a run ended; None until it has."""
    return argo.moment(run.get("finished_at"))


def parameters_of(run: Mapping[str, Any], spec: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the run's parameters, the spec's defaults included."""
    given = (run.get("runtime_config") or {}).get("parameters") or {}
    return {**(specs.defaults(spec) if spec else {}), **given}


def join(sources: Sources) -> Run:
    """Return the run with its task tree."""
    run = sources.run
    state = run_state(run, cancel_requested=sources.cancel_requested)
    ended = finished_at(run) if state in TERMINAL_RUN_STATES else None
    parameters = parameters_of(run, sources.spec)
    seen = Walk(
        state=state,
        ended=ended,
        nodes=argo.read(run),
        metadata=sources.metadata,
        pods=sources.pods or (),
        logs=sources.logs,
        unread=sources.unread,
        parameters=parameters,
        deadline=_message(run),
        again=retried_at(run),
        ending=was_terminated(run) or sources.cancel_requested,
        messages=sources.argo.said if sources.argo else {},
    )
    tree = specs.tree(sources.spec) if sources.spec else None
    tasks = walk(tree, seen)
    stuck = [pod for pod in sources.pods or () if pod.blocked] if state not in TERMINAL_RUN_STATES else []
    since = [pod.blocked_since for pod in stuck if pod.blocked_since]
    if state not in TERMINAL_RUN_STATES:
        since += _held_since(sources)
    return Run(
        run_id=str(run.get("run_id") or ""),
        name=str(run.get("display_name") or ""),
        env=sources.env,
        state=state,
        created_at=argo.moment(run.get("created_at")) or datetime.fromisoformat("1970-01-01T00:00:00+00:00"),
        finished_at=ended,
        parameters=parameters,
        tasks=tasks,
        gate=gate_of(tree, tasks, seen),
        model=model_of(sources.metadata),
        url=sources.url,
        reason=_reason(run, state, tasks),
        warnings=_warnings(sources, state, stuck, tasks),
        blocked_since=min(since, default=None),
    )


def _held_since(sources: Sources) -> Iterator[datetime]:
    """Yield since when a pod is being taken away, Argo holds one back, or nobody looks at the run."""
    yield from (pod.created_at for pod in sources.pods or () if pod.leaving and pod.created_at)
    created = argo.moment(sources.run.get("created_at"))
    if created and (sources.argo_gone or (sources.argo and not sources.argo.begun)):
        yield created
    for said in sources.argo.said.values() if sources.argo else ():
        if said.waiting and (since := said.since or created):
            yield since


def _message(run: Mapping[str, Any]) -> str | None:
    error = run.get("error")
    text = error.get("message") if isinstance(error, Mapping) else error
    return str(text) if text else None


def _reason(run: Mapping[str, Any], state: RunState, tasks: Sequence[TaskStatus]) -> str | None:
    if state is RunState.CANCELED:
        return "cancelled"
    if state is not RunState.FAILED:
        return None
    failed = [task for task in tasks if task.state.value == "FAILED" and (task.kind == "task" or task.reason)]
    if failed:
        return f"{failed[0].label}: {failed[0].reason or 'failed'}"
    return _message(run) or "the run failed before any task did; `evctl logs` shows what is left"


def _held(sources: Sources) -> Iterator[str]:
    for pod in sources.pods or ():
        if pod.leaving:
            yield f"{pod.task.replace('-', '_')} is being taken away: {pod.leaving}"
    if sources.argo_gone:
        yield f"nothing can start: {workflows.GONE}"
    if sources.argo is not None and not sources.argo.begun:
        yield f"nothing can start: {workflows.NOT_LOOKED_AT}"
    for place, each in sources.argo.said.items() if sources.argo else ():
        if each.waiting:
            name = place.rpartition(".")[2]
            who = f"{name.removesuffix('-driver')} (its driver)" if name.endswith("-driver") else name
            yield f"{who.replace('-', '_')} cannot start: {each.text}"


def _warnings(sources: Sources, state: RunState, stuck: Sequence[Pod], tasks: Sequence[TaskStatus]) -> tuple[str, ...]:
    said = list(sources.warnings)
    if sources.metadata_down:
        said.append(METADATA_DOWN)
    if sources.run.get("state") == "CANCELING":
        handled = any(task.always_runs for task in tasks)
        said.append("being cancelled: the exit handler still runs" if handled else "being cancelled")
    if sources.spec is None and state is not RunState.PENDING:
        said.append("the pipeline's spec is gone: tasks not yet started are not shown")
    shown = dict.fromkeys((pod.task, pod.driver, pod.blocked) for pod in stuck)
    for task, driver, blocked in shown:
        who = task.replace("-", "_") + (" (its driver)" if driver else "")
        said.append(f"{who} cannot start: {blocked}")
    # Kubernetes and Argo may have said what the log would
    if whose := ", ".join(task.label for task in tasks if task.pod in sources.unread and plain(task.reason)):
        said.append(
            f"not read here, why {whose} failed: evctl logs {sources.run.get('run_id')} --failed --env {sources.env}"
        )
    if state not in TERMINAL_RUN_STATES:
        said += _held(sources)
    for execution in sources.metadata.executions if sources.metadata else ():
        if undelivered := execution.outputs.get("undelivered"):
            said.append(f"not told how it ended: {undelivered}")
    return tuple(said)
