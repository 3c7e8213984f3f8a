"""The artifact store's credentials from the cluster's secret: read through a real API server, with and without the right."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from evctl.backends.base import Artifact
from evctl.backends.kubeflow import objects
from evctl.errors import NotAllowedError
from evctl.kube import KubeApi
from evctl.kube_login import connect_kubernetes
from tests.kubeflow.objectstore import Door, reach
from tests.kubeflow.test_objects import s3

__all__ = ["s3"]
SECRET = "mlpipeline-minio-artifact"
INFO = {
    "Provider": "minio",
    "Params": {"endpoint": "seaweedfs.nowhere:9000", "disableSSL": "true", "secretName": SECRET},
}
RAW = Artifact("ingest", "raw", "system.Dataset", "minio://mlpipeline/run/raw", store=json.dumps(INFO))


@pytest.fixture
def door(s3: tuple[str, int], admin: KubeApi, namespace: str) -> Iterator[Door]:
    values = {"accesskey": "ONLYTHISKEY", "secretkey": "hidden-in-the-cluster"}
    data = {key: base64.b64encode(value.encode()).decode() for key, value in values.items()}
    admin.create(f"/api/v1/namespaces/{namespace}/secrets", {"metadata": {"name": SECRET}, "data": data})
    server = Door(s3)
    server.keys = {"ONLYTHISKEY"}
    yield server
    server.shutdown()


def connection(door: Door, kubeconfig: Path, namespace: str) -> Any:
    found = reach(forwarded=door.url, kubernetes=connect_kubernetes(kubeconfig=kubeconfig))
    found.profile.namespace = namespace
    return found


def test_whoever_may_read_the_secret_needs_no_keys_of_their_own(
    door: Door, operator: Callable[..., Path], namespace: str, tmp_path: Path
) -> None:
    may = operator([{"apiGroups": [""], "resources": ["secrets"], "verbs": ["get"]}])
    got = objects.fetch(connection(door, may, namespace), RAW, tmp_path / "raw")
    assert got.read_bytes() == b"telemetry"


def test_whoever_may_not_is_told_the_verb_the_secret_and_the_other_way(
    door: Door, operator: Callable[..., Path], namespace: str, tmp_path: Path
) -> None:
    with pytest.raises(NotAllowedError) as caught:
        objects.fetch(connection(door, operator([]), namespace), RAW, tmp_path / "raw")
    assert "cannot get" in caught.value.message
    assert SECRET in caught.value.message
    assert "AWS_ACCESS_KEY_ID" in str(caught.value.hint)
