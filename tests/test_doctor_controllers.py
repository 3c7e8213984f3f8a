"""Which Deployment is a controller, and does it run: what is read from the cluster's objects. Over a server: tests/cluster."""

from __future__ import annotations

from typing import Any

import pytest

from evctl.doctor import controllers


def hook(group: str, resource: str, **client: Any) -> dict[str, Any]:
    rules = [{"apiGroups": [group], "apiVersions": ["v1beta1"], "resources": [resource], "operations": ["CREATE"]}]
    return {"webhooks": [{"name": "a", "clientConfig": client, "rules": rules}]}


def test_who_is_asked_is_told_by_the_webhook_that_is_asked_about_an_inference_service() -> None:
    service = {"namespace": "serve-system", "name": "hooks", "path": "/mutate"}
    other = {"namespace": "knative-serving", "name": "webhook"}
    found = controllers.hook_clients(
        [
            {"metadata": {"name": "empty"}},
            hook("serving.knative.dev", "services", service=other),
            hook("serving.kserve.io", "trainedmodels", service=other),
            hook("serving.kserve.io", "inferenceservices", url="https://elsewhere"),
            hook("serving.kserve.io", "inferenceservices", service=service),
        ]
    )
    assert found == [{"url": "https://elsewhere"}, {"service": service}]
    assert controllers.hook_clients([]) == []


def deployment(name: str = "manager", **given: Any) -> dict[str, Any]:
    labels = {"control-plane": name, "extra": "x"}
    spec = {"selector": {"matchLabels": {"control-plane": name}}, "template": {"metadata": {"labels": labels}}}
    return {
        "metadata": {"name": name, "namespace": "ns"},
        "spec": {**spec, **given.get("spec", {})},
        "status": given.get("status", {}),
    }


def test_a_deployment_is_behind_a_service_that_selects_its_pods() -> None:
    one, other = deployment("one"), deployment("other")
    assert controllers.serving([one, other], {"control-plane": "other"}) == [other]
    assert controllers.serving([one, other], {"control-plane": "other", "more": "y"}) == []
    assert controllers.serving([one, other], {}) == []


FAILURE = [{"type": "ReplicaFailure", "status": "True", "message": "pods is forbidden:\n exceeded quota"}]


@pytest.mark.parametrize(
    ("given", "status", "message", "fix"),
    [
        ({"status": {"readyReplicas": 1}}, "pass", "ns/manager, 1 of 1 ready", None),
        ({"spec": {"replicas": 3}, "status": {"readyReplicas": 1}}, "pass", "ns/manager, 1 of 3 ready", None),
        (
            {"status": {"replicas": 1, "unavailableReplicas": 1}},
            "fail",
            "the deployment ns/manager has no ready replica of 1",
            "kubectl -n ns describe pods -l control-plane=manager",
        ),
        (
            {"spec": {"replicas": 0}},
            "fail",
            "the deployment ns/manager is scaled to 0",
            "kubectl -n ns scale deployment manager --replicas=1",
        ),
        (
            {"status": {"conditions": FAILURE}},
            "fail",
            "the deployment ns/manager has no ready replica of 1: pods is forbidden: exceeded quota",
            "kubectl -n ns describe pods -l control-plane=manager",
        ),
    ],
)
def test_a_controller_runs_where_a_replica_is_ready(
    given: dict[str, Any], status: str, message: str, fix: str | None
) -> None:
    found = controllers.state(deployment(**given))
    assert (found.status, found.message, found.fix) == (status, message, fix)
