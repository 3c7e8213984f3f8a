"""One service's objects on the cluster: read, observed, written with care. Raises only `evctl.errors`."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from evctl.errors import ConflictError, EvctlError, FailedError, NotFoundError, trim
from evctl.kube import KubeApi
from evctl.rollout.cluster import PAUSE_S, steady
from evctl.rollout.ledger import Release
from evctl.rollout.serving import kserve_checks as checks
from evctl.rollout.serving import kserve_spec as spec
from evctl.rollout.serving import kserve_split as split
from evctl.rollout.serving.kserve_proof import STALE_S, Observed, Verdict, Wanted
from evctl.rollout.target import ServiceTarget

ATTEMPTS = 8
LOG_S = 2.0
"""How long a failed pod's last words are waited for: a node that hangs must not hold up the verdict."""
GOING_S = 30.0
"""How long a service that somebody deletes is waited for, where another one has to stand in its place."""
LEFT = "evctl serving; evctl history"
Object = Mapping[str, Any]


class ServiceObjects:
    """The InferenceService of a target, and what the cluster made of it."""

    def __init__(self, api: KubeApi, target: ServiceTarget) -> None:
        self.api, self._target = api, target
        self._path = spec.isvc_path(target.namespace, target.name)
        self._force = bool(target.settings.get("take_over"))

    def read(self) -> dict[str, Any] | None:
        """Return the InferenceService, None if there is none."""
        return self._maybe(self._path)

    def read_standing(self) -> dict[str, Any] | None:
        """Return the InferenceService; one that is being deleted is waited for. ConflictError when it stays."""
        end = time.monotonic() + GOING_S
        while True:
            found = steady(self.read)
            if found is None or not spec.deletion(found):
                return found
            if time.monotonic() > end:
                checks.refuse_going(self._target, found)
            time.sleep(PAUSE_S)

    def dry_run(self, body: Object) -> dict[str, Any]:
        """Return the service as the server would take it. RefusedError, ConflictError naming who and what."""
        return checks.dry_run(self.api, self._path, body, force=self._force)

    def write(self, body: Object, base: Object | None) -> None:
        """Apply if nobody changed the service since `base` was read. ConflictError naming who did."""
        steady(lambda: self.dry_run(body))
        for _ in range(ATTEMPTS):
            wanted = dict(body)
            if base is not None:
                wanted["metadata"] = {**body["metadata"], "resourceVersion": base["metadata"]["resourceVersion"]}
            try:
                self._apply(self._path, wanted)
                return
            except ConflictError as error:
                now = steady(self.read)
                checks.refuse_going(self._target, now)
                if now is not None and _is_written(body, now):
                    return  # ours, although its answer was lost
                if "Apply failed with" in error.message:
                    raise checks.conflict(body, error) from error
                if now is None or base is None or spec.intent(now) != spec.intent(base):
                    who = spec.last_other(now) if now else "somebody who deleted it"
                    raise ConflictError(
                        f"InferenceService {self._target.name} was changed by {who} while this was being written: "
                        f"{spec.storage_uri(now) if now else 'it is gone'}",
                        hint="evctl serving, then the same command",
                    ) from error
                base = now  # only its status moved
        raise ConflictError(
            f"InferenceService {self._target.name} changes without pause", hint="the same command again"
        )

    def delete(self, uid: str) -> None:
        """Delete the service if it still is the one of this uid."""
        try:
            steady(lambda: self.api.delete(self._path, {"preconditions": {"uid": uid}}))
        except NotFoundError:
            return

    def take_away(self, found: Object | None, before: Object | None) -> None:
        """Undo a first release: delete the service that it made, or give it the spec that it had `before`."""
        if found is None:
            return
        if found["metadata"].get("generation") == 1:  # never changed since the failed release made it
            self.delete(str(found["metadata"]["uid"]))
        elif before is not None:
            named = ("name", "namespace", "labels", "annotations")
            kept = {key: before["metadata"][key] for key in named if key in before["metadata"]}
            self.write({**{key: before[key] for key in ("apiVersion", "kind", "spec")}, "metadata": kept}, found)
        else:
            raise FailedError(
                f"InferenceService {self._target.name} is older than the ledger, which knows nothing to restore",
                hint="evctl promote a good model",
            )

    def unmake(self, release: Release, made: Object) -> tuple[str, str]:
        """Delete a service just made for a release, unless it is somebody else's by now. Returns what became of it, and a hint.

        Its runtime stays: it is named by its content, and other services may have it too.
        """
        what = f"InferenceService {self._target.name}"
        again = "evctl serving start tries it again; evctl rollback and evctl promote bring another model"
        try:
            found = steady(self.read)
            if found is None or spec.deletion(found):
                return f"{what} was deleted by somebody else meanwhile", again
            ours = found["metadata"]["uid"] == made["metadata"]["uid"] and found["metadata"].get("generation") == 1
            if not ours or spec.annotations_of(found).get(spec.REVISION) != str(release.revision):
                return f"{what} was changed by {spec.last_other(found)} meanwhile; it was left as it is", LEFT
            self.delete(str(made["metadata"]["uid"]))
        except EvctlError as error:
            return f"{what}, made for it, could not be deleted: {error.message}", LEFT
        return f"{what}, made for it, was deleted again", again

    def check_runtime(self, runtime: Object) -> None:
        """Ask the server whether it would take a runtime that is not there yet."""
        path = self._runtime_path(runtime)
        if self._maybe(path) is None:
            checks.dry_run(self.api, path, runtime)

    def make_runtime(self, runtime: Object) -> None:
        """Make a runtime that is not there yet; one that is, is named by its content and never edited."""
        path = self._runtime_path(runtime)
        if steady(lambda: self._maybe(path)) is None:
            steady(lambda: checks.dry_run(self.api, path, runtime))
            self._apply(path, runtime)

    def observe(self, wanted: Wanted, found: Object | None, first: dict[str, float], since: float) -> Observed:
        """Return what the cluster made of the service; `first` keeps when a pod was first seen without a node."""
        namespace, name = self._target.namespace, self._target.name
        # a transformer's or an explainer's pods are the same service's, and serve no model
        selector = f"serving.kserve.io/inferenceservice={name},component=predictor"
        pods = self.api.list(f"/api/v1/namespaces/{namespace}/pods", labelSelector=selector)
        for pod in pods:
            if "Unschedulable" in {each.get("reason") for each in (pod.get("status") or {}).get("conditions") or ()}:
                first.setdefault(pod["metadata"]["name"], since)
        growing = self._growing() if first else frozenset()
        waited = {pod: since - start for pod, start in first.items() if pod not in growing}
        if wanted.mode == "Knative":
            base = f"/apis/serving.knative.dev/v1/namespaces/{namespace}"
            knative = self._maybe(f"{base}/services/{name}-predictor")
            created = ((knative or {}).get("status") or {}).get("latestCreatedRevisionName")
            latest = self._maybe(f"{base}/revisions/{created}") if created else None
            rejected = self._rejected(found, since) if knative is None else ""
            return Observed(found, pods, None, knative, latest, since, waited, rejected)
        made = self._maybe(f"/apis/apps/v1/namespaces/{namespace}/deployments/{wanted.backend}")
        rejected = self._rejected(found, since) if made is None else ""
        # a canary's pods are the service's as well; those of each Deployment have its name as their label
        own = f"isvc.{wanted.backend}"
        pods = [pod for pod in pods if (pod["metadata"].get("labels") or {}).get("app", own) == own]
        return Observed(found, pods, made, since=since, unschedulable=waited, rejected=rejected, backend=wanted.backend)

    def reason(self, verdict: Verdict) -> str:
        """Return a failure with the pod's own last words."""
        words = verdict.words
        if verdict.pod and not words:
            try:
                lines = self.api.pod_log(
                    self._target.namespace, verdict.pod, container=verdict.container, tail=20,
                    previous=verdict.previous, within_s=LOG_S,
                )  # fmt: skip
                words = "\n".join(lines)
            except EvctlError:
                words = ""  # the log may be gone with its node; the status said the rest
        last = next((line for line in reversed(words.splitlines()) if line.strip()), "")
        return f"{verdict.told}: {trim(last, 200)}" if last else verdict.told

    def warning(self) -> str:
        """Return the last warning since the change, of the service or of what KServe made of it.

        Some reasons are told nowhere else (kubeflow-facts 13); those of the rollout before are no reason.
        """
        try:
            changed = spec.changed_at(self.read() or {})
        except EvctlError:
            changed = ""
        found = [each for each in self._events("type=Warning") if _is_about(each, self._target.name)]
        about = sorted((each for each in found if _time(each) >= changed), key=_time)
        return f"{about[-1].get('reason')}: {trim(str(about[-1].get('message')), 160)}" if about else ""

    def _rejected(self, found: Object | None, since: float) -> str:
        """Return why KServe leaves a service alone: of a mode that its cluster lacks it tells in an event only."""
        if found is None or since < STALE_S:
            return ""
        uid = found["metadata"].get("uid")
        for each in self._events(f"type=Warning,involvedObject.name={self._target.name}"):
            if (each.get("involvedObject") or {}).get("uid") == uid and str(each.get("reason")).endswith(
                "ModeRejected"
            ):
                return f"{each['reason']}: {trim(str(each.get('message')), 200)}"
        return ""

    def _growing(self) -> frozenset[str]:
        """Return the pods for which an autoscaler makes a node: that takes minutes, and is no failure."""
        return frozenset(_about(each) for each in self._events("reason=TriggeredScaleUp"))

    def _events(self, selector: str) -> list[dict[str, Any]]:
        try:
            return self.api.list(f"/api/v1/namespaces/{self._target.namespace}/events", fieldSelector=selector)
        except EvctlError:
            return []  # they only add to what is known

    def _apply(self, path: str, body: Object) -> None:
        # an apply whose answer was lost is the same apply again
        steady(lambda: self.api.apply(path, body, spec.MANAGER, force=self._force))

    def _runtime_path(self, runtime: Object) -> str:
        return spec.runtime_path(self._target.namespace, runtime["metadata"]["name"])

    def _maybe(self, path: str) -> dict[str, Any] | None:
        try:
            return self.api.get(path)
        except NotFoundError:
            return None


def _time(event: Object) -> str:
    return str(event.get("lastTimestamp") or event.get("eventTime") or event["metadata"].get("creationTimestamp") or "")


def _is_about(event: Object, service: str) -> bool:
    kind = (event.get("involvedObject") or {}).get("kind")
    # a cluster without metrics has its autoscalers warn for ever, and a pod that starts is called unhealthy
    if kind == "HorizontalPodAutoscaler" or event.get("reason") == "Unhealthy":
        return False
    return _about(event) == service or _about(event).startswith(f"{service}-")


def _about(event: Object) -> str:
    return str((event.get("involvedObject") or {}).get("name", ""))


def _is_written(body: Object, now: Object) -> bool:
    ours, theirs = spec.annotations_of(body), spec.annotations_of(now)
    same = all(ours.get(key) == theirs.get(key) for key in (spec.REVISION, spec.URI))
    pods = [spec.least(each["spec"]["predictor"]) for each in (body, now)]
    return same and pods[0] == pods[1] and spec.share(body) == spec.share(now) and split.told(body) == split.told(now)
