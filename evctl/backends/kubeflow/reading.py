"""Ask every source about a run and join what they say: for a finished run in at most six requests.

A run that failed is asked for its pods and its last words, and not for its artifacts: why it failed comes before what its
tasks said of their results.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from evctl.backends.base import TERMINAL_RUN_STATES, Run, RunState, TaskState, TaskStatus
from evctl.backends.kubeflow import pods as pod_reader
from evctl.backends.kubeflow import workflow as workflows
from evctl.backends.kubeflow.api import Api
from evctl.backends.kubeflow.join import Sources, join, run_state
from evctl.backends.kubeflow.tasks import DRIVER, UNKNOWN
from evctl.backends.metadata.values import RunMetadata
from evctl.errors import EvctlError, UnavailableError
from evctl.profile import Profile

METADATA_PAUSE_S = 10.0
KUBERNETES_PAUSE_S = 30.0
"""Seconds in which a server that did not answer is not asked again: a watch goes on at its own pace."""
WORKFLOW_PAUSE_S = 10.0
"""A run that stands still is looked up in Argo this often at most; it stands still between any two tasks."""
AGAIN = (TaskState.RUNNING, TaskState.PENDING)
EVENTS_OF = 5
"""Of how many waiting pods the events are asked for."""
WORDS_BYTES = 4 << 20
WORDS_S = 5.0
"""How much of a failed task's log is kept, and how long it is read, for its last words."""
WORDS_BEGIN_S, WORDS_ALL_S = 2.0, 5.0
"""How long a log may be in coming, since the API answers 500 for one that it has nowhere; and all of a run's together."""


class Connection(Protocol):
    """What is needed of a connection."""

    profile: Profile

    def kubernetes(self) -> Any:
        """Return Kubernetes' API, None where there is no access."""
        ...

    def object_store_endpoint(self) -> str | None:
        """Return a forwarded address of the cluster's object store, if there is one."""
        ...

    def metadata(self) -> Any:
        """Return ML Metadata's client."""
        ...

    def stream(self, path: str, *, deadline_s: float | None = None) -> Any:
        """Yield an answer's body as it comes; it must begin within the deadline."""
        ...

    def url_of(self, run_id: str) -> str | None:
        """Return the run's page."""
        ...


