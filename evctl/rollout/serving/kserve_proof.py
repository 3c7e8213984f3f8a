"""Does the cluster serve the release that is meant? Pure: what was observed in, a verdict out.

KServe's own conditions are no proof: Ready=True, UpToDate and Loaded stay for ever while the new pods crash
(kubeflow-facts 22-26). The Deployment's rollout, or Knative's revision, and the pods themselves are asked instead.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from evctl.errors import trim
from evctl.rollout.serving import kserve_conditions as conditions
from evctl.rollout.serving import kserve_mode as modes
from evctl.rollout.serving import kserve_pods as pods_of
from evctl.rollout.serving.kserve_pods import is_going, is_ready
from evctl.rollout.serving.kserve_spec import (
    REVISION,
    SOURCE,
    annotations_of,
    changed_at,
    deletion,
    last_other,
    least,
    pause,
    storage_uri,
)
from evctl.rollout.serving.kserve_split import as_service, backend, entry_of, kept

Object = Mapping[str, Any]
STALE_S = 5.0
"""How long after a change the InferenceService's status may still be the previous one's (measured: 1-2 s)."""
UNSCHEDULABLE_S = 30.0
"""How long a pod may find no node: a cluster that grows says so at first too."""


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
    rejected: str = ""
    """What KServe says in an event when it does not act on the service at all."""
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
    if going := deletion(service):
        return Verdict("failed", f"InferenceService {wanted.name} is being deleted, {going}")
    given = as_service(entry_of(service, wanted.canary) or {}) if wanted.canary else service
    if storage_uri(given) != wanted.uri or annotations_of(given).get(REVISION) != wanted.revision:
        return Verdict(
            "failed", f"InferenceService {wanted.name} was changed by {last_other(service)}: {storage_uri(given)}"
        )
    if wanted.mode not in modes.KNOWN:
        return Verdict("failed", f"it runs in mode {wanted.mode}, in which evctl can prove nothing")
    if wanted.mode == "Knative":
        return _knative(wanted, seen, service)
    return _standard(wanted, seen, service)


def serves(seen: Observed, verdict: Verdict) -> bool:
    """Does the service serve? While a release rolls out the one before it does, and a drained node takes one pod of many."""
    if verdict.state != "waiting":
        return verdict.state == "rolled_out"
    if seen.knative is not None:
        return bool((seen.knative.get("status") or {}).get("latestReadyRevisionName"))
    return any(is_ready(pod) and not is_going(pod) for pod in seen.pods)


def _standard(wanted: Wanted, seen: Observed, service: Object) -> Verdict:
    deployment = seen.deployment
    if deployment is None or not _is_of(deployment["spec"]["template"], wanted):
        return _not_taken_up(service, seen)
    status, generation = deployment.get("status") or {}, deployment["metadata"]["generation"]
    current = int(status.get("observedGeneration") or 0) >= generation
    fresh, old = _split(seen.pods, wanted)
    others = [pod for pod in seen.pods if not _is_of(pod, wanted)]
    if why := conditions.failed(deployment, fresh, others, changed=changed_at(service), since=seen.since):
        return Verdict("failed", why)
    if failed := _failed(fresh, seen.unschedulable):
        return failed
    # KServe, or an autoscaler, brings the Deployment to what the service asks for, a little later
    entry = entry_of(service, wanted.canary) if wanted.canary else None
    asked = least(entry["predictor"]) if entry else kept(service)
    replicas = max(int(deployment["spec"].get("replicas", 1)), asked)
    updated, available = int(status.get("updatedReplicas") or 0), int(status.get("availableReplicas") or 0)
    ready = sum(is_ready(pod) for pod in fresh)
    rolled = updated == replicas == int(status.get("replicas") or 0) == available
    if current and replicas and rolled and ready and not old:
        return Verdict("rolled_out", f"{ready} of {replicas} pods ready, no old pod left{_lost(fresh, 2)}")
    held = conditions.unanswered(deployment) if len(fresh) < replicas else ""
    return Verdict("waiting", f"{ready} of {replicas} new pods ready{pods_of.doing(fresh)}{_lost(fresh)}{held}")


def _knative(wanted: Wanted, seen: Observed, service: Object) -> Verdict:
    knative = seen.knative
    if knative is None or not _is_of(knative["spec"]["template"], wanted):
        return _not_taken_up(service, seen)
    status = knative.get("status") or {}
    if int(status.get("observedGeneration") or 0) < knative["metadata"]["generation"]:
        return Verdict("waiting", "Knative has not seen the change yet")
    created = status.get("latestCreatedRevisionName")
    if seen.latest is None or not _is_of(seen.latest, wanted):
        return Verdict("waiting", "Knative has made no revision yet")
    fresh = [pod for pod in seen.pods if _labels(pod).get("serving.knative.dev/revision") == created]
    if failed := _failed(fresh, seen.unschedulable):
        return failed
    for condition in (seen.latest.get("status") or {}).get("conditions") or ():
        if (condition["type"], condition["status"]) == ("Ready", "False"):
            told = f"revision {created}: {condition.get('reason')}: {trim(str(condition.get('message')), 200)}"
            return Verdict("failed", told)
    if status.get("latestReadyRevisionName") != created:
        return Verdict("waiting", f"revision {created} is not ready{pods_of.doing(fresh)}{_lost(fresh)}")
    share = sum(int(each.get("percent") or 0) for each in status.get("traffic") or () if _routes(each, created))
    if share != wanted.percent:
        return Verdict("waiting", f"revision {created} gets {share} of {wanted.percent} % of the requests")
    return Verdict("rolled_out", f"revision {created} is ready and gets {share} %{_lost(fresh, 2)}")


def _not_taken_up(service: Object, seen: Observed) -> Verdict:
    status = service.get("status") or {}
    model = status.get("modelStatus") or {}
    if paused := pause(service):
        return Verdict("failed", f"{paused}=true: KServe does not act on it")
    if seen.since >= STALE_S:
        if seen.rejected:
            return Verdict("failed", f"KServe does not act on it: {seen.rejected}")
        if why := modes.too_old(service):
            return Verdict("failed", why)
        if model.get("transitionStatus") == "InvalidSpec":
            info = model.get("lastFailureInfo") or {}
            return Verdict("failed", f"KServe refuses it: {info.get('reason')}: {trim(str(info.get('message')), 200)}")
    return Verdict("waiting", "KServe has not taken the change up yet")


def _failed(pods: Sequence[Object], unschedulable: Mapping[str, float]) -> Verdict | None:
    stuck = {name for name, seconds in unschedulable.items() if seconds >= UNSCHEDULABLE_S}
    found = pods_of.failure(pods, stuck)
    if found is None:
        return None
    return Verdict("failed", found.told, found.pod, found.container, found.previous, found.words)


def _lost(pods: Sequence[Object], least: int = 1) -> str:
    return pods_of.losses(pods, least=least)


def _is_of(document: Object, wanted: Wanted) -> bool:
    """Is this template, revision or pod of the release? One that names a revision must name ours."""
    notes = annotations_of(document)
    return notes.get(SOURCE) == wanted.uri and notes.get(REVISION, wanted.revision) == wanted.revision


def _split(pods: Sequence[Object], wanted: Wanted) -> tuple[list[Object], list[Object]]:
    """Return the release's pods and the older ones; those that are going, or have ended, are neither."""
    present = [pod for pod in pods if not is_going(pod)]
    fresh = [pod for pod in present if _is_of(pod, wanted)]
    ended = ("Succeeded", "Failed")
    old = [pod for pod in present if not _is_of(pod, wanted) and (pod.get("status") or {}).get("phase") not in ended]
    return fresh, old


def _labels(document: Object) -> Mapping[str, str]:
    return document["metadata"].get("labels") or {}


def _routes(entry: Object, revision: str | None) -> bool:
    return bool(entry.get("revisionName") == revision)
