"""What the players of KServe's two modes share: one InferenceService, watched and answered to until told to stop."""

from __future__ import annotations

import threading
from typing import Any

from evctl.errors import EvctlError, NotFoundError
from evctl.kube import KubeApi

Object = dict[str, Any]
OK, CRASHES, STUCK = "ok", "crashes", "stuck"


class ModePlayer(threading.Thread):
    """Reads the service each 50 ms and does what KServe would: `step`. It goes on when the API server was away."""

    def __init__(self, api: KubeApi, namespace: str, service: str) -> None:
        super().__init__(daemon=True)
        self.api, self.namespace, self.service = api, namespace, service
        self.errors: list[Exception] = []
        self._halt = threading.Event()
        base = f"/apis/serving.kserve.io/v1beta1/namespaces/{namespace}/inferenceservices"
        self.path, self.pods = f"{base}/{service}", f"/api/v1/namespaces/{namespace}/pods"

    def step(self, service: Object) -> None:
        """Answer to the service as it stands."""
        raise AssertionError("a mode says what it does")

    def stop(self) -> None:
        """Stop playing."""
        self._halt.set()
        self.join(10)

    def run(self) -> None:
        while not self._halt.is_set():
            try:
                self.step(self.api.get(self.path))
            except NotFoundError:
                pass
            except EvctlError as error:
                self.errors.append(error)
            self._halt.wait(0.05)


def container(way: str) -> Object:
    """Return the status of a predictor's container."""
    state: Object = {"name": "kserve-container", "image": "played", "imageID": "", "restartCount": 0}
    state |= {"ready": way == OK, "state": {"running": {"startedAt": "2026-11-23T07:00:00Z"}}}
    if way == CRASHES:
        ended = {"exitCode": 1, "reason": "Error", "message": "refused: GoldenMismatch"}
        state |= {"restartCount": 2, "lastState": {"terminated": ended}}
    return state


def pod_status(way: str, pod_ip: str | None = None) -> Object:
    """Return the status of a predictor's pod."""
    condition = {"type": "Ready", "status": "True" if way == OK else "False"}
    status: Object = {"phase": "Running", "conditions": [condition], "containerStatuses": [container(way)]}
    return status | ({"podIP": pod_ip, "podIPs": [{"ip": pod_ip}]} if pod_ip else {})


def own_notes(metadata: Object) -> dict[str, str]:
    """Return evctl's own annotations, which KServe copies to the pods."""
    return {key: value for key, value in (metadata.get("annotations") or {}).items() if key.startswith("evctl/")}
