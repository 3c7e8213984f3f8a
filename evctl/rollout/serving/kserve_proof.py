"""Does the cluster serve the release that is meant? Pure: what was observed in, a verdict out.

KServe's own conditions are no proof: Ready=True, UpToDate and Loaded stay for ever while the new pods crash
(kubeflow-facts 22-26). The Deployment's rollout, or Knative's revision, and the pods themselves are asked instead.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from evctl.errors import trim
from evctl.rollout.serving.kserve_spec import REVISION, SOURCE, annotations_of, last_other, storage_uri
from evctl.rollout.serving.kserve_split import as_service, backend, entry_of

Object = Mapping[str, Any]
STALE_S = 5.0
"""How long after a change the InferenceService's status may still be the previous one's (measured: 1-2 s)."""
UNSCHEDULABLE_S = 30.0
"""How long a pod may find no node: a cluster that grows says so at first too."""
RESTARTS = 2
HOPELESS = frozenset({"ImagePullBackOff", "InvalidImageName", "CreateContainerConfigError", "CreateContainerError"})
"""Waiting reasons that end a promotion. ErrImagePull is not one: the next attempt may succeed."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """The release to be proved. `percent` is its share of the requests."""

    name: str
    uri: str
    revision: str
    mode: str
    percent: int = 100
    canary: str | None = None
    """Its name among the service's canaries in Standard mode; None is the stable predictor."""

    @property
    def backend(self) -> str:
        """The name of its Deployment and Service in Standard mode."""
        return backend(self.name, self.canary)


@dataclass(frozen=True, slots=True)
class Observed:
    """What the cluster holds. `since`: seconds since the change; `unschedulable`: seconds by pod."""

    service: Object | None
    pods: Sequence[Object] = ()
    deployment: Object | None = None
    knative: Object | None = None
    latest: Object | None = None
    """Knative's latest created revision."""
    since: float = 0.0
    unschedulable: Mapping[str, float] = field(default_factory=dict)
    backend: str = ""
    """The Service that leads to these pods, in Standard mode."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """`told` in one line; for a failed pod also whose log has the last word."""

    state: Literal["waiting", "rolled_out", "failed"]
    told: str
    pod: str | None = None
    container: str | None = None
    previous: bool = False
    """The last word is in the log of the container's run before."""
    words: str = ""
    """What the pod's status itself says of the end."""


def judge(wanted: Wanted, seen: Observed) -> Verdict:
    """Return how far a release is, and why it cannot come further."""
    service = seen.service
    if service is None:
        return Verdict("failed", f"InferenceService {wanted.name} was deleted meanwhile")
    given = as_service(entry_of(service, wanted.canary) or {}) if wanted.canary else service
    if storage_uri(given) != wanted.uri or annotations_of(given).get(REVISION) != wanted.revision:
        return Verdict(
            "failed", f"InferenceService {wanted.name} was changed by {last_other(service)}: {storage_uri(given)}"
        )
    if wanted.mode == "Knative":
        return _knative(wanted, seen, service)
    return _standard(wanted, seen, service)


def _standard(wanted: Wanted, seen: Observed, service: Object) -> Verdict:
    deployment = seen.deployment
    if deployment is None or not _is_of(deployment["spec"]["template"], wanted):
        return _not_taken_up(service, seen.since)
    status, generation = deployment.get("status") or {}, deployment["metadata"]["generation"]
    current = int(status.get("observedGeneration") or 0) >= generation
    for condition in status.get("conditions") or () if current else ():
        bad = (condition["type"], condition["status"])
        if bad in (("ReplicaFailure", "True"), ("Progressing", "False")):
            return Verdict("failed", f"{condition.get('reason')}: {trim(str(condition.get('message')), 200)}")
    fresh, old = _split(seen.pods, wanted)
    if failed := _failed(fresh, seen.unschedulable):
        return failed
    replicas = int(deployment["spec"].get("replicas", 1))
    updated, available = int(status.get("updatedReplicas") or 0), int(status.get("availableReplicas") or 0)
    ready = sum(_is_ready(pod) for pod in fresh)
    rolled = updated == replicas == int(status.get("replicas") or 0) == available
    if current and replicas and rolled and ready and not old:
        return Verdict("rolled_out", f"{ready} of {replicas} pods ready, no old pod left")
    return Verdict("waiting", f"{ready} of {replicas} new pods ready{_doing(fresh)}")


def _knative(wanted: Wanted, seen: Observed, service: Object) -> Verdict:
    knative = seen.knative
    if knative is None or not _is_of(knative["spec"]["template"], wanted):
        return _not_taken_up(service, seen.since)
    status = knative.get("status") or {}
    if int(status.get("observedGeneration") or 0) < knative["metadata"]["generation"]:
        return Verdict("waiting", "Knative has not seen the change yet")
    created = status.get("latestCreatedRevisionName")
    if seen.latest is None or not _is_of(seen.latest, wanted):
        return Verdict("waiting", "Knative has made no revision yet")
    fresh = [pod for pod in seen.pods if _labels(pod).get("serving.knative.dev/revision") == created]
    if failed := _failed([pod for pod in fresh if not _is_going(pod)], seen.unschedulable):
        return failed
    for condition in (seen.latest.get("status") or {}).get("conditions") or ():
        if (condition["type"], condition["status"]) == ("Ready", "False"):
            told = f"revision {created}: {condition.get('reason')}: {trim(str(condition.get('message')), 200)}"
            return Verdict("failed", told)
    if status.get("latestReadyRevisionName") != created:
        return Verdict("waiting", f"revision {created} is not ready{_doing(fresh)}")
    share = sum(int(each.get("percent") or 0) for each in status.get("traffic") or () if _routes(each, created))
    if share != wanted.percent:
        return Verdict("waiting", f"revision {created} gets {share} of {wanted.percent} % of the requests")
    return Verdict("rolled_out", f"revision {created} is ready and gets {share} %")


