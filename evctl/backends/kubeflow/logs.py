"""The logs of a cluster run's tasks: from the pod while it is there, else from the API's archive, else from the store.

Three places, since each of them lacks something: pods go away, an archive is not always kept, and the launcher stores an
attempt's log only when the attempt has ended (kubeflow-facts 10).
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

from evctl.backends.base import TERMINAL_TASK_STATES, Artifact, LogLine, Run, TaskState, TaskStatus
from evctl.backends.kubeflow import pods as pod_reader
from evctl.backends.kubeflow.artifacts import log_artifacts
from evctl.backends.kubeflow.lines import lines_of, split_lines, without_argos
from evctl.backends.kubeflow.objects import Objects
from evctl.backends.kubeflow.objects_reach import Reach
from evctl.backends.merging import merged
from evctl.backends.metadata.values import RunMetadata
from evctl.errors import EvctlError, NotAllowedError, NotFoundError, UnavailableError

CONTAINER = "main"
POLL_S = 1.0
OUTAGE_S = 120.0
"""As long as a watch bridges (`evctl.lifecycle`)."""
ARCHIVE_S = 3.0
"""The API answers 500 for a log that it has nowhere: that is not worth the patience of other requests."""


class Connection(Reach, Protocol):
    """What is needed of a connection."""

    def stream(self, path: str, *, deadline_s: float | None = None) -> Iterator[bytes]:
        """Yield an answer's body as it comes; it must begin within the deadline."""
        ...


