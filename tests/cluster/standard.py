"""Plays KServe's Standard mode with the Gateway API: the stable Deployment, those of canaries, and the weighted routes.

As KServe's source and its own tests of canaries have it (0.20 makes the Deployments, 0.21 weighs them):
Deployments that nobody wants any more are deleted first, a canary is in the route as soon as one of its pods is ready,
the stable predictor gives up the pods that its canaries ask for but keeps one, and a route that becomes shorter is not
written anew, so a canary that is taken away keeps the weight it had last.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from evctl.kube import KubeApi
from evctl.rollout.serving.kserve_spec import SOURCE
from tests.cluster.playing import CRASHES, OK, ModePlayer, Object, own_notes, pod_status


@dataclass
class Pods:
    """A Deployment's pods of one template."""

    name: str
    uri: str
    notes: dict[str, str]
    made: float
    ready: bool = False


@dataclass
class Workload:
    """One Deployment."""

    name: str
    replicas: int
    sets: list[Pods] = field(default_factory=list)
    made: int = 0

    @property
    def serves(self) -> str | None:
        """The storageUri that its ready pods have."""
        return next((each.uri for each in self.sets if each.ready), None)


class StandardPlayer(ModePlayer):
    """Watches one InferenceService. `ways`: how a model's pods go, by storageUri; `weighs`: is it 0.21, or 0.20?"""

    def __init__(
        self, api: KubeApi, *, namespace: str, service: str, ways: Mapping[str, str], url: str, pod_ip: str,
        on_change: Callable[[str, str | None], None], gateway: bool = True, weighs: bool = True, delay_s: float = 0.4,
    ) -> None:  # fmt: skip
        super().__init__(api, namespace, service)
        self.ways, self.url, self.pod_ip = ways, url, pod_ip
        self.on_change, self.gateway, self.weighs, self.delay_s = on_change, gateway, weighs, delay_s
        self.history: list[dict[str, int]] = []
        """Each state of the split: percent by storageUri, '' for requests to nobody."""
        self.workloads: dict[str, Workload] = {}
        self._refs: list[Object] = []
        self.most, self.room = 100, 100
        """No canary comes to a larger share of the route; no Deployment to more pods that are available."""
        self.stable: list[tuple[str | None, int, int]] = []
        """Each state of the stable predictor: the storageUri it serves, its pods, percent of requests to others."""

    def step(self, service: Object) -> None:
        notes, stable = own_notes(service["metadata"]), f"{self.service}-predictor"
        wanted = {stable: (service["spec"]["predictor"], notes)}
        canaries = service["spec"].get("canary") or []
        for each in canaries:
            predictor = each["predictor"]
            own = {**notes, **(predictor.get("annotations") or {})}
            wanted[f"{self.service}-{predictor['name']}-predictor"] = (predictor, own)
        for name in self.workloads.keys() - wanted.keys():
            self._remove(self.workloads.pop(name))
        ready = [each for each in canaries if self._is_ready(f"{self.service}-{each['predictor']['name']}-predictor")]
        for name, (predictor, own) in wanted.items():
            replicas = int(predictor.get("minReplicas", 1))
            if name == stable:
                replicas = max(1, replicas - sum(int(each["predictor"]["minReplicas"]) for each in canaries))
            self._advance(self.workloads.setdefault(name, Workload(name, replicas)), predictor, own, replicas)
        if self.gateway and self.workloads[stable].serves:
            self._route(stable, ready)
        self._note(stable)
        status = {"deploymentMode": "Standard", "url": self.url, "address": {"url": self.url}}
        self.api.patch(f"{self.path}/status", {"status": status})

    def _is_ready(self, name: str) -> bool:
        return bool(self.workloads.get(name) and self.workloads[name].serves)

    def _advance(self, load: Workload, predictor: Object, notes: dict[str, str], replicas: int) -> None:
        uri = predictor["model"]["storageUri"]
        load.replicas = replicas
        if not load.sets or (load.sets[-1].uri, load.sets[-1].notes) != (uri, notes):
            load.made += 1
            new = Pods(f"{load.name}-{load.made:03d}", uri, notes, time.monotonic())
            for stuck in [each for each in load.sets if not each.ready]:
                load.sets.remove(stuck)
                self._delete_pod(stuck.name)
            load.sets.append(new)
            self._pod(load, new)
        newest = load.sets[-1]
        way, due = self.ways.get(uri, OK), time.monotonic() - newest.made >= self.delay_s
        if due and not newest.ready and way == OK:
            newest.ready = True
            self._pod_status(newest, OK)
            for old in load.sets[:-1]:
                self._delete_pod(old.name)
            load.sets = [newest]
            self.on_change(load.name, uri)
        elif due and way == CRASHES:
            self._pod_status(newest, CRASHES)
        self._deployment(load, newest)

    def _deployment(self, load: Workload, newest: Pods) -> None:
        labels = {"app": f"isvc.{load.name}"}
        template = {
            "metadata": {"labels": labels, "annotations": {**newest.notes, SOURCE: newest.uri}},
            "spec": {"containers": [{"name": "kserve-container", "image": "played"}]},
        }
        body = {
            "apiVersion": "apps/v1", "kind": "Deployment",
            "metadata": {"name": load.name, "labels": {"serving.kserve.io/inferenceservice": self.service}},
            "spec": {"replicas": load.replicas, "selector": {"matchLabels": labels}, "template": template},
        }  # fmt: skip
        path = f"/apis/apps/v1/namespaces/{self.namespace}/deployments/{load.name}"
        made = self.api.apply(path, body, "kserve")
        count = min(load.replicas, self.room) if newest.ready else 0
        left = 0 if newest.ready else len(load.sets) - 1
        status = {
            "observedGeneration": made["metadata"]["generation"],
            "replicas": load.replicas + left, "updatedReplicas": load.replicas,
            "readyReplicas": count + left, "availableReplicas": count + left,
        }  # fmt: skip
        self.api.patch(f"{path}/status", {"status": status})

    def _pod(self, load: Workload, pods: Pods) -> None:
        labels = {
            "app": f"isvc.{load.name}", "component": "predictor", "serving.kserve.io/inferenceservice": self.service,
        }  # fmt: skip
        metadata = {"name": pods.name, "labels": labels, "annotations": {**pods.notes, SOURCE: pods.uri}}
        spec = {"nodeName": "played", "containers": [{"name": "kserve-container", "image": "played"}]}
        self.api.create(self.pods, {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec})

    def _pod_status(self, pods: Pods, way: str) -> None:
        self.api.patch(f"{self.pods}/{pods.name}/status", {"status": pod_status(way, self.pod_ip)})

    def _remove(self, load: Workload) -> None:
        self.api.delete(f"/apis/apps/v1/namespaces/{self.namespace}/deployments/{load.name}")
        for each in load.sets:
            self._delete_pod(each.name)
        self.on_change(load.name, None)

    def _delete_pod(self, name: str) -> None:
        self.api.delete(f"{self.pods}/{name}", {"gracePeriodSeconds": 0})

    def _route(self, stable: str, ready: list[Object]) -> None:
        refs: list[Object] = [{"name": stable, "port": 80}]
        if ready and self.weighs:
            shares = {each["predictor"]["name"]: min(int(each["trafficPercent"]), self.most) for each in ready}
            refs[0]["weight"] = 100 - sum(shares.values())
            for each, share in shares.items():
                refs.append({"name": f"{self.service}-{each}-predictor", "port": 80, "weight": share})
        if not _is_derivative(refs, self._refs):
            self._refs = refs
        for name in (self.service, stable):
            path = f"/apis/gateway.networking.k8s.io/v1/namespaces/{self.namespace}/httproutes/{name}"
            kind = {"apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute", "metadata": {"name": name}}
            made = self.api.apply(path, {**kind, "spec": {"rules": [{"backendRefs": self._refs}]}}, "kserve")
            taken = {"type": "Accepted", "status": "True", "observedGeneration": made["metadata"]["generation"]}
            self.api.patch(f"{path}/status", {"status": {"parents": [{"conditions": [taken]}]}})

    def _note(self, stable: str) -> None:
        refs = self._refs if self.gateway else [{"name": stable}]
        now: dict[str, int] = {}
        for ref in refs:
            load = self.workloads.get(ref["name"])
            serves = (load.serves if load else None) or ""
            if share := int(ref.get("weight", 100 if len(refs) == 1 else 1)):
                now[serves] = now.get(serves, 0) + share
        if not self.history or self.history[-1] != now:
            self.history.append(now)
        own = self.workloads[stable]
        given = sum(share for uri, share in now.items() if uri != (own.serves or ""))
        if not self.stable or self.stable[-1] != (own.serves, own.replicas, given):
            self.stable.append((own.serves, own.replicas, given))


def _is_derivative(wanted: list[Object], has: list[Object]) -> bool:
    """KServe's comparison of routes: what is not said, or no longer said, is taken for equal."""
    if len(wanted) > len(has):
        return False
    return all(
        all(now.get(key) == value for key, value in each.items()) for each, now in zip(wanted, has, strict=False)
    )
