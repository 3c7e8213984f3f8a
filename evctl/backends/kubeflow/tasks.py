"""One task's line: what spec, API, ML Metadata and pods together say of it. Pure."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Sequence

from evctl.backends.base import GOOD_TASK_STATES, TERMINAL_TASK_STATES, RunState, TaskState, TaskStatus
from evctl.backends.kubeflow.pods import Pod
from evctl.backends.kubeflow.seen import Walk
from evctl.backends.metadata.values import Execution, RunMetadata
from evctl.backends.spec import Node

DONE = {"COMPLETE": TaskState.SUCCEEDED, "CACHED": TaskState.CACHED, "FAILED": TaskState.FAILED}
_API = {
    "SUCCEEDED": TaskState.SUCCEEDED,
    "FAILED": TaskState.FAILED,
    "SKIPPED": TaskState.SKIPPED,
    "RUNNING": TaskState.RUNNING,
    "PENDING": TaskState.PENDING,
    "": TaskState.SKIPPED,
}
UNKNOWN = "failed; its pod is gone and its log could not be read"
UNREAD = "failed; its log was not read here"
DRIVER = "its driver failed"
_CODE = "exit code"
_NEVER = (None, "", "SKIPPED")
"""What the API says of a task that has no pod and will have none."""


def task_of(
    node: Node, execution: Execution | None, seen: Walk, place: str, path: tuple[str, ...], *, skipped: bool
) -> TaskStatus:
    """Return a task's line.

    Args:
        place: its place among Argo's nodes. path: the names around it. skipped: a gate before it said no.
    """
    state = TaskState.SKIPPED if skipped else _state(execution, seen, place)
    own, drivers = seen.pods_of(place), seen.drivers_of(place)
    pod = _pod_of(node, execution, seen, own, drivers, state, place)
    entry = seen.nodes.entry(place)
    started = execution.created_at if execution else (entry.started_at if entry else None)
    finished = execution.updated_at if execution else (entry.finished_at if entry else None)
    if execution is not None and execution.state not in DONE:
        finished = (entry.finished_at if entry else None) or seen.ended
    if started and seen.again and started < seen.again and (finished is None or finished > seen.again):
        started = seen.again
    if state in (TaskState.PENDING, TaskState.SKIPPED):
        started = None
    attempts = _attempts(execution, seen, state, pod, own, place)
    return TaskStatus(
        name=node.name,
        state=state,
        path=path,
        cached=state is TaskState.CACHED,
        attempts=attempts,
        max_attempts=node.max_attempts,
        started_at=started,
        finished_at=finished if started and state in TERMINAL_TASK_STATES else None,
        reason=reason_of(state, seen, [*own, *drivers], pod, place) or _again(node, state, seen, own, attempts),
        pod=pod,
        note=note_of(execution, seen.metadata),
        always_runs=node.always_runs,
    )


def _state(execution: Execution | None, seen: Walk, place: str) -> TaskState:
    api = seen.nodes.state(place)
    if execution is None:
        return _without_execution(seen, place, api)
    done = DONE.get(execution.state)
    if execution.state == "CANCELED":
        return TaskState.SKIPPED  # ML Metadata's word for "its condition said no"
    if seen.live and done is TaskState.FAILED and api in ("RUNNING", "PENDING"):
        done = None  # another attempt is on its way: one execution holds only the last one's end
    if done is not None:
        return done
    lost = TaskState.CANCELED if seen.ending or seen.state is RunState.CANCELED else TaskState.FAILED
    if seen.nodes.exact and (api == "FAILED" or _driver_failed(seen, place)):
        return lost  # whatever ended it gave it no time to say so: memory, a deadline, a node that went away
    if seen.live:
        # KFP's driver writes RUNNING before there is a pod; the pod's name is written by its launcher
        started = execution.pod or any(pod.running for pod in seen.pods_of(place))
        return TaskState.RUNNING if started else TaskState.PENDING
    if api == "SUCCEEDED" or (seen.state is RunState.SUCCEEDED and api not in _NEVER):
        return TaskState.SUCCEEDED
    if seen.nodes.exact and api in _NEVER and not execution.pod and seen.state is not RunState.CANCELED:
        return TaskState.SKIPPED  # its driver was done when another task's failure ended the run
    return lost


def _driver_failed(seen: Walk, place: str) -> bool:
    return seen.nodes.state(f"{place}-driver") == "FAILED"


def _without_execution(seen: Walk, place: str, api: str | None) -> TaskState:
    lost = TaskState.CANCELED if seen.ending or seen.state is RunState.CANCELED else TaskState.FAILED
    if api in _NEVER and _driver_failed(seen, place):
        return lost
    if api is None:
        return TaskState.PENDING if seen.live else TaskState.SKIPPED
    state = _API.get(api, TaskState.PENDING)
    pods = seen.pods_of(place)
    said = seen.messages.get(place)
    if state is TaskState.RUNNING and ((pods and pods[-1].blocked) or (said is not None and said.waiting)):
        return TaskState.PENDING
    if state is TaskState.SUCCEEDED and not pods and seen.nodes.cached(place):
        return TaskState.CACHED
    if state is TaskState.FAILED:
        return lost
    return state if seen.live or state in TERMINAL_TASK_STATES else lost


def _pod_of(
    node: Node,
    execution: Execution | None,
    seen: Walk,
    own: Sequence[Pod],
    drivers: Sequence[Pod],
    state: TaskState,
    place: str,
) -> str | None:
    if execution is not None and execution.pod:
        return execution.pod
    if state in (TaskState.CACHED, TaskState.SKIPPED):
        return None
    if own or drivers:
        return (own or drivers)[-1].name
    # as KFP calls its templates; a task that has none of these pods gets no name
    if node.importer:
        return seen.nodes.pod(place, "system-importer")
    if state is TaskState.FAILED and _driver_failed(seen, place):
        return seen.nodes.pod(f"{place}-driver", "system-container-driver")
    if execution is None and seen.nodes.tried(place):
        return seen.nodes.pod(f"{place}.executor", f"{'retry-' if node.max_attempts > 1 else ''}system-container-impl")
    return None


def _attempts(
    execution: Execution | None, seen: Walk, state: TaskState, pod: str | None, own: Sequence[Pod], place: str
) -> int:
    if state in (TaskState.CACHED, TaskState.SKIPPED):
        return 0
    counted = seen.nodes.attempts(pod)
    if counted is None and seen.nodes.exact:
        counted = seen.nodes.tried(place) or None
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


def reason_of(state: TaskState, seen: Walk, pods: Sequence[Pod], pod: str | None, place: str) -> str | None:
    """Return why a task failed or does not start; None where there is nothing to say.

    Args:
        pods: its own and its driver's. pod: the one that is at fault.
    """
    if state in GOOD_TASK_STATES or state is TaskState.SKIPPED:
        return None
    last = next((each for each in pods if each.name == pod), pods[-1] if pods else None)
    blocked = [each.blocked for each in pods if each.blocked]
    if blocked:
        return blocked[-1]
    said = seen.messages.get(place) or seen.messages.get(f"{place}-driver")
    if state is TaskState.PENDING and said is not None and said.waiting:
        return said.text
    if state is TaskState.CANCELED:
        return "cancelled"
    if state is not TaskState.FAILED:
        return None
    if last is not None and last.death:
        return last.death
    at_driver = last.driver if last is not None else place.endswith("-driver") or _driver_failed(seen, place)
    driver = f"{DRIVER}: " if at_driver else ""
    if said is not None and not said.waiting:
        return driver + said.text
    words = seen.logs.get(pod or "")
    code = last.exit_code if last else None
    if words:
        return f"{_code(code)}: {words}" if code not in (None, 1) and not driver else driver + words
    if driver:
        return DRIVER
    if code is not None:
        return _code(code)
    return seen.deadline or (UNREAD if pod in seen.unread else UNKNOWN)


def plain(reason: str | None) -> bool:
    """Whether a failed task's log would say more than this reason."""
    return reason in (None, UNREAD, UNKNOWN, DRIVER) or str(reason).startswith(_CODE)


def _code(code: int | None) -> str:
    """Say an exit code; above 128 a container was ended by a signal."""
    with contextlib.suppress(ValueError, TypeError):
        return f"{_CODE} {code} ({signal.Signals((code or 0) - 128).name})"
    return f"{_CODE} {code}"


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
