"""The predictor's pod in a namespace with restricted Pod Security, as KServe makes it of what is written for a release."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from evctl.errors import NotAllowedError
from evctl.kube import KubeApi
from evctl.rollout.serving import kserve_embedded, kserve_spec
from tests.cluster.stage import IMAGE

README = Path(__file__).parents[2] / "README.md"
Object = dict[str, Any]
DOWNLOADS: Object = {"name": "storage-initializer", "image": "kserve/storage-initializer:v0.21.0"}
"""What KServe puts before the predictor, whatever the service says: it has no security context of its own."""


@pytest.fixture
def restricted(admin: KubeApi, namespace: str) -> str:
    label = {"pod-security.kubernetes.io/enforce": "restricted"}
    admin.patch(f"/api/v1/namespaces/{namespace}", {"metadata": {"labels": label}})
    return f"/api/v1/namespaces/{namespace}/pods"


def runtimes() -> dict[str, Object]:
    amounts = {"cpu": "1", "memory": "1Gi"}
    return {
        "image": kserve_spec.own_runtime(IMAGE, **amounts),
        "embedded": kserve_embedded.runtime("python:3.11-slim", {}, **amounts),
    }


def pod(runtime: Object, *before: Object) -> Object:
    text = json.dumps(runtime["spec"]["containers"]).replace("{{.Name}}", "ev")
    spec = {"containers": json.loads(text), "initContainers": list(before)}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "ev-predictor-x"}, "spec": spec}


@pytest.mark.parametrize("kind", ["image", "embedded"])
def test_the_predictors_own_container_is_let_in(kind: str, restricted: str, admin: KubeApi) -> None:
    made = admin.create(restricted, pod(runtimes()[kind]), dry_run=True)
    assert made["spec"]["containers"][0]["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}


def test_what_downloads_the_model_is_let_in_once_the_cluster_says_how_it_runs_as_readme_has_it(
    restricted: str, admin: KubeApi
) -> None:
    runtime = runtimes()["image"]
    with pytest.raises(NotAllowedError) as told:
        admin.create(restricted, pod(runtime, DOWNLOADS), dry_run=True)
    assert 'container "storage-initializer" must set' in told.value.message
    found = re.search(r"kubectl patch clusterstoragecontainer default --type=merge -p \\\n +'(.+)'", README.read_text())
    assert found
    patched = {**DOWNLOADS, **json.loads(found[1])["spec"]["container"]}
    assert admin.create(restricted, pod(runtime, patched), dry_run=True)
