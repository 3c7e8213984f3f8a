"""A service in Standard mode behind a gateway: its player, its canary's pods, and the way to them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from evctl.kube import KubeApi
from tests.cluster.answering import ModelServer
from tests.cluster.canaries import Canaries, playing
from tests.cluster.stage import Stage
from tests.cluster.standard import StandardPlayer


class Standard(Canaries):
    """A service in Standard mode behind a gateway."""

    def shares(self) -> dict[str, int]:
        last: dict[str, int] = self.player.history[-1]
        return last

    def gaps(self) -> list[dict[str, int]]:
        """The moments in which a request met nobody, after the first pod was there."""
        begun = next(n for n, each in enumerate(self.player.history) if "" not in each)
        return [each for each in self.player.history[begun:] if "" in each]


@contextlib.contextmanager
def weighed(stage: Stage, admin: KubeApi, address: str, **options: Any) -> Iterator[Standard]:
    """Play the service with model a live; `options` are the player's."""
    pods = ModelServer(address)
    pods.bundles = stage.server.bundles
    stable, base = f"{stage.target.name}-predictor", f"/api/v1/namespaces/{stage.target.namespace}"

    def changed(name: str, uri: str | None) -> None:
        if name == stable:
            stage.server.active = uri
            return
        pods.active = uri
        if uri is not None:
            _reach(admin, base, name, address, pods.port)

    ways: dict[str, str] = {}
    player = StandardPlayer(
        stage.api(), namespace=stage.target.namespace, service=stage.target.name, ways=ways, url=stage.server.url,
        pod_ip=address, on_change=changed, **options,
    )  # fmt: skip
    with playing(Standard(stage, pods, ways, player, {"min_replicas": 3}), player) as made:
        yield made


def _reach(admin: KubeApi, base: str, service: str, address: str, port: int) -> None:
    """Let the API server's proxy of a service lead to an address, as a Service of ready pods would."""
    pod = next(each["metadata"]["name"] for each in admin.list(f"{base}/pods") if service in each["metadata"]["name"])
    ports = [{"name": "http", "port": 80, "targetPort": port}]
    admin.apply(
        f"{base}/services/{service}",
        {"apiVersion": "v1", "kind": "Service", "metadata": {"name": service}, "spec": {"ports": ports}}, "kserve",
    )  # fmt: skip
    target = {"kind": "Pod", "name": pod, "namespace": base.rpartition("/")[2]}
    subset = {"addresses": [{"ip": address, "targetRef": target}], "ports": [{"name": "http", "port": port}]}
    admin.apply(
        f"{base}/endpoints/{service}",
        {"apiVersion": "v1", "kind": "Endpoints", "metadata": {"name": service}, "subsets": [subset]}, "kserve",
    )  # fmt: skip
