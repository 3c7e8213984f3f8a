"""Doctor on KServe's and Argo's controllers, over a real API server: found by the webhook, by name, or not to be seen."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from evctl.kube import KubeApi
from tests.cluster.test_doctor import Place, place

__all__ = ["place"]
pytestmark = pytest.mark.cluster
Hooked = Callable[..., None]


def deploy(admin: KubeApi, space: str, name: str, *, replicas: int = 1, ready: int = 0) -> None:
    base = f"/apis/apps/v1/namespaces/{space}/deployments"
    labels = {"control-plane": name}
    template = {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "manager", "image": "x:v0.21.0"}]}}
    spec = {"replicas": replicas, "selector": {"matchLabels": labels}, "template": template}
    admin.create(base, {"metadata": {"name": name}, "spec": spec})
    became(admin, space, name, ready)


def became(admin: KubeApi, space: str, name: str, ready: int) -> None:
    status = {"replicas": max(1, ready), "readyReplicas": ready}
    admin.patch(f"/apis/apps/v1/namespaces/{space}/deployments/{name}/status", {"status": status})


def service(admin: KubeApi, space: str, name: str, selects: str) -> None:
    spec = {"selector": {"control-plane": selects}, "ports": [{"port": 443}]}
    admin.create(f"/api/v1/namespaces/{space}/services", {"metadata": {"name": name}, "spec": spec})


@pytest.fixture
def hooked(admin: KubeApi) -> Iterator[Hooked]:
    """Register a webhook as KServe's, which is asked about no namespace that there is."""
    path, name = "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations", f"hook-{uuid.uuid4().hex[:8]}"

    def register(space: str, service: str, **client: str) -> None:
        rule = {
            "apiGroups": ["serving.kserve.io"], "apiVersions": ["v1beta1"], "operations": ["CREATE", "UPDATE"],
            "resources": ["inferenceservices"],
        }  # fmt: skip
        hook = {
            "name": "inferenceservice.kserve-webhook-server.defaulter", "sideEffects": "None", "rules": [rule],
            "admissionReviewVersions": ["v1"], "failurePolicy": "Ignore",
            "namespaceSelector": {"matchLabels": {"nobody": "has-this"}},
            "clientConfig": client or {"service": {"namespace": space, "name": service, "path": "/x"}},
        }  # fmt: skip
        admin.create(path, {"metadata": {"name": name}, "webhooks": [hook]})

    yield register
    for each in admin.list(path):
        if each["metadata"]["name"] == name:
            admin.delete(f"{path}/{name}")


def test_a_kserve_whose_controller_is_down_fails_although_its_definitions_and_webhook_are_there(
    place: Place, hooked: Hooked
) -> None:
    deploy(place.admin, place.namespace, "another-name")
    deploy(place.admin, place.namespace, "bystander", ready=1)
    service(place.admin, place.namespace, "hooks", "another-name")
    hooked(place.namespace, "hooks")
    found = place.one("kserve controller")
    where = place.namespace
    assert (found.status, found.message) == ("fail", f"the deployment {where}/another-name has no ready replica of 1")
    assert found.fix == f"kubectl -n {where} describe pods -l control-plane=another-name"
    became(place.admin, where, "another-name", 1)
    assert place.one("kserve controller").message == f"{where}/another-name, 1 of 1 ready"


def test_a_webhook_whose_service_or_deployment_is_gone_fails(place: Place, hooked: Hooked) -> None:
    hooked(place.namespace, "hooks")
    gone = place.one("kserve controller")
    assert gone.status == "fail"
    assert gone.message == f"KServe's webhook asks the service {place.namespace}/hooks, which is not there"
    service(place.admin, place.namespace, "hooks", "nobody")
    empty = place.one("kserve controller")
    assert (empty.status, bool(empty.fix)) == ("fail", True)
    assert empty.message == f"no deployment is behind {place.namespace}/hooks, which KServe's webhook asks"


def test_a_controller_outside_the_cluster_has_no_deployment_to_look_for(place: Place, hooked: Hooked) -> None:
    spec = {"ports": [{"port": 443}]}
    place.admin.create(f"/api/v1/namespaces/{place.namespace}/services", {"metadata": {"name": "hooks"}, "spec": spec})
    hooked(place.namespace, "hooks")
    found = place.one("kserve controller")
    assert (found.status, found.message) == ("pass", f"outside the cluster, behind {place.namespace}/hooks")


def test_a_webhook_that_is_given_by_its_address_is_outside_the_cluster_too(place: Place, hooked: Hooked) -> None:
    hooked("", "", url="https://hooks.example.com:9443/mutate")
    found = place.one("kserve controller")
    assert (found.status, found.message) == ("pass", "outside the cluster, at hooks.example.com:9443")


def test_without_a_webhook_the_controller_is_looked_for_by_its_name(place: Place) -> None:
    none = place.one("kserve controller")
    assert none.status == "fail"
    assert none.message == "KServe's definitions are there, but no webhook and no controller"
    deploy(place.admin, place.system, "kserve-controller-manager", replicas=0)
    found = place.one("kserve controller")
    assert found.message == f"the deployment {place.system}/kserve-controller-manager is scaled to 0"
    assert found.fix == f"kubectl -n {place.system} scale deployment kserve-controller-manager --replicas=1"


def test_who_may_not_look_at_the_controllers_is_told_that_they_are_not_checked(
    place: Place, operator: Callable[[list[dict[str, Any]]], Path], monkeypatch: pytest.MonkeyPatch, hooked: Hooked
) -> None:
    hooked(place.namespace, "hooks")
    for name in ("kserve-controller-manager", "workflow-controller"):
        deploy(place.admin, place.system, name)
    monkeypatch.setenv("KUBECONFIG", str(operator([])))
    found = place.asked("kserve controller", "workflow controller")
    assert {each.status for each in found.values()} == {"warn"}
    both = f"kserve and {place.system}"
    assert found["kserve controller"].message == (
        f"not checked: the deployment kserve-controller-manager may not be read in {both}"
    )
    assert found["kserve controller"].fix == f"ask for get on deployments in {both}"
    assert found["workflow controller"].fix == f"ask for get on deployments in {place.system}"


def test_who_may_get_deployments_but_look_at_no_webhook_finds_the_controller_by_its_name(
    place: Place, operator: Callable[[list[dict[str, Any]]], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    deploy(place.admin, place.namespace, "kserve-controller-manager")
    rules = [{"apiGroups": ["apps"], "resources": ["deployments"], "verbs": ["get"]}]
    monkeypatch.setenv("KUBECONFIG", str(operator(rules)))
    found = place.one("kserve controller", kubeflow={"system_namespace": place.namespace})
    assert found.status == "fail"
    assert "has no ready replica" in found.message


def test_an_argo_whose_controller_is_down_fails(place: Place) -> None:
    missing = place.one("workflow controller")
    assert (missing.status, missing.message) == (
        "warn",
        f"not checked: there is no deployment workflow-controller in {place.system}",
    )
    deploy(place.admin, place.system, "workflow-controller")
    found = place.one("workflow controller")
    assert (found.status, found.fix) == (
        "fail",
        f"kubectl -n {place.system} describe pods -l control-plane=workflow-controller",
    )
    became(place.admin, place.system, "workflow-controller", 1)
    assert place.one("workflow controller").status == "pass"