@dataclass(slots=True)
class Logs:
    """One run's logs.

    Args:
        look: the run as it is now. metadata: what ML Metadata holds of it, None when it does not answer.
    """

    connection: Connection
    run_id: str
    look: Callable[[], Run]
    metadata: Callable[[], RunMetadata | None]
    poll_s: float = POLL_S
    _namespace: str = ""
    _known: RunMetadata | None = None
    _last: tuple[float, Run] | None = None
    _answered: float = 0.0
    _asking: threading.Lock = field(default_factory=threading.Lock)

    def read(self, task: str | None, *, tail: int | None = None) -> Iterator[LogLine]:
        """Yield the lines of one task, or of all in the order of the flow; with `tail` each one's last.

        Raises:
            NotFoundError: there is no such task. UnavailableError: lines were there and could not be read; what could be
            read has been yielded.
        """
        pods = self._pods()
        failed: EvctlError | None = None
        for each in self._tasks(self.look(), task):
            if task is None and each.state is TaskState.CACHED:
                continue  # it printed nothing in this run; named, it tells what the older run printed
            lines: Iterator[LogLine] = self._task(each, pods)
            try:
                yield from lines if tail is None else deque(lines, maxlen=tail)
            except NotFoundError:
                if task is not None:  # among others one that nobody keeps is no failure: an importer has none
                    raise
            except EvctlError as error:
                failed = failed or error
        if failed is not None:
            raise failed

    def follow(self, task: str | None, *, tail: int | None = None) -> Iterator[LogLine]:
        """Yield lines as they come: a task's from its pod's start to its end, all tasks' until the run has ended.

        What has ended already comes first, in the order of the flow; tasks that run side by side are read side by side.
        """
        done: set[Hashable] = set()
        for each in self._shown(self._look(), task):
            if each.state in TERMINAL_TASK_STATES:
                done.add((each.name, each.path))
                yield from self._follow(each, tail)

        def ready() -> tuple[Mapping[Hashable, Callable[[], Iterator[LogLine]]], bool]:
            run = self._look()
            tasks = self._shown(run, task)
            begun = [each for each in tasks if pod_reader.own_pod(each) or each.state in TERMINAL_TASK_STATES]
            more = not run.finished and not (task is not None and tasks and len(begun) == len(tasks))
            left = {(each.name, each.path): partial(self._follow, each, tail) for each in begun}
            return {key: read for key, read in left.items() if key not in done}, more

        yield from merged(ready, self.poll_s)

    def _look(self) -> Run:
        """Return the run as it is, asked for at most once in a pause whatever number of tasks is read."""
        with self._asking:
            if self._last is None or time.monotonic() - self._last[0] >= self.poll_s:
                try:
                    self._last = (time.monotonic(), self.look())
                    self._answered = self._last[0]
                except UnavailableError:
                    # a server that is restarted ends no log: the pods go on, and so do their lines
                    if self._last is None or time.monotonic() - self._answered >= OUTAGE_S:
                        raise
                    self._last = (time.monotonic(), self._last[1])
            return self._last[1]

    def _shown(self, run: Run, task: str | None) -> list[TaskStatus]:
        return [each for each in self._tasks(run, task) if task or each.state is not TaskState.CACHED]

    def _tasks(self, run: Run, wanted: str | None) -> list[TaskStatus]:
        # a group has a pod where its driver failed
        tasks = [each for each in run.tasks if each.kind == "task" or each.pod]
        if wanted is None:
            return tasks
        found = [each for each in tasks if wanted in (each.name, each.label)]
        if not found and (run.finished or tasks):
            raise NotFoundError(f"run {self.run_id[:8]} has no task {wanted}", hint=f"evctl status {self.run_id[:8]}")
        return found

    def _task(self, task: TaskStatus, pods: Mapping[str, Sequence[str]]) -> Iterator[LogLine]:
        """Yield what all attempts of a task printed, each from the first place that has it."""
        shown = task.label
        live = self._attempts(task, pods)
        known = self._metadata()
        stored = dict(log_artifacts(known, task.name, task.path)) if known else {}
        failed: EvctlError | None = None
        for attempt in sorted({*live, *stored}):
            count, why, gone = 0, None, False
            for source in self._sources(live.get(attempt), stored.get(attempt)):
                try:
                    for number, line in enumerate(source(), 1):
                        if number > count:  # a place that failed half way is taken up by the next
                            count = number
                            yield LogLine(shown, line, attempt)
                except EvctlError as error:
                    gone = gone or isinstance(error, NotFoundError)
                    why = why if isinstance(error, NotFoundError) else error
                    continue
                if count:
                    why = None
                    break
            if gone and why is not None and attempt not in stored and not count:
                # the pod is gone, and the API answers 500 for a log that it has nowhere
                why = NotFoundError(
                    f"no log of {shown} is kept: its pod is gone, and {why}", hint=f"evctl status {self.run_id[:8]}"
                )
            failed = failed or why
        if failed is not None:
            raise failed

    def _sources(self, pod: str | None, stored: Artifact | None) -> Iterator[Callable[[], Iterator[str]]]:
        if pod is not None:
            if self.connection.kubernetes() is not None:
                yield lambda: self._from_pod(pod, follow=False)
            yield lambda: self._from_archive(pod, follow=False)
        if stored is not None:
            yield lambda: lines_of(Objects(self.connection).read(stored))

    def _attempts(self, task: TaskStatus, pods: Mapping[str, Sequence[str]]) -> dict[int, str]:
        """Return the pod of each attempt that is known by name."""
        if task.pod is None:
            return {}
        if own := pods.get(task.pod):
            return dict(enumerate(own, 1))
        return {max(task.attempts, 1): task.pod}

    def _follow(self, task: TaskStatus, tail: int | None) -> Iterator[LogLine]:
        """Yield a task's lines, attempt after attempt, until it has ended."""
        followed: list[str] = []
        said = False
        while True:
            now = self._again(task)
            pod = pod_reader.own_pod(now)
            if now is None or (now.state in TERMINAL_TASK_STATES and (not said or pod is None or pod in followed)):
                if now is not None and not said:  # it had ended before we came
                    self._known = None  # what the launcher stores at the end was not there before
                    lines = self._task(now, self._pods())
                    yield from lines if tail is None else deque(lines, maxlen=tail)
                return
            if pod is not None and pod not in followed:
                followed.append(pod)
                attempt = max(now.attempts, len(followed))
                for line in self._live(now, pod, tail):
                    said = True
                    yield LogLine(task.label, line, attempt)
            else:
                time.sleep(self.poll_s)

    def _live(self, task: TaskStatus, pod: str, tail: int | None) -> Iterator[str]:
        """Yield a pod's lines until its container has ended; a stream that is cut is taken up where it was cut."""
        seen = 0
        while True:
            # asked before reading: what is read after the end is all there will be
            now = self._again(task)
            ended = now is None or now.state in TERMINAL_TASK_STATES or pod_reader.own_pod(now) != pod
            with contextlib.suppress(EvctlError):
                if tail is not None:
                    before = list(self._stream(pod, follow=False, whole=not ended))
                    # the last line may be half written: it is left to the stream that follows
                    seen = len(before) - (0 if ended or tail == 0 else min(1, len(before)))
                    yield from before[max(0, len(before) - tail) : seen]
                    tail = None
                    if not ended:
                        continue
                else:
                    for number, line in enumerate(self._stream(pod, follow=not ended, whole=not ended), 1):
                        if number > seen:
                            seen = number
                            yield line
            if ended:
                return
            time.sleep(self.poll_s)

    def _again(self, task: TaskStatus) -> TaskStatus | None:
        tasks = self._look().tasks
        return next((each for each in tasks if (each.name, each.path) == (task.name, task.path)), None)

    def _stream(self, pod: str, *, follow: bool, whole: bool) -> Iterator[str]:
        if self.connection.kubernetes() is not None:
            # who may not read pods/log asks KFP, which may
            with contextlib.suppress(NotFoundError, NotAllowedError):
                yield from self._from_pod(pod, follow=follow)
                return
        yield from self._from_archive(pod, follow=follow, whole=whole)

    def _from_pod(self, pod: str, *, follow: bool) -> Iterator[str]:
        api = self.connection.kubernetes()
        lines: Iterator[str] = api.pod_log(self._pods_namespace(), pod, container=CONTAINER, follow=follow)
        return without_argos(lines)

    def _from_archive(self, pod: str, *, follow: bool, whole: bool = False) -> Iterator[str]:
        path = f"/apis/v1alpha1/runs/{self.run_id}/nodes/{pod}/log"
        answer = self.connection.stream(path + ("?follow=true" if follow else ""), deadline_s=ARCHIVE_S)
        return without_argos(split_lines(answer, whole=whole))

    def _metadata(self) -> RunMetadata | None:
        if self._known is None:
            self._known = self.metadata()
        return self._known

    def _pods_namespace(self) -> str:
        """Return where the run's pods are: ML Metadata knows, else they are looked for."""
        if not self._namespace:
            known = self._metadata()
            named = [each.namespace for each in known.executions if each.namespace] if known else []
            profile = self.connection.profile
            places = named[-1:] or [profile.namespace, profile.kubeflow.system_namespace]
            # one user's Kubeflow runs everything in its own namespace, whatever the profile says
            there = [each for each in places if len(places) > 1 and self._items(each)]
            self._namespace = (there or places)[0]
        return self._namespace

    def _items(self, namespace: str) -> Sequence[Mapping[str, Any]]:
        api = self.connection.kubernetes()
        if api is None:
            return ()
        selector = f"{pod_reader.RUN_LABEL}={self.run_id}"
        try:
            answer = api.get(f"/api/v1/namespaces/{namespace}/pods", labelSelector=selector)
        except EvctlError:
            return ()
        return answer.get("items") or ()

    def _pods(self) -> dict[str, list[str]]:
        """Return, for each of the run's own pods, those of the same task that are still there, oldest first."""
        at: dict[str, list[str]] = {}
        for pod in pod_reader.read(self._items(self._pods_namespace())):
            if not pod.driver and pod.place:
                at.setdefault(pod.place, []).append(pod.name)
        return {name: same for same in at.values() for name in same}


def logs(
    connection: Connection,
    run_id: str,
    task: str | None,
    *,
    look: Callable[[], Run],
    metadata: Callable[[], RunMetadata | None],
    follow: bool = False,
    tail: int | None = None,
    poll_s: float = POLL_S,
) -> Iterator[LogLine]:
    """Yield log lines of one task, or of all in the order of the flow. See `Logs`."""
    found = Logs(connection, run_id, look, metadata, poll_s)
    return found.follow(task, tail=tail) if follow else found.read(task, tail=tail)
