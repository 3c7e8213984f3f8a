"""One real API server for the tests of this folder, and a namespace a test."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from evctl.kube import KubeApi, connect_kubernetes
from tests.cluster.harness import Cluster, Unavailable

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """One worker of xdist runs this folder: a server for each would cost more than it saves."""
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.cluster)
            item.add_marker(pytest.mark.xdist_group("cluster"))


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A started API server with our definitions."""
    try:
        server = Cluster(tmp_path_factory.mktemp("cluster"))
    except Unavailable as reason:
        if os.environ.get("EVCTL_REQUIRE_CLUSTER"):
            raise
        pytest.skip(str(reason))
    server.start()
    try:
        admin = connect_kubernetes(kubeconfig=server.kubeconfig())
        for document in yaml.safe_load_all((HERE / "crds.yaml").read_text()):
            admin.create("/apis/apiextensions.k8s.io/v1/customresourcedefinitions", document)
        yield server
    finally:
        server.stop()


@pytest.fixture
def admin(cluster: Cluster) -> KubeApi:
    """The API as one who may do everything."""
    return connect_kubernetes(kubeconfig=cluster.kubeconfig())


@pytest.fixture
def namespace(admin: KubeApi) -> str:
    """A namespace of the test's own."""
    name = f"t-{uuid.uuid4().hex[:10]}"
    admin.create("/api/v1/namespaces", {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
    return name


Rule = dict[str, list[str]]


@pytest.fixture
def operator(cluster: Cluster, admin: KubeApi, namespace: str) -> Callable[[list[Rule]], Path]:
    """Return `operator(rules)`: a kubeconfig of one who has just these rights in the test's namespace."""

    def make(rules: list[Rule]) -> Path:
        user = f"operator-{uuid.uuid4().hex[:8]}"
        base = f"/apis/rbac.authorization.k8s.io/v1/namespaces/{namespace}"
        kind = {"apiVersion": "rbac.authorization.k8s.io/v1", "metadata": {"name": user}}
        admin.create(f"{base}/roles", {**kind, "kind": "Role", "rules": rules})
        bound = {
            "kind": "RoleBinding",
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": user},
            "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": user}],
        }
        admin.create(f"{base}/rolebindings", {**kind, **bound})
        return cluster.kubeconfig(user, namespace=namespace)

    return make
