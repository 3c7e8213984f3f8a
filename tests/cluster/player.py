"""Plays what KServe, the Deployment controller and the kubelet did, from recorded timelines, onto a real API server.

A change of the InferenceService's storageUri starts the timeline chosen for that URI. The recorded states are written as
they were, with the URI, names and generations of this cluster in the recorded ones' place.
"""

from __future__ import annotations

import copy
import json
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from kubernetes import client
from kubernetes.client.exceptions import ApiException

RECORDINGS = Path(__file__).parents[1] / "recordings" / "kserve-standard"
SOURCE_URI = "internal.serving.kserve.io/storage-initializer-sourceuri"
GROUP, VERSION, PLURAL = "serving.kserve.io", "v1beta1", "inferenceservices"
RECORDED_SERVICE = "ev-battery-fault-classifier"
Frame = Mapping[str, Any]


def recorded(name: str) -> list[Frame]:
    """Return a recorded timeline by its file's stem."""
    frames: list[Frame] = json.loads((RECORDINGS / f"{name}.json").read_text())
    return frames


class Player(threading.Thread):
    """Watches one InferenceService and plays the cluster's side of each change.

    Args:
        choose: the timeline for a storageUri, None to do nothing (a controller that is down).
        speed: 1 is as recorded; 10 is ten times faster.
        on_frame: called with (storageUri, frame) after a frame was written.
    """

    def __init__(
        self,
        api: client.ApiClient,
        *,
        namespace: str,
        service: str,
        choose: Callable[[str], Sequence[Frame] | None],
        speed: float = 1.0,
        url: str | None = None,
        on_frame: Callable[[str, Frame], None] | None = None,
        pod_ip: str | None = None,
    ) -> None:
        super().__init__(daemon=True, name=f"player-{service}")
        self.custom, self.apps, self.core = (
            client.CustomObjectsApi(api),
            client.AppsV1Api(api),
            client.CoreV1Api(api),
        )
        self.namespace, self.service, self.choose, self.speed, self.url = namespace, service, choose, speed, url
        self.pod_ip = pod_ip
        self.on_frame = on_frame or (lambda uri, frame: None)
        self.errors: list[BaseException] = []
        self._halt = threading.Event()
        self._cast: dict[str, str | None] = {}
        self._made = 0
        self._owner: str | None = None
        """The uid of the service whose pods are here: one made again under the same name is another's owner."""
        self._notes: dict[str, str] = {}
        """The service's own annotations: KServe copies them to the Deployment's template, so pods carry them."""

    def stop(self) -> None:
        """Stop playing."""
        self._halt.set()
        self.join(10)

    def run(self) -> None:
        seen: str | None = None
        while not self._halt.is_set():
            try:
                uri, owner = self._service_now()
                if owner != self._owner:
                    if self._owner is not None:
                        self._collect()
                    self._owner, seen = owner, None
                change = None if uri is None else f"{uri} {sorted(self._notes.items())}"
                if uri is not None and change != seen:
                    seen = change
                    frames = self.choose(uri)
                    if frames is not None:
                        self._play(uri, frames)
            except (ApiException, OSError, client.exceptions.OpenApiException) as error:
                self.errors.append(error)
            except Exception as error:  # the API server may be taken away under us: urllib3's errors
                self.errors.append(error)
            self._halt.wait(0.05)

    def _service_now(self) -> tuple[str | None, str | None]:
        """Return the service's storageUri and uid; None for what is not there."""
        try:
            found = self.custom.get_namespaced_custom_object(GROUP, VERSION, self.namespace, PLURAL, self.service)
        except ApiException as error:
            if error.status == 404:
                return None, None
            raise
        uri = found["spec"]["predictor"].get("model", {}).get("storageUri")
        notes = found["metadata"].get("annotations") or {}
        self._notes = {key: value for key, value in notes.items() if key.startswith("evctl/")}
        return str(uri) if uri else None, str(found["metadata"]["uid"])

    def _changed(self, uri: str) -> bool:
        """Is there a newer change, or none of this service any more? An API that is away has not told of one."""
        try:
            return self._service_now() != (uri, self._owner)
        except Exception as error:
            self.errors.append(error)
            return False

    def _play(self, uri: str, frames: Sequence[Frame]) -> None:
        start = time.monotonic()
        recorded_uri = frames[-1]["inferenceservice"]["storageUri"]
        self._casting(uri, frames[0])
        for frame in frames:
            due = start + frame["t"] / self.speed
            while time.monotonic() < due and not self._halt.is_set():
                if self._changed(uri):
                    return  # its own timeline takes over
                self._halt.wait(min(0.1, max(0.0, due - time.monotonic())))
            if self._halt.is_set():
                return
            self._write_patiently(uri, recorded_uri, frame)
            self.on_frame(uri, frame)

    def _write_patiently(self, uri: str, recorded_uri: str, frame: Frame) -> None:
        """Write a frame; controllers go on where they were when their API server is back."""
        while not self._halt.is_set():
            try:
                self._write(uri, recorded_uri, frame)
                return
            except Exception as error:  # urllib3's and the client's own, as the server goes and comes
                if isinstance(error, ApiException) and error.status in (404, 422):
                    raise  # the namespace or the service was deleted, or the frame is wrong
                self.errors.append(error)
                self._halt.wait(0.1)

    def _write(self, uri: str, recorded_uri: str, frame: Frame) -> None:
        rename = lambda text: text.replace(RECORDED_SERVICE, self.service)  # noqa: E731
        deployments = {rename(each["name"]): each for each in frame["deployments"]}
        for name, each in deployments.items():
            mine = each["sourceuri"] == recorded_uri
            self._deployment(name, uri if mine else each["sourceuri"], each["status"])
        self._pods(uri, frame["pods"])
        status = copy.deepcopy(frame["inferenceservice"]["status"])
        if self.url:
            status["url"] = self.url
            status.setdefault("address", {})["url"] = self.url
        self.custom.patch_namespaced_custom_object_status(
            GROUP, VERSION, self.namespace, PLURAL, self.service, {"status": status}
        )

    def _deployment(self, name: str, uri: str, status: Mapping[str, Any]) -> None:
        labels = {"app": f"isvc.{name}"}
        template = {
            "metadata": {"labels": labels, "annotations": {**self._notes, SOURCE_URI: uri}},
            "spec": {"containers": [{"name": "kserve-container", "image": "ev-battery:played"}]},
        }
        body = {
            "metadata": {"name": name, "labels": {"serving.kserve.io/inferenceservice": self.service}},
            "spec": {"replicas": 1, "selector": {"matchLabels": labels}, "template": template},
        }
        try:
            current = self.apps.patch_namespaced_deployment(name, self.namespace, {"spec": body["spec"]})
        except ApiException as error:
            if error.status != 404:
                raise
            current = self.apps.create_namespaced_deployment(self.namespace, body)
        played = {
            key: status.get(key)
            for key in ("replicas", "updatedReplicas", "readyReplicas", "availableReplicas", "unavailableReplicas")
        }
        played["conditions"] = status.get("conditions")
        played["observedGeneration"] = current.metadata.generation
        self.apps.patch_namespaced_deployment_status(name, self.namespace, {"status": played})

    def _present(self) -> dict[str, Any]:
        selector = f"serving.kserve.io/inferenceservice={self.service}"
        found = self.core.list_namespaced_pod(self.namespace, label_selector=selector).items
        return {pod.metadata.name: pod for pod in found}

    def _casting(self, uri: str, frame: Frame) -> None:
        """Give the recorded pods of a timeline's first frame to those that are here; the others are new ones."""
        self._cast = {}
        present = self._present()
        serving = [name for name, pod in present.items() if _ready(pod)]
        failing = [name for name in present if name not in serving]
        staying = [pod for pod in frame["pods"] if not pod["deletionTimestamp"]]
        for pod in frame["pods"]:
            if pod["deletionTimestamp"]:
                self._cast[pod["name"]] = failing.pop() if failing else None
            elif pod["phase"] == "Running" and serving:
                mine = [name for name in serving if present[name].metadata.annotations.get(SOURCE_URI) == uri]
                # alone it is what serves already, or the first pod there is
                if len(staying) > 1 or mine:
                    self._cast[pod["name"]] = (mine or serving)[0]

    def _pods(self, uri: str, pods: Sequence[Mapping[str, Any]]) -> None:
        wanted: dict[str, Mapping[str, Any]] = {}
        for pod in pods:
            if pod["name"] not in self._cast:
                self._made += 1
                name = pod["name"].replace(RECORDED_SERVICE, self.service)
                self._cast[pod["name"]] = f"{name[:-3]}{self._made:03d}"
            if actor := self._cast[pod["name"]]:
                wanted[actor] = pod
        present = self._present()
        for name in present.keys() - wanted.keys():
            self.core.delete_namespaced_pod(name, self.namespace, grace_period_seconds=0)
        for name, pod in wanted.items():
            if name not in present:
                self._create_pod(name, uri, self._notes)
            elif pod["deletionTimestamp"] and present[name].metadata.deletion_timestamp is None:
                self.core.delete_namespaced_pod(name, self.namespace, grace_period_seconds=30)
            status = _pod_status(pod)
            if self.pod_ip:
                status |= {"podIP": self.pod_ip, "podIPs": [{"ip": self.pod_ip}]}
            self.core.patch_namespaced_pod_status(name, self.namespace, {"status": status})

    def _collect(self) -> None:
        """Delete what belonged to a service that is gone."""
        for name in self._present():
            self.core.delete_namespaced_pod(name, self.namespace, grace_period_seconds=0)
        selector = f"serving.kserve.io/inferenceservice={self.service}"
        self.apps.delete_collection_namespaced_deployment(self.namespace, label_selector=selector)

    def _create_pod(self, name: str, uri: str, notes: Mapping[str, str]) -> None:
        self.core.create_namespaced_pod(
            self.namespace,
            {
                "metadata": {
                    "name": name,
                    "annotations": {**notes, SOURCE_URI: uri},
                    "labels": {
                        "app": f"isvc.{self.service}-predictor",
                        "component": "predictor",
                        "serving.kserve.io/inferenceservice": self.service,
                        "pod-template-hash": name.split("-")[-2],
                    },
                },
                "spec": {
                    # a pod with a node is deleted by its kubelet, so a deletionTimestamp stays to be seen
                    "nodeName": "played",
                    "initContainers": [{"name": "storage-initializer", "image": "kserve/storage-initializer:played"}],
                    "containers": [{"name": "kserve-container", "image": "ev-battery:played"}],
                },
            },
        )


def _ready(pod: Any) -> bool:
    return any((each.type, each.status) == ("Ready", "True") for each in pod.status.conditions or ())


def _pod_status(pod: Mapping[str, Any]) -> dict[str, Any]:
    def containers(entries: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        return [
            {
                "name": each["name"],
                "ready": bool(each.get("ready")),
                "restartCount": each.get("restartCount", 0),
                "image": "played",
                "imageID": "",
                "state": each["state"],
                **({"lastState": each["lastState"]} if each.get("lastState") else {}),
            }
            for each in entries
        ]

    conditions = [{"type": kind, "status": status} for kind, status in pod["conditions"].items()]
    for each in conditions:
        if told := pod.get("reasons", {}).get(each["type"]):
            each["reason"], each["message"] = told
    return {
        "phase": pod["phase"],
        "conditions": conditions,
        "initContainerStatuses": containers(pod["init"]),
        "containerStatuses": containers(pod["containers"]),
    }
