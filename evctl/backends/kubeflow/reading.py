"""Ask every source about a run and join what they say: for a finished run in at most six requests.

A run that failed is asked for its pods and its last words, and not for its artifacts: why it failed comes before what its
tasks said of their results. What six requests do not reach is named, with the command that reads it.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from evctl.backends.base import TERMINAL_RUN_STATES, Run, RunState
from evctl.backends.kubeflow import pods as pod_reader
from evctl.backends.kubeflow import workflow as workflows
from evctl.backends.kubeflow.api import Api
from evctl.backends.kubeflow.connect import KUBERNETES_PAUSE_S
from evctl.backends.kubeflow.explaining import Allowance, LastWords, unexplained
from evctl.backends.kubeflow.join import Sources, join, run_state
from evctl.backends.metadata.values import RunMetadata
from evctl.errors import EvctlError, UnavailableError
from evctl.kube_errors import NoKubeconfig
from evctl.profile import Profile

METADATA_PAUSE_S = 10.0
"""Seconds in which a server that did not answer is not asked again: a watch goes on at its own pace."""
WORKFLOW_PAUSE_S = 10.0
"""A run that stands still is looked up in Argo this often at most; it stands still between any two tasks."""
FINISHED_REQUESTS = 6
"""Requests for a finished run, to all servers together."""
EVENTS_OF = 5
"""Of how many waiting pods the events are asked for."""


class Connection(Protocol):
    """What is needed of a connection."""

    profile: Profile

    def kubernetes(self) -> Any:
        """Return Kubernetes' API, None where there is no access."""
        ...

    @property
    def no_kubernetes(self) -> EvctlError | None:
        """Why there is no access."""
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
    _words: LastWords = field(init=False)
    _workflows: dict[str, tuple[float, tuple[workflows.Workflow | None, bool]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._words = LastWords(self.connection, self.metadata)

    def run(self, run_id: str, *, cancel_requested: bool = False) -> Run:
        """Return the run as all sources together know it."""
        allowance = Allowance(self.api, FINISHED_REQUESTS)
        document = self.api.run(run_id)
        state = run_state(document, cancel_requested=cancel_requested)
        if state not in TERMINAL_RUN_STATES:
            allowance.limit = None
        # the spec is one more, where it is not known yet
        within = None if allowance.limit is None else allowance.limit - 2
        metadata, down = self.metadata(run_id, artifacts=state is not RunState.FAILED, within=within)
        allowance.spend(metadata.requests if metadata else 1)
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
            # one whose exit handler failed has succeeded all the same
            seen = join(sources)
            words, unread = self._words.of(run_id, seen, None, metadata, allowance)
            return join(replace(sources, logs=words, unread=unread)) if words or unread else seen
        pods, warnings = self._pods(run_id, metadata, allowance)
        sources = replace(sources, pods=pods, warnings=warnings)
        seen = join(sources)
        words, unread = self._words.of(run_id, seen, pods, metadata, allowance)
        if words or unread:
            sources = replace(sources, logs=words, unread=unread)
            seen = join(sources)
        if pods is not None and not warnings and unexplained(seen, pods, metadata):
            workflow, gone = self._argo(run_id, metadata, allowance)
            if workflow is not None or gone:
                return join(replace(sources, argo=workflow, argo_gone=gone))
        return seen

    def metadata(
        self, run_id: str, *, artifacts: bool = True, within: int | None = None
    ) -> tuple[RunMetadata | None, bool]:
        """Return what ML Metadata has of a run, and whether it could not be asked. `within` is its client's."""
        if time.monotonic() < self._quiet_until:
            return None, True
        try:
            return self.connection.metadata().read(run_id, artifacts=artifacts, within=within), False
        except EvctlError:
            self._quiet_until = time.monotonic() + METADATA_PAUSE_S
            return None, True

    def _argo(
        self, run_id: str, metadata: RunMetadata | None, allowance: Allowance
    ) -> tuple[workflows.Workflow | None, bool]:
        """Return the run's workflow, and whether a run that goes on has none: somebody deleted it."""
        kubernetes = self.connection.kubernetes()
        until, known = self._workflows.get(run_id, (0.0, (None, False)))
        if kubernetes is None or time.monotonic() < until:
            return known
        namespaces = [each.namespace for each in metadata.executions if each.namespace] if metadata else []
        gone = allowance.limit is None
        with contextlib.suppress(EvctlError):
            # where each user has a namespace, one in which no pod was seen may be another's
            gone = gone and (bool(namespaces) or not self.api.multi_user())
        found: tuple[workflows.Workflow | None, bool] = (None, gone)
        for namespace in self._namespaces(namespaces[-1:], allowance):
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
        pods, _ = self._pods(run_id, None, Allowance(self.api, None))
        return tuple(
            f"pod {pod.name} is left behind and goes on trying to start: kubectl -n {pod.namespace} delete pod {pod.name}"
            for pod in pods or ()
            if pod.blocked  # one that only has yet to start ends by itself
        )

    def _pods(
        self, run_id: str, metadata: RunMetadata | None, allowance: Allowance
    ) -> tuple[tuple[pod_reader.Pod, ...] | None, tuple[str, ...]]:
        """Return the run's pods; what cannot be learnt is said, and is no failure of ours."""
        kubernetes = self.connection.kubernetes()
        if kubernetes is None:
            error = self.connection.no_kubernetes
            unsaid = error is None or isinstance(error, NoKubeconfig)
            return None, () if unsaid else (f"pods cannot be read, so why one does not start is not known: {error}",)
        if time.monotonic() < self._kubernetes_quiet[0]:
            return None, (self._kubernetes_quiet[1],)
        selector = f"{pod_reader.RUN_LABEL}={run_id}"
        known = [e.namespace for e in metadata.executions if e.namespace] if metadata else []
        said: str | None = None
        for namespace in self._namespaces(known[-1:], allowance):
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

    def _namespaces(self, known: Sequence[str], allowance: Allowance) -> Iterator[str]:
        """Yield where pods may be, the likeliest first; the server is asked only where ML Metadata does not say."""
        yield from (each for each in known if allowance.spend(1))
        if not allowance.left():
            return
        try:
            apart = self.api.multi_user()
        except EvctlError:
            rest: tuple[str, ...] = (self.namespace, self.system_namespace)
        else:
            # a server for one user runs all of them beside itself
            rest = (self.namespace,) if apart else (self.system_namespace, self.namespace)
        if allowance.limit is not None:
            rest = rest[:1]  # a finished run's pods are most often gone: a second look is worth less than a log
        yield from (each for each in dict.fromkeys(rest) if each not in known and allowance.spend(1))

    def _events(self, kubernetes: Any, namespace: str, items: list[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
        waiting = [pod["metadata"]["name"] for pod in items if (pod.get("status") or {}).get("phase") == "Pending"]
        found: list[Mapping[str, Any]] = []
        for name in waiting[-EVENTS_OF:]:
            selector = f"involvedObject.name={name}"
            try:
                answer = kubernetes.get(f"/api/v1/namespaces/{namespace}/events", fieldSelector=selector)
            except EvctlError as error:  # events want a right of their own; the pod's status still says most
                if isinstance(error, UnavailableError):
                    said = f"events cannot be read, so why a pod does not start may not be known: {error}"
                    self._kubernetes_quiet = (time.monotonic() + KUBERNETES_PAUSE_S, said)
                break
            found += answer.get("items") or ()
        return found
