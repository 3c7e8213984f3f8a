"""One real API server for the tests of this folder, a namespace a test, and a service with its models.

`KUBECONFIG_FOR_TESTS` names another cluster: one without KServe's controller, whose side is played here.
"""

from __future__ import annotations

import base64
import os
import socket
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

import pytest
import yaml

from evctl.errors import ConflictError
from evctl.kube import KubeApi
from evctl.kube_login import connect_kubernetes
from evctl.rollout.registry import Published, publish
from evctl.rollout.target import ServiceTarget
from tests.cluster.answering import SERVICE, ModelServer, predictor
from tests.cluster.harness import Cluster, Unavailable
from tests.cluster.stage import CREATE, GOOD, IMAGE, Stage
from tests.cluster.weighed import Standard, weighed
from tests.rollout.bundles import make_bundle

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """One worker of xdist runs this folder: a server for each would cost more than it saves."""
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.cluster)
            item.add_marker(pytest.mark.xdist_group("cluster"))


@dataclass(frozen=True)
class Elsewhere:
    """A cluster that runs already; it is never taken away."""

    path: Path
    folder: Path

    @property
    def url(self) -> str:
        return connect_kubernetes(kubeconfig=self.path).host

    @property
    def port(self) -> int:
        return urlsplit(self.url).port or 443

    def kubeconfig(self, user: str = "admin", groups: tuple[str, ...] = (), namespace: str = "default") -> Path:
        if user != "admin":
            pytest.skip("a user of our own certificates is not known to the cluster of KUBECONFIG_FOR_TESTS")
        document = yaml.safe_load(self.path.read_text())
        for each in document["contexts"]:
            each["context"]["namespace"] = namespace
        path = self.folder / f"{namespace}.kubeconfig"
        path.write_text(yaml.safe_dump(document))
        return path


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster | Elsewhere]:
    """A started API server with our definitions, or the one of KUBECONFIG_FOR_TESTS."""
    if given := os.environ.get("KUBECONFIG_FOR_TESTS"):
        elsewhere = Elsewhere(Path(given), tmp_path_factory.mktemp("elsewhere"))
        _define(connect_kubernetes(kubeconfig=given))
        yield elsewhere
        return
    required = os.environ.get("EVCTL_REQUIRE_CLUSTER") or os.environ.get("CI")
    try:
        server = Cluster(tmp_path_factory.mktemp("cluster"))
    except Unavailable as reason:
        if required:
            raise
        pytest.skip(str(reason))
    server.start()
    try:
        _define(connect_kubernetes(kubeconfig=server.kubeconfig()))
        yield server
    finally:
        server.stop()


def _define(admin: KubeApi) -> None:
    for document in yaml.safe_load_all((HERE / "crds.yaml").read_text()):
        try:
            admin.create("/apis/apiextensions.k8s.io/v1/customresourcedefinitions", document)
        except ConflictError:
            continue


@pytest.fixture
def own_cluster(cluster: Cluster | Elsewhere) -> Cluster:
    """The API server as one that may be taken away."""
    if isinstance(cluster, Elsewhere):
        pytest.skip("KUBECONFIG_FOR_TESTS names a cluster that is not ours to stop")
    return cluster


@pytest.fixture
def admin(cluster: Cluster | Elsewhere) -> KubeApi:
    """The API as one who may do everything."""
    return connect_kubernetes(kubeconfig=cluster.kubeconfig())


