"""Ports forwarded through the API server's web socket, over real sockets, to a fake of its other end (no kubelet here)."""

from __future__ import annotations

import hashlib
import random
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from evctl.backends.kubeflow.connect import connect
from evctl.backends.kubeflow.portforward import Forward
from evctl.errors import NotAllowedError, UnavailableError
from evctl.kube import KubeApi
from evctl.kube_login import connect_kubernetes
from evctl.profile import KubeflowSettings, Profile, StoreSettings
from tests.fakes.kfp_server import KfpServer
from tests.fakes.mlmd_server import MlmdServer
from tests.fakes.portforward import PortForwards, pod, service


@pytest.fixture
def cluster() -> Iterator[PortForwards]:
    with PortForwards() as fake:
        fake.services["ml-pipeline"] = service(8888, "http", app="ml-pipeline")
        fake.services["metadata-grpc-service"] = service(8080, 8080, component="metadata")
        yield fake


@pytest.fixture
def api(cluster: PortForwards, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> KubeApi:
    config = {
        "apiVersion": "v1", "kind": "Config", "current-context": "c",
        "clusters": [{"name": "c", "cluster": {"server": cluster.url}}],
        "users": [{"name": "u", "user": {"token": "t0ken"}}],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
    }  # fmt: skip
    (tmp_path / "kubeconfig").write_text(yaml.safe_dump(config))
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
    return connect_kubernetes()


@pytest.fixture
def echo() -> Iterator[str]:
    """A server that sends everything back until its peer ends."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve(peer: socket.socket) -> None:
        with peer:
            while chunk := peer.recv(1 << 16):
                peer.sendall(chunk)

    def accept() -> None:
        while True:
            try:
                peer, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=serve, args=(peer,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    yield f"127.0.0.1:{listener.getsockname()[1]}"
    listener.close()


def opened(forward: Forward) -> socket.socket:
    host, _, port = forward.address.partition(":")
    return socket.create_connection((host, int(port)), 5)


def until(condition, seconds: float = 5.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come about"
        time.sleep(0.01)


def test_bytes_go_both_ways_whole_and_in_order(cluster: PortForwards, api: KubeApi, echo: str) -> None:
    cluster.add(pod("one", app="ml-pipeline", ports={"http": 8888}), p8888=echo)
    forward = Forward(api, "kubeflow", "ml-pipeline", 8888)
    sent = random.Random(1).randbytes(3_000_000)
    with opened(forward) as here:
        threading.Thread(target=here.sendall, args=(sent,), daemon=True).start()
        found = b""
        while len(found) < len(sent):
            found += here.recv(1 << 16)
    assert hashlib.sha256(found).digest() == hashlib.sha256(sent).digest()
    until(lambda: not cluster.tunnels)
    forward.close()


def test_the_pods_own_port_is_found_by_its_name(cluster: PortForwards, api: KubeApi, echo: str) -> None:
    cluster.add(pod("one", app="ml-pipeline", ports={"http": 3000}), p3000=echo)
    with opened(Forward(api, "kubeflow", "ml-pipeline", 8888)) as here:
        here.sendall(b"hello")
        assert here.recv(10) == b"hello"
    assert any("one/portforward?ports=3000" in path for path in cluster.requests)


def test_only_a_ready_pod_is_taken(cluster: PortForwards, api: KubeApi, echo: str) -> None:
    cluster.add(pod("starting", ready=False, app="ml-pipeline"))
    leaving = pod("leaving", app="ml-pipeline")
    leaving["metadata"]["deletionTimestamp"] = "2026-11-23T00:00:00Z"
    cluster.add(leaving)
    with pytest.raises(UnavailableError, match=r"no pod of service kubeflow/ml-pipeline is ready \(2 there\)"):
        Forward(api, "kubeflow", "ml-pipeline", 8888)
    cluster.add(pod("ready", app="ml-pipeline"), p8888=echo)
    with opened(Forward(api, "kubeflow", "ml-pipeline", 8888)) as here:
        here.sendall(b"hello")
        assert here.recv(10) == b"hello"


def test_a_pod_that_goes_away_ends_its_connections_and_the_next_goes_to_another(
    cluster: PortForwards, api: KubeApi, echo: str, capfd: pytest.CaptureFixture[str]
) -> None:
    cluster.add(pod("first", app="ml-pipeline"), p8888=echo)
    forward = Forward(api, "kubeflow", "ml-pipeline", 8888)
    with opened(forward) as here:
        here.sendall(b"hello")
        assert here.recv(10) == b"hello"
        cluster.kill("first")
        assert here.recv(10) == b""
    cluster.add(pod("second", app="ml-pipeline"), p8888=echo)
    with opened(forward) as here:
        here.sendall(b"again")
        assert here.recv(10) == b"again"
    assert capfd.readouterr().err == ""


def test_a_port_nobody_listens_on_in_the_pod_is_told_with_the_kubelets_words(
    cluster: PortForwards, api: KubeApi
) -> None:
    cluster.add(pod("one", app="ml-pipeline"))
    forward = Forward(api, "kubeflow", "ml-pipeline", 8888)
    with opened(forward) as here:
        assert here.recv(10) == b""
    until(lambda: forward.reason is not None)
    assert "connection refused" in str(forward.reason)


def test_a_missing_service_port_or_right_is_told_before_anything_is_sent(
    cluster: PortForwards, api: KubeApi, echo: str
) -> None:
    with pytest.raises(UnavailableError, match="no service kubeflow/seaweedfs"):
        Forward(api, "kubeflow", "seaweedfs", 9000)
    with pytest.raises(UnavailableError, match="no port 1"):
        Forward(api, "kubeflow", "ml-pipeline", 1)
    cluster.add(pod("one", app="ml-pipeline"), p8888=echo)
    cluster.no_forward = 403
    forward = Forward(api, "kubeflow", "ml-pipeline", 8888)
    with opened(forward) as here:
        assert here.recv(10) == b""
    until(lambda: isinstance(forward.reason, NotAllowedError))
    assert "pods/portforward" in str(forward.reason.hint)
    cluster.refusal = 403
    with pytest.raises(NotAllowedError):
        Forward(api, "kubeflow", "ml-pipeline", 8888)


def test_a_closed_forward_takes_no_more_connections(cluster: PortForwards, api: KubeApi, echo: str) -> None:
    cluster.add(pod("one", app="ml-pipeline"), p8888=echo)
    forward = Forward(api, "kubeflow", "ml-pipeline", 8888)
    address = forward.address
    forward.close()
    host, _, port = address.partition(":")
    with pytest.raises(OSError):
        socket.create_connection((host, int(port)), 1)


def profile() -> Profile:
    store = StoreSettings(uri="s3://ev/store")
    return Profile(name="dev", backend="kubeflow", store=store, kubeflow=KubeflowSettings(deadline_s=10))


def test_a_profile_without_a_host_reaches_api_metadata_and_store_through_the_cluster(
    cluster: PortForwards, api: KubeApi, echo: str
) -> None:
    with KfpServer() as kfp, MlmdServer(lambda run: None, list) as mlmd:
        cluster.add(pod("api", app="ml-pipeline", ports={"http": 8888}), p8888=kfp.url.removeprefix("http://"))
        cluster.add(pod("mlmd", component="metadata"), p8080=mlmd.host)
        cluster.services["minio-service"] = service(9000, 9000, app="minio")
        cluster.add(pod("minio", app="minio"), p9000=echo)
        connection = connect(profile())
        try:
            assert connection.request("GET", "/apis/v2beta1/healthz")["multi_user"] is False
            assert connection.metadata().read("no such run") is None
            assert connection.object_store_endpoint().startswith("http://127.0.0.1:")
            assert connection.url_of("x") is None
        finally:
            connection.close()


def test_a_pod_replaced_between_two_requests_costs_no_error(cluster: PortForwards, api: KubeApi) -> None:
    with KfpServer() as kfp:
        address = kfp.url.removeprefix("http://")
        cluster.add(pod("first", app="ml-pipeline", ports={"http": 8888}), p8888=address)
        connection = connect(profile())
        connection.request("GET", "/apis/v2beta1/healthz")
        cluster.kill("first")
        cluster.add(pod("second", app="ml-pipeline", ports={"http": 8888}), p8888=address)
        assert connection.request("GET", "/apis/v2beta1/healthz")["multi_user"] is False
        connection.close()


def test_why_a_forwarded_api_cannot_be_reached_is_told_in_place_of_a_broken_connection(
    cluster: PortForwards, api: KubeApi
) -> None:
    cluster.add(pod("one", app="ml-pipeline", ports={"http": 8888}))
    connection = connect(profile().model_copy(update={"kubeflow": KubeflowSettings(deadline_s=1)}))
    with pytest.raises(UnavailableError, match="connection refused"):
        connection.request("GET", "/apis/v2beta1/healthz")
    cluster.no_forward = 403
    start = time.monotonic()
    connection = connect(profile())
    with pytest.raises(NotAllowedError, match="does not let us forward a port"):
        connection.request("GET", "/apis/v2beta1/healthz")
    assert time.monotonic() - start < 2
