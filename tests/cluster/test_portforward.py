"""The web socket's handshake with a real API server: TLS, the login, and its refusals. Its other end needs a kubelet."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from evctl.backends.kubeflow.portforward import Forward
from evctl.backends.kubeflow.portforward_tunnel import Tunnel
from evctl.errors import NotAllowedError, NotFoundError, UnavailableError
from evctl.kube import KubeApi
from evctl.kube_login import connect_kubernetes

pytestmark = pytest.mark.cluster


def test_a_missing_pod_is_told(admin: KubeApi, namespace: str) -> None:
    with pytest.raises(NotFoundError, match=f"pod {namespace}/nope:8888 is gone"):
        Tunnel(admin, namespace, "nope", 8888)


def test_a_pod_without_a_node_is_no_target(admin: KubeApi, namespace: str) -> None:
    containers = [{"name": "main", "image": "x"}]
    admin.create(
        f"/api/v1/namespaces/{namespace}/pods", {"metadata": {"name": "p"}, "spec": {"containers": containers}}
    )
    with pytest.raises(UnavailableError, match=f"no port can be forwarded to {namespace}/p:8888: HTTP 400"):
        Tunnel(admin, namespace, "p", 8888)


@pytest.mark.parametrize(("verb", "refused"), [("create", True), ("get", False)])
def test_rbac_asks_for_get_as_a_web_socket_begins_with_one(
    verb: str, refused: bool, namespace: str, operator: Callable[[list[dict[str, list[str]]]], Path]
) -> None:
    rules = [{"apiGroups": [""], "resources": ["pods/portforward"], "verbs": [verb]}]
    api = connect_kubernetes(kubeconfig=operator(rules))
    with pytest.raises(NotAllowedError if refused else NotFoundError) as caught:
        Tunnel(api, namespace, "nope", 8888)
    assert not refused or "pods/portforward" in str(caught.value.hint)


def test_a_service_without_ready_pods_is_told_with_where_to_look(admin: KubeApi, namespace: str) -> None:
    ports = [{"port": 8888, "targetPort": "http"}]
    body = {"metadata": {"name": "ml-pipeline"}, "spec": {"selector": {"app": "ml-pipeline"}, "ports": ports}}
    admin.create(f"/api/v1/namespaces/{namespace}/services", body)
    start = time.monotonic()
    with pytest.raises(UnavailableError, match=r"ml-pipeline is ready \(0 there\)") as caught:
        Forward(admin, namespace, "ml-pipeline", 8888)
    assert "-l app=ml-pipeline" in str(caught.value.hint)
    assert time.monotonic() - start < 5