@pytest.fixture
def namespace(admin: KubeApi) -> Iterator[str]:
    """A namespace of the test's own."""
    name = f"t-{uuid.uuid4().hex[:10]}"
    admin.create("/api/v1/namespaces", {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
    yield name
    if os.environ.get("KUBECONFIG_FOR_TESTS"):
        admin.delete(f"/api/v1/namespaces/{name}")


Rule = dict[str, list[str]]


@pytest.fixture
def operator(
    cluster: Cluster | Elsewhere, admin: KubeApi, namespace: str, tmp_path: Path
) -> Callable[[list[Rule]], Path]:
    """Return `operator(rules)`: a kubeconfig of one who has just these rights in the test's namespace."""

    def make(rules: list[Rule]) -> Path:
        user = f"operator-{uuid.uuid4().hex[:8]}"
        base = f"/apis/rbac.authorization.k8s.io/v1/namespaces/{namespace}"
        kind = {"apiVersion": "rbac.authorization.k8s.io/v1", "metadata": {"name": user}}
        admin.create(f"{base}/roles", {**kind, "kind": "Role", "rules": rules})
        subject = {"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": user}
        if isinstance(cluster, Elsewhere):
            subject = {"kind": "ServiceAccount", "name": user, "namespace": namespace}
        bound = {
            "kind": "RoleBinding",
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": user},
            "subjects": [subject],
        }
        admin.create(f"{base}/rolebindings", {**kind, **bound})
        if isinstance(cluster, Elsewhere):
            return _account(admin, namespace, user, tmp_path)
        return cluster.kubeconfig(user, namespace=namespace)

    return make


def _account(admin: KubeApi, namespace: str, name: str, folder: Path) -> Path:
    accounts = f"/api/v1/namespaces/{namespace}/serviceaccounts"
    admin.create(accounts, {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name}})
    asked = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"expirationSeconds": 3600}}
    token = admin.create(f"{accounts}/{name}/token", asked)["status"]["token"]
    settings = admin.client.configuration
    authority = base64.b64encode(Path(settings.ssl_ca_cert).read_bytes()).decode()
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "tier",
        "clusters": [{"name": "tier", "cluster": {"server": admin.host, "certificate-authority-data": authority}}],
        "users": [{"name": name, "user": {"token": token}}],
        "contexts": [{"name": "tier", "context": {"cluster": "tier", "user": name, "namespace": namespace}}],
    }
    path = folder / f"{name}.kubeconfig"
    path.write_text(yaml.safe_dump(document))
    return path


@pytest.fixture(scope="session")
def own_address() -> str:
    """This machine's own address: the API server proxies to no loopback one."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # sends nothing: only the route is looked up
        except OSError:
            pytest.skip("this machine has no address but loopback, to which the API server does not proxy")
        address = str(probe.getsockname()[0])
    if address.startswith("127."):
        pytest.skip("this machine has no address but loopback, to which the API server does not proxy")
    return address


@pytest.fixture(scope="session")
def s3_endpoint() -> Iterator[str]:
    """An S3 server with the bucket `models`."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    urlopen(Request(f"http://{host}:{port}/models", method="PUT")).read()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture(scope="session")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders of three real bundles."""
    root = tmp_path_factory.mktemp("bundles")
    for seed, name in enumerate("abc"):
        make_bundle(root / name, f"v{seed}", seed=seed)
    return {name: root / name for name in "abc"}


@pytest.fixture(scope="session")
def real_predictor(
    bundles: dict[str, Path], own_address: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[int]:
    """Return the port, at this machine's own address, of the real predictor over bundle a."""
    with predictor(bundles["a"], own_address, tmp_path_factory.mktemp("predictor")) as port:
        yield port


@pytest.fixture
def stage(
    cluster: Cluster | Elsewhere,
    namespace: str,
    s3_endpoint: str,
    bundles: dict[str, Path],
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Stage]:
    """A service in the test's namespace, three registered models, and a predictor's stand-in."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setattr("evctl.rollout.serving.kserve.POLL_S", 0.1)
    monkeypatch.setattr("evctl.rollout.serving.kserve.SILENT_S", 4.0)
    service = {
        "name": SERVICE,
        "namespace": namespace,
        "backend": "kubeflow",
        "image": IMAGE,
        "mode": "Standard",
        "store": {"uri": f"s3://models/{namespace}", "endpoint": s3_endpoint},
        "proof_timeout_s": 60.0,
    }
    target = ServiceTarget.of(service)
    server = ModelServer()
    models: dict[str, Published] = {name: publish(folder, target.store) for name, folder in bundles.items()}
    server.bundles = {models[name].uri: folder for name, folder in bundles.items()}
    made = Stage(cluster.kubeconfig(), target, models, server)
    yield made
    made.stop()


@pytest.fixture
def serving(stage: Stage) -> Stage:
    """Model a serves, promoted."""
    stage.plays("a", CREATE, "6_rollback_after_corrupt")
    stage.plays("b", GOOD)
    stage.start(speed=8.0)
    stage.promote("a")
    return stage


@pytest.fixture
def standard(
    request: pytest.FixtureRequest, stage: Stage, admin: KubeApi, own_address: str, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Standard]:
    """Model a serves in Standard mode behind a gateway, with three pods; a parameter holds the player's options."""
    monkeypatch.setattr("evctl.rollout.serving.kserve_canary.POLL_S", 0.1)
    with weighed(stage, admin, own_address, **getattr(request, "param", {})) as made:
        yield made
