"""Plays KServe's Knative mode: a Knative service and its revisions, the share of each, and the states in between.

As the research notes have them from KServe's source: a revision that is not ready gets nothing; the newest that is ready
gets `canaryTrafficPercent`, the last that had all gets the rest; without the field the newest ready one gets all.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping
from typing import Any

from evctl.errors import NotFoundError
from evctl.kube import KubeApi
from evctl.rollout.serving.kserve_spec import SOURCE
from tests.cluster.playing import OK, ModePlayer, Object, own_notes, pod_status


class KnativePlayer(ModePlayer):
    """Watches one InferenceService. `ways`: how a model's revision goes, by storageUri; `delay_s` until it is ready."""

    def __init__(
        self, api: KubeApi, *, namespace: str, service: str, ways: Mapping[str, str], url: str, pod_ip: str | None,
        on_traffic: Callable[[list[tuple[str, int]]], None], delay_s: float = 0.5,
    ) -> None:  # fmt: skip
        super().__init__(api, namespace, service)
        self.ways, self.url, self.pod_ip, self.on_traffic, self.delay_s = ways, url, pod_ip, on_traffic, delay_s
        self.history: list[list[tuple[str, int]]] = []
        self._made: list[tuple[str, str, float]] = []
        """(name, storageUri, made at) of each revision."""
        self._template: Any = None
        self._ready: list[str] = []
        self._rolled: list[str] = []
        self._last = ""
        self.idle = False
        self.most = 100
        """No canary comes to a larger share: as where the gateway's controller hangs."""

    def scale_to_zero(self) -> None:
        """Take all pods away, as Knative does when nobody asks; a new revision has one again at first."""
        self.idle = True
        for name, _, _ in self._made:
            path = f"{self.pods}/{name}-pod"
            with contextlib.suppress(NotFoundError):
                self.api.delete(path, {"gracePeriodSeconds": 0})
        idle = [{"type": "Ready", "status": "True"}, {"type": "Active", "status": "False", "reason": "NoTraffic"}]
        self._status(f"revisions/{self._made[-1][0]}", {"conditions": idle})
        status = {"modelStatus": {"transitionStatus": "InProgress", "states": {"targetModelState": "Pending"}}}
        self._patch(f"{self.path}/status", {"status": status})

    @property
    def newest(self) -> str | None:
        """The storageUri of the newest revision."""
        return self._made[-1][1] if self._made else None

    def step(self, service: Object) -> None:
        uri = service["spec"]["predictor"]["model"]["storageUri"]
        notes = own_notes(service["metadata"])
        if (uri, notes) != self._template:
            self._template = (uri, notes)
            self._revise(uri, {**notes, SOURCE: uri})
        self._advance(service)

    def _revise(self, uri: str, notes: dict[str, str]) -> None:
        self.idle = False
        name = f"{self.service}-predictor-{len(self._made) + 1:05d}"
        template = {"metadata": {"annotations": notes}, "spec": {"containers": [{"image": "played"}]}}
        base = f"/apis/serving.knative.dev/v1/namespaces/{self.namespace}"
        kind: Object = {"apiVersion": "serving.knative.dev/v1"}
        ksvc = {**kind, "kind": "Service", "metadata": {"name": f"{self.service}-predictor"}}
        self.api.apply(f"{base}/services/{self.service}-predictor", {**ksvc, "spec": {"template": template}}, "kserve")
        revision = {**kind, "kind": "Revision", "metadata": {"name": name, "annotations": notes}, "spec": {}}
        self.api.create(f"{base}/revisions", revision)
        labels = {
            "component": "predictor", "serving.kserve.io/inferenceservice": self.service,
            "serving.knative.dev/revision": name,
        }  # fmt: skip
        spec = {"nodeName": "played", "containers": [{"name": "kserve-container", "image": "played"}]}
        metadata = {"name": f"{name}-pod", "labels": labels, "annotations": notes}
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}
        self.api.create(self.pods, pod)
        self._made.append((name, uri, time.monotonic()))

    def _advance(self, service: Object) -> None:
        name, uri, made = self._made[-1]
        way, due = self.ways.get(uri, OK), time.monotonic() - made >= self.delay_s
        if way == OK and due and name not in self._ready:
            self._ready.append(name)
            self._status(f"revisions/{name}", {"conditions": [{"type": "Ready", "status": "True"}]})
        if not self.idle:
            self._pod(name, way if due else "starts")
        percent = service["spec"]["predictor"].get("canaryTrafficPercent")
        traffic = self._traffic(percent)
        shares = [{"revisionName": each, "percent": share} for each, share in traffic]
        latest = {"latestCreatedRevisionName": name, "latestReadyRevisionName": self._ready[-1] if self._ready else ""}
        ksvc = self.api.get(
            f"/apis/serving.knative.dev/v1/namespaces/{self.namespace}/services/{self.service}-predictor"
        )
        generation = ksvc["metadata"]["generation"]
        self._status(
            f"services/{self.service}-predictor", {**latest, "traffic": shares, "observedGeneration": generation}
        )
        predictor = {
            "latestCreatedRevision": name,
            "latestReadyRevision": latest["latestReadyRevisionName"],
            "latestRolledoutRevision": self._rolled[-1] if self._rolled else "",
        }
        status = {"deploymentMode": "Knative", "url": self.url, "address": {"url": self.url}}
        self._patch(f"{self.path}/status", {"status": {**status, "components": {"predictor": predictor}}})
        named = [(next(u for n, u, _ in self._made if n == each), share) for each, share in traffic]
        if not self.history or self.history[-1] != named:
            self.history.append(named)
        self.on_traffic(named)

    def _traffic(self, percent: int | None) -> list[tuple[str, int]]:
        if not self._ready:
            return []
        newest = self._ready[-1]
        if percent is None or not self._rolled:
            if newest not in self._rolled[-1:]:
                self._rolled.append(newest)
            return [(newest, 100)]
        if newest == self._rolled[-1]:
            if percent == 0 and len(self._rolled) > 1:
                self._rolled.pop()
                return [(self._rolled[-1], 100)]
            return [(newest, 100)]
        share = min(percent, self.most)
        return [(newest, share), (self._rolled[-1], 100 - share)]

    def _pod(self, revision: str, way: str) -> None:
        status = pod_status(way, self.pod_ip)
        if (now := f"{revision} {way}") != self._last:
            self._last = now
            self._patch(f"{self.pods}/{revision}-pod/status", {"status": status})

    def _status(self, what: str, status: Object) -> None:
        self._patch(f"/apis/serving.knative.dev/v1/namespaces/{self.namespace}/{what}/status", {"status": status})

    def _patch(self, path: str, body: Object) -> None:
        self.api.patch(path, body)
