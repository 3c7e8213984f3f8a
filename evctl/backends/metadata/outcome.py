"""How a run ended, asked from inside its exit handler (kubeflow-facts 15a).

The status KFP hands to an exit handler is RUNNING for a refused gate, an all-cached run and a terminated one, so the
truth is looked up by run id: ML Metadata says which tasks ended how, the KFP API whether the run is being terminated.
"""

from __future__ import annotations

import http.client
import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from evctl.backends.metadata.values import Execution, RunMetadata, latest
from evctl.backends.metadata.words import last_words

DEFAULT_HOST = "metadata-grpc-service.kubeflow:8080"
DEFAULT_API = "http://ml-pipeline.kubeflow:8888"
REGISTER_TASK = "register-fault-model"
GOOD = ("COMPLETE", "CACHED")
GIVEN = ("accuracy", "model_version", "model_uri", "data_version", "accuracy_threshold")
"""Parameters of the run and outputs of its tasks that a message about it tells."""
LOG_BYTES = 64 << 10
"""The end of a failed task's log that is looked through."""

# a cluster's own services are not behind a proxy
_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a run ended. `task` is the task at fault, with underscores; `reason` one line."""

    state: Literal["registered", "refused", "failed", "cancelled"]
    task: str | None = None
    reason: str = ""
    gate: tuple[tuple[str, float], ...] = ()
    """The refused gate's inputs by name."""
    given: tuple[tuple[str, Any], ...] = ()
    """What the run was asked and gave out, of `GIVEN`."""
    pod: str | None = None
    """The pod of the task at fault, where ML Metadata knows it."""


def outcome_of(
    run_id: str,
    host: str | None = None,
    *,
    api: str | None = None,
    exit_task: str = "notify-pipeline-status",
    register_task: str = REGISTER_TASK,
    timeout_s: float = 10.0,
) -> Outcome:
    """Return how the run `run_id` ended, to be called in its exit handler.

    Args:
        run_id: the run's id (`dsl.PIPELINE_JOB_ID_PLACEHOLDER`).
        host: `host:port` of ML Metadata; else `EVCTL_MLMD_HOST`, else the service of a default install.
        api: URL of the KFP API, asked only where ML Metadata cannot tell a kill from a cancel.
        exit_task: the asking task itself, which is still running.
        register_task: the task whose success means "registered".
        timeout_s: seconds for each question.

    Raises:
        UnavailableError, NotAllowedError: ML Metadata does not answer, or not us.
    """
    from evctl.backends.metadata.client import MetadataStore

    store = MetadataStore(host or os.environ.get("EVCTL_MLMD_HOST") or DEFAULT_HOST, timeout_s=timeout_s)
    try:
        metadata = store.read(run_id, artifacts=False) or RunMetadata()
    finally:
        store.close()
    address = api or os.environ.get("EVCTL_KFP_HOST") or DEFAULT_API
    found = judge(metadata.executions, exit_task=exit_task, register_task=register_task)
    if found is None or found.state == "refused":
        terminating = _terminating(run_id, address, timeout_s)
        if terminating:
            found = Outcome("cancelled", found.task if found else None, "the run was terminated")
        found = found or _unfinished(metadata.executions, exit_task, terminating)
    if found.state == "failed" and found.pod:
        found = replace(found, reason=_why(run_id, found.pod, address, timeout_s) or found.reason)
    return replace(found, given=_given(metadata.executions))


def judge(executions: Sequence[Execution], *, exit_task: str, register_task: str) -> Outcome | None:
    """Return what ML Metadata alone proves of an ended run; None where a task vanished without a word."""
    executions = latest(executions)
    tasks = [e for e in executions if not e.is_dag and e.task != exit_task]
    failed = [e for e in tasks if e.state == "FAILED"]
    if failed:
        first = failed[0]
        return Outcome("failed", _shown(first.task), f"{_shown(first.task)} failed", pod=first.pod)
    if any(e.state not in GOOD for e in tasks):
        return None
    if any(e.task == register_task and e.state in GOOD for e in tasks):
        return Outcome("registered")
    refused = [e for e in executions if e.is_dag and e.state == "CANCELED"]
    if refused:
        return _refused(refused[0])
    broken = [e for e in executions if e.is_dag and e.state == "FAILED" and e.parent is not None]
    if broken:
        return Outcome("failed", _shown(broken[-1].task), f"{_shown(broken[-1].task)} failed before any task did")
    return None


def _refused(gate: Execution) -> Outcome:
    numbers = tuple(
        (name.removeprefix("pipelinechannel--"), float(value))
        for name, value in sorted(gate.inputs.items())
        if isinstance(value, int | float) and not isinstance(value, bool)
    )
    said = ", ".join(f"{name} = {value:g}" for name, value in numbers)
    return Outcome("refused", _shown(gate.display_name or gate.task), f"the gate refused: {said}", numbers)


def _unfinished(executions: Sequence[Execution], exit_task: str, terminating: bool | None) -> Outcome:
    """A task that neither ended nor failed: its pod was killed. By whom only the API knows."""
    left = [e for e in latest(executions) if not e.is_dag and e.task != exit_task and e.state not in GOOD]
    if not left:
        name = _shown(REGISTER_TASK)
        return Outcome("failed", name, f"{name} never ran, and no gate refused")
    name = who = _shown(left[0].task)
    if terminating is False:
        return Outcome("failed", name, f"{who} was stopped before it could report (memory, deadline or node)")
    return Outcome("cancelled", name, f"{who} was stopped before it could report")


def _given(executions: Sequence[Execution]) -> tuple[tuple[str, Any], ...]:
    found: dict[str, Any] = {}
    for execution in latest(executions):
        values = execution.inputs if execution.parent is None else execution.outputs
        found |= {name: values[name] for name in GIVEN if values.get(name) not in (None, "")}
    return tuple(found.items())


def _why(run_id: str, pod: str, api: str, timeout_s: float) -> str | None:
    """Return the failed task's last words from its log, which the API keeps when the pod is gone; None without one."""
    url = f"{api.rstrip('/')}/apis/v1alpha1/runs/{run_id}/nodes/{pod}/log"
    tail, deadline = b"", time.monotonic() + timeout_s
    try:
        with _OPENER.open(url, timeout=timeout_s) as answer:
            while (chunk := answer.read(LOG_BYTES)) and time.monotonic() < deadline:
                tail = (tail + chunk)[-LOG_BYTES:]
    except (urllib.error.URLError, http.client.HTTPException, OSError, ValueError):
        return None
    return last_words(tail.decode(errors="replace"))


def _terminating(run_id: str, api: str, timeout_s: float) -> bool | None:
    """Whether somebody has terminated the run; None when the API does not say."""
    url = f"{api.rstrip('/')}/apis/v2beta1/runs/{run_id}"
    try:
        with _OPENER.open(url, timeout=timeout_s) as answer:
            body = json.load(answer)
    except (urllib.error.URLError, http.client.HTTPException, OSError, ValueError):
        return None
    states = [entry.get("state") for entry in body.get("state_history") or ()] + [body.get("state")]
    # a retry after a cancel starts a new life: only what follows its RUNNING counts
    last_running = max((i for i, state in enumerate(states) if state == "RUNNING"), default=-1)
    return any(state in ("CANCELING", "CANCELED") for state in states[last_running + 1 :])


def _shown(task: str) -> str:
    return task.replace("-", "_")
