"""Why tasks failed, in their own last words: which logs are asked for, and when Argo has to be.

A finished run has few requests, so the log of the task that is named as the run's reason comes first.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from evctl.backends.base import Run, TaskState, TaskStatus
from evctl.backends.kubeflow import pods as pod_reader
from evctl.backends.kubeflow.tasks import DRIVER, UNKNOWN, UNREAD
from evctl.backends.metadata.values import RunMetadata
from evctl.errors import EvctlError

WORDS_BYTES = 4 << 20
WORDS_S = 5.0
"""How much of a failed task's log is kept, and how long it is read, for its last words."""
WORDS_BEGIN_S, WORDS_ALL_S = 2.0, 5.0
"""How long a log may be in coming, and all of a run's together."""
NOWHERE = 500
"""What the API answers for a log that it has nowhere."""
STORED_LOG = 3
"""Requests for a log that the launcher stored: what the task wrote, where that is, and the log."""
_AGAIN = (TaskState.RUNNING, TaskState.PENDING)
_NOTHING = (UNKNOWN, UNREAD, DRIVER)
_ENDED = "signal: terminated"
"""Last words of a task that something else ended: not why."""


class Counting(Protocol):
    """What counts its own requests."""

    asked: int


class Allowance:
    """How many requests may still be made for one answer.

    Args:
        api: counts its own. limit: of all together; None is as many as it takes.
    """

    def __init__(self, api: Counting, limit: int | None) -> None:
        self.limit = limit
        self._api, self._begun, self._spent = api, api.asked, 0

    def left(self) -> float:
        """Return how many more there may be."""
        if self.limit is None:
            return float("inf")
        return max(0, self.limit - self._spent - (self._api.asked - self._begun))

    def spend(self, requests: int, *, keep: int = 0) -> bool:
        """Count requests that the API does not, if there may be so many and `keep` more; else they must not be made."""
        if self.left() < requests + keep:
            return False
        self._spent += requests
        return True


@dataclass(slots=True)
class LastWords:
    """Reads failed tasks' last words, each once.

    Args:
        connection: to the KFP API's logs, and the object store. metadata: reads a run's metadata anew, artifacts included.
    """

    connection: Any
    metadata: Callable[[str], tuple[RunMetadata | None, bool]]
    _known: dict[str, str] = field(default_factory=dict)

    def of(
        self,
        run_id: str,
        run: Run,
        pods: Sequence[pod_reader.Pod] | None,
        metadata: RunMetadata | None,
        allowance: Allowance,
    ) -> tuple[dict[str, str], frozenset[str]]:
        """Return the line that says why, by pod, of the tasks that failed, and of attempts that did.

        The failed tasks' pods whose words may be somewhere and were not looked for come second.
        """
        wanted = dict(_wanted(run, pods or ()))
        keep = 1 if silent(run, pods, metadata) else 0  # for Argo
        unread: list[str] = []
        end = time.monotonic() + WORDS_ALL_S
        for pod, task in wanted.items():
            if pod in self._known:
                continue
            words, whole = None, False
            if time.monotonic() < end and allowance.spend(1, keep=keep):
                words, whole = self._read(run_id, pod, task, metadata, allowance, keep)
            if words or whole:
                self._known[pod] = words or ""
            elif task.state is TaskState.FAILED:
                unread.append(pod)
        return {pod: self._known[pod] for pod in wanted if self._known.get(pod)}, frozenset(unread)

    def _read(
        self, run_id: str, pod: str, task: TaskStatus, metadata: RunMetadata | None, allowance: Allowance, keep: int
    ) -> tuple[str | None, bool]:
        """Ask the API, which has a pod's log or the archive's, then the store. Returns whether both were asked, too."""
        with contextlib.suppress(EvctlError):
            words = pod_reader.last_words(self._tail(f"/apis/v1alpha1/runs/{run_id}/nodes/{pod}/log"))
            if words:
                return words, True
        if metadata is None or task.state is not TaskState.FAILED:
            return None, True
        if not allowance.spend(STORED_LOG, keep=keep):
            return None, False
        from evctl.backends.kubeflow.artifacts import log_artifacts
        from evctl.backends.kubeflow.objects import Objects

        whole = metadata if metadata.links else self.metadata(run_id)[0]
        stored = log_artifacts(whole, task.name, task.path) if whole else ()
        with contextlib.suppress(EvctlError):
            if stored:
                log = Objects(self.connection).read(stored[-1][1])
                return pod_reader.last_words(log.decode(errors="replace")), True
        return None, True

    def _tail(self, path: str) -> str:
        kept = b""
        end = time.monotonic() + WORDS_S
        for chunk in self.connection.stream(path, deadline_s=WORDS_BEGIN_S, final=(NOWHERE,)):
            kept = (kept + chunk)[-WORDS_BYTES:]
            if time.monotonic() > end:
                break
        return kept.decode(errors="replace")


def unexplained(run: Run, pods: Sequence[pod_reader.Pod], metadata: RunMetadata | None) -> bool:
    """Whether Argo has to be asked: a failure without a reason, or a run in which no pod is at work."""
    if not run.finished:
        return not any(pod.phase in ("Running", "Pending") for pod in pods)
    failed = [task for task in run.tasks if task.state is TaskState.FAILED and (task.kind == "task" or task.reason)]
    unsaid = any(task.reason in _NOTHING or (task.reason or "").endswith(_ENDED) for task in failed)
    return not failed or unsaid or bool(silent(run, pods, metadata))


def silent(run: Run, pods: Sequence[pod_reader.Pod] | None, metadata: RunMetadata | None) -> list[TaskStatus]:
    """Return the failed tasks whose pods are gone and told nothing of their end: Argo says what ended them.

    Their logs break off somewhere. Nobody knows this where the cluster cannot be asked.
    """
    if pods is None or not run.finished:
        return []
    executions = metadata.executions if metadata else ()
    told = {each.pod for each in executions if each.state == "FAILED"} | {each.name for each in pods}
    failed = [task for task in run.tasks if task.kind == "task" and task.state is TaskState.FAILED]
    return [task for task in failed if task.pod not in told and not (task.reason or "").startswith(DRIVER)]


def _wanted(run: Run, pods: Iterable[pod_reader.Pod]) -> Iterator[tuple[str, TaskStatus]]:
    """Yield the pods whose logs may say more than is known: of failed tasks in the order of the flow, then of attempts."""
    dead = {pod.name for pod in pods if pod.death and not pod.driver}
    for task in run.tasks:
        # Kubernetes' word for memory, a deadline or an eviction is better than the log's last line
        if task.kind == "task" and task.state is TaskState.FAILED and task.pod and task.pod not in dead:
            yield task.pod, task
    tried = {task.name: task for task in run.tasks if task.kind == "task" and task.state in _AGAIN}
    for pod in pods:
        going_on = tried.get(pod.task.replace("-", "_"))
        if going_on is not None and pod.phase == "Failed" and not pod.driver:
            yield pod.name, going_on