def _not_taken_up(service: Object, since: float) -> Verdict:
    status = (service.get("status") or {}).get("modelStatus") or {}
    if status.get("transitionStatus") == "InvalidSpec" and since >= STALE_S:
        info = status.get("lastFailureInfo") or {}
        return Verdict("failed", f"KServe refuses it: {info.get('reason')}: {trim(str(info.get('message')), 200)}")
    return Verdict("waiting", "KServe has not taken the change up yet")


def _failed(pods: Sequence[Object], unschedulable: Mapping[str, float]) -> Verdict | None:
    for pod in pods:
        name, status = pod["metadata"]["name"], pod.get("status") or {}
        for each in status.get("initContainerStatuses") or ():
            if found := _init_failure(name, each):
                return found
        for each in status.get("containerStatuses") or ():
            if found := _container_failure(name, each):
                return found
        for condition in status.get("conditions") or ():
            nowhere = (condition.get("type"), condition.get("reason")) == ("PodScheduled", "Unschedulable")
            if nowhere and unschedulable.get(name, 0.0) >= UNSCHEDULABLE_S:
                return Verdict("failed", f"pod {name} finds no node: {trim(str(condition.get('message')), 200)}")
    return None


def _init_failure(pod: str, status: Object) -> Verdict | None:
    state, name = status.get("state") or {}, status["name"]
    if hopeless := _hopeless(pod, name, state):
        return hopeless
    restarts = int(status.get("restartCount") or 0)
    ended = state.get("terminated") or {}
    if ended.get("exitCode"):
        return _ended(pod, name, ended, "failed", previous=False)
    if restarts:
        before = (status.get("lastState") or {}).get("terminated") or {}
        waits = "waiting" in state
        return _ended(pod, name, before, "failed", previous=not waits)
    return None


def _container_failure(pod: str, status: Object) -> Verdict | None:
    state, name = status.get("state") or {}, status["name"]
    if hopeless := _hopeless(pod, name, state):
        return hopeless
    restarts = int(status.get("restartCount") or 0)
    if restarts < RESTARTS:
        return None
    before = (status.get("lastState") or {}).get("terminated") or state.get("terminated") or {}
    return _ended(pod, name, before, f"was restarted {restarts} times", previous="running" in state)


def _hopeless(pod: str, name: str, state: Object) -> Verdict | None:
    waiting = state.get("waiting") or {}
    if waiting.get("reason") not in HOPELESS:
        return None
    return Verdict("failed", f"pod {pod}, {name}: {waiting['reason']}: {trim(str(waiting.get('message', '')), 200)}")


def _ended(pod: str, container: str, ended: Object, told: str, *, previous: bool) -> Verdict:
    code = f" (exit code {ended['exitCode']})" if ended.get("exitCode") else ""
    reason = f", {ended['reason']}" if ended.get("reason") not in (None, "Error", "Completed") else ""
    words = str(ended.get("message") or "")
    return Verdict("failed", f"pod {pod}, {container} {told}{code}{reason}", pod, container, previous, words)


def _is_of(document: Object, wanted: Wanted) -> bool:
    """Is this template, revision or pod of the release? One that names a revision must name ours."""
    notes = annotations_of(document)
    return notes.get(SOURCE) == wanted.uri and notes.get(REVISION, wanted.revision) == wanted.revision


def _split(pods: Sequence[Object], wanted: Wanted) -> tuple[list[Object], list[Object]]:
    """Return the release's pods and the older ones; those that are going, or have ended, are neither."""
    present = [pod for pod in pods if not _is_going(pod)]
    fresh = [pod for pod in present if _is_of(pod, wanted)]
    ended = ("Succeeded", "Failed")
    old = [pod for pod in present if not _is_of(pod, wanted) and (pod.get("status") or {}).get("phase") not in ended]
    return fresh, old


def _is_going(pod: Object) -> bool:
    return bool(pod["metadata"].get("deletionTimestamp"))


def _is_ready(pod: Object) -> bool:
    conditions = (pod.get("status") or {}).get("conditions") or ()
    return any((each["type"], each["status"]) == ("Ready", "True") for each in conditions)


def _labels(document: Object) -> Mapping[str, str]:
    return document["metadata"].get("labels") or {}


def _routes(entry: Object, revision: str | None) -> bool:
    return bool(entry.get("revisionName") == revision)


def _doing(pods: Sequence[Object]) -> str:
    return next((f": {each}" for each in _busy(pods)), "")


def _busy(pods: Sequence[Object]) -> Iterator[str]:
    for pod in pods:
        status = pod.get("status") or {}
        for each in (*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())):
            state = each.get("state") or {}
            if waiting := (state.get("waiting") or {}).get("reason"):
                yield f"{each['name']} waits ({waiting})"
            elif "running" in state and not each.get("ready"):
                yield f"{each['name']} runs"