@dataclass(slots=True)
class Reader:
    """Reads runs over one connection; remembers what cannot change."""

    connection: Connection
    api: Api
    env: str
    namespace: str
    system_namespace: str
    _quiet_until: float = 0.0
    _kubernetes_quiet: tuple[float, str] = (0.0, "")
    _words: dict[str, str] = field(default_factory=dict)
    _workflows: dict[str, tuple[float, tuple[workflows.Workflow | None, bool]]] = field(default_factory=dict)

    def run(self, run_id: str, *, cancel_requested: bool = False) -> Run:
        """Return the run as all sources together know it."""
        document = self.api.run(run_id)
        state = run_state(document, cancel_requested=cancel_requested)
        metadata, down = self.metadata(run_id, artifacts=state is not RunState.FAILED)
        sources = Sources(
            run=document,
            spec=self.api.spec_of(document),
            metadata=metadata,
            metadata_down=down,
            cancel_requested=cancel_requested,
            env=self.env,
            url=self.connection.url_of(run_id),
        )
        if state in TERMINAL_RUN_STATES and state is not RunState.FAILED:
            return join(sources)
        pods, warnings = self._pods(run_id, metadata)
        sources = replace(sources, pods=pods, warnings=warnings)
        seen = join(sources)
        if words := self._last_words(run_id, seen, pods, metadata):
            sources = replace(sources, logs=words)
            seen = join(sources)
        if pods is not None and not warnings and _unexplained(seen, pods):
            workflow, gone = self._argo(run_id, metadata, live=not seen.finished)
            if workflow is not None or gone:
                return join(replace(sources, argo=workflow, argo_gone=gone))
        return seen

    def metadata(self, run_id: str, *, artifacts: bool = True) -> tuple[RunMetadata | None, bool]:
        """Return what ML Metadata has of a run, and whether it could not be asked."""
        if time.monotonic() < self._quiet_until:
            return None, True
        try:
            return self.connection.metadata().read(run_id, artifacts=artifacts), False
        except EvctlError:
            self._quiet_until = time.monotonic() + METADATA_PAUSE_S
            return None, True

    def _argo(self, run_id: str, metadata: RunMetadata | None, *, live: bool) -> tuple[workflows.Workflow | None, bool]:
        """Return the run's workflow, and whether a run that goes on has none: somebody deleted it."""
        kubernetes = self.connection.kubernetes()
        until, known = self._workflows.get(run_id, (0.0, (None, False)))
        if kubernetes is None or time.monotonic() < until:
            return known
        namespaces = [each.namespace for each in metadata.executions if each.namespace] if metadata else []
        with contextlib.suppress(EvctlError):
            # where each user has a namespace, one in which no pod was seen may be another's
            live = live and (bool(namespaces) or not self.api.multi_user())
        found: tuple[workflows.Workflow | None, bool] = (None, live)
        for namespace in self._namespaces(namespaces[-1:]):
            path = workflows.PATH.format(namespace=namespace)
            try:
                items = kubernetes.get(path, labelSelector=f"{pod_reader.RUN_LABEL}={run_id}").get("items") or []
            except EvctlError:  # who may not read workflows has what pods and logs say
                found = (None, False)
                continue
            if items:
                found = (workflows.read(items[-1]), False)
                break
        self._workflows[run_id] = (time.monotonic() + WORKFLOW_PAUSE_S, found)
        return found

    def leftovers(self, run_id: str) -> tuple[str, ...]:
        """Return what a terminated run has left behind: a pod that could not start goes on trying (kubeflow-facts 7)."""
        pods, _ = self._pods(run_id, None)
        return tuple(
            f"pod {pod.name} is left behind and goes on trying to start: kubectl -n {pod.namespace} delete pod {pod.name}"
            for pod in pods or ()
            if pod.blocked  # one that only has yet to start ends by itself
        )

    def _pods(
        self, run_id: str, metadata: RunMetadata | None
    ) -> tuple[tuple[pod_reader.Pod, ...] | None, tuple[str, ...]]:
        """Return the run's pods; what cannot be learnt is said, and is no failure of ours."""
        kubernetes = self.connection.kubernetes()
        if kubernetes is None:
            return None, ()
        if time.monotonic() < self._kubernetes_quiet[0]:
            return None, (self._kubernetes_quiet[1],)
        selector = f"{pod_reader.RUN_LABEL}={run_id}"
        known = [e.namespace for e in metadata.executions if e.namespace] if metadata else []
        said: str | None = None
        for namespace in self._namespaces(known[-1:]):
            try:
                items = (
                    kubernetes.get(f"/api/v1/namespaces/{namespace}/pods", labelSelector=selector).get("items") or []
                )
                if items or namespace in known:
                    return pod_reader.read(items, self._events(kubernetes, namespace, items)), ()
            except EvctlError as error:
                said = said or f"pods in {namespace} cannot be read, so why one does not start is not known: {error}"
                if isinstance(error, UnavailableError):
                    self._kubernetes_quiet = (time.monotonic() + KUBERNETES_PAUSE_S, said)
                    break
        return (None, (said,)) if said else ((), ())

    def _namespaces(self, known: Sequence[str]) -> Iterator[str]:
        """Yield where pods may be, the likeliest first; the server is asked only where ML Metadata does not say."""
        yield from known
        try:
            apart = self.api.multi_user()
        except EvctlError:
            rest: tuple[str, ...] = (self.namespace, self.system_namespace)
        else:
            # a server for one user runs all of them beside itself
            rest = (self.namespace,) if apart else (self.system_namespace, self.namespace)
        yield from (each for each in dict.fromkeys(rest) if each not in known)

    def _events(self, kubernetes: Any, namespace: str, items: list[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
        waiting = [pod["metadata"]["name"] for pod in items if (pod.get("status") or {}).get("phase") == "Pending"]
        found: list[Mapping[str, Any]] = []
        for name in waiting[-EVENTS_OF:]:
            selector = f"involvedObject.name={name}"
            try:
                answer = kubernetes.get(f"/api/v1/namespaces/{namespace}/events", fieldSelector=selector)
            except EvctlError:  # events want a right of their own; the pod's status still says most
                break
            found += answer.get("items") or ()
        return found

    def _last_words(
        self, run_id: str, run: Run, pods: Sequence[pod_reader.Pod] | None, metadata: RunMetadata | None
    ) -> dict[str, str]:
        """Return the line that says why, by pod, of the tasks that failed, and of attempts that did."""
        failed = {t.pod: t for t in run.tasks if t.kind == "task" and t.state is TaskState.FAILED and t.pod}
        tried = {t.name: t for t in run.tasks if t.kind == "task" and t.state in AGAIN}
        for pod in pods or ():
            task = tried.get(pod.task.replace("-", "_"))
            if task is not None and pod.phase == "Failed" and not pod.driver:
                failed[pod.name] = task
        end = time.monotonic() + WORDS_ALL_S
        for name, task in failed.items():
            if name not in self._words and time.monotonic() < end:
                self._words[name] = self._words_of(run_id, name, task, metadata) or ""
        return {name: self._words[name] for name in failed if self._words.get(name)}

    def _words_of(self, run_id: str, pod: str, task: TaskStatus, metadata: RunMetadata | None) -> str | None:
        """Ask the API's archive, which is not always kept, then the log that the launcher stored."""
        with contextlib.suppress(EvctlError):
            words = pod_reader.last_words(self._tail(f"/apis/v1alpha1/runs/{run_id}/nodes/{pod}/log"))
            if words:
                return words
        from evctl.backends.kubeflow.artifacts import log_artifacts
        from evctl.backends.kubeflow.objects import Objects

        if metadata is None or task.state is not TaskState.FAILED:
            return None
        whole = metadata if metadata.links else self.metadata(run_id)[0]
        stored = log_artifacts(whole, task.name, task.path) if whole else ()
        with contextlib.suppress(EvctlError):
            if stored:
                return pod_reader.last_words(Objects(self.connection).read(stored[-1][1]).decode(errors="replace"))
        return None

    def _tail(self, path: str) -> str:
        kept = b""
        end = time.monotonic() + WORDS_S
        for chunk in self.connection.stream(path, deadline_s=WORDS_BEGIN_S):
            kept = (kept + chunk)[-WORDS_BYTES:]
            if time.monotonic() > end:
                break
        return kept.decode(errors="replace")


def _unexplained(run: Run, pods: Sequence[pod_reader.Pod]) -> bool:
    """Whether Argo has to be asked: a failure without a reason, or a run in which no pod is at work."""
    if not run.finished:
        return not any(pod.phase in ("Running", "Pending") for pod in pods)
    reasons = [
        task.reason for task in run.tasks if task.state is TaskState.FAILED and (task.kind == "task" or task.reason)
    ]
    return not reasons or any(reason in (UNKNOWN, DRIVER) for reason in reasons)
