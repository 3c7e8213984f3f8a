"""A Service with Endpoints: what KServe and the endpoints controller make, for the API server's own proxy to follow."""

from __future__ import annotations

from evctl.kube import KubeApi
from evctl.rollout.target import ServiceTarget


class Routed:
    """The predictor's Service, whose endpoint is an address and port of this machine as soon as a pod is there."""

    def __init__(self, admin: KubeApi, target: ServiceTarget, address: str, port: int) -> None:
        self._admin, self._address, self._port = admin, address, port
        self._base, self._name = f"/api/v1/namespaces/{target.namespace}", f"{target.name}-predictor"
        self._made = False
        labels = {"serving.kserve.io/inferenceservice": target.name}
        spec = {"selector": labels, "ports": [{"name": "http", "port": 80, "targetPort": port}]}
        body = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": self._name}, "spec": spec}
        admin.create(f"{self._base}/services", body)

    def follow(self) -> None:
        """Make the endpoints when there is a pod: the proxy takes no address that is no pod's."""
        pods = self._admin.list(f"{self._base}/pods")
        if self._made or not pods:
            return
        self._made = True
        reference = {"kind": "Pod", "name": pods[0]["metadata"]["name"], "namespace": self._base.rpartition("/")[2]}
        address = {"ip": self._address, "targetRef": reference}
        subset = {"addresses": [address], "ports": [{"name": "http", "port": self._port}]}
        body = {"apiVersion": "v1", "kind": "Endpoints", "metadata": {"name": self._name}, "subsets": [subset]}
        self._admin.create(f"{self._base}/endpoints", body)
