"""The ways to a Kubeflow: by URL, from a pod, with each kind of login; lazily, once, and without a word on the streams."""

from __future__ import annotations

import json
import logging
import sys
import threading
import time
from collections.abc import Iterator
from concurrent import futures
from pathlib import Path
from typing import Any

import grpc
import pytest
import yaml

from evctl.backends.kubeflow.connect import connect, quiet
from evctl.errors import NotAllowedError, NotFoundError, UnavailableError
from evctl.profile import Profile
from tests.cluster.harness import Authority
from tests.fakes.faults import Answer, FaultServer
from tests.fakes.mlmd_server import MlmdServer, _Handler

pytestmark = pytest.mark.kubeflow
HEALTHY = Answer(body=b'{"multi_user": false}')


def profile(**kubeflow: Any) -> Profile:
    return Profile.model_validate(
        {"name": "dev", "backend": "kubeflow", "store": {"uri": "s3://a/b"}, "kubeflow": kubeflow}
    )


def kubeconfig(folder: Path, monkeypatch: pytest.MonkeyPatch, user: dict[str, Any], server: str) -> Path:
    path = folder / "kubeconfig"
    config = {
        "apiVersion": "v1", "kind": "Config", "current-context": "c",
        "clusters": [{"name": "c", "cluster": {"server": server}}],
        "users": [{"name": "u", "user": user}],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
    }  # fmt: skip
    path.write_text(yaml.safe_dump(config))
    monkeypatch.setenv("KUBECONFIG", str(path))
    return path


def test_nothing_is_opened_before_it_is_used() -> None:
    with FaultServer(HEALTHY) as server:
        connection = connect(profile(host=server.url, auth={"kind": "token", "token_env": "NOT_SET"}))
        connection.close()
        assert server.seen == []


def test_a_host_without_a_scheme_is_a_plain_one_and_a_path_is_kept() -> None:
    with FaultServer(HEALTHY) as server:
        connect(profile(host=server.url.removeprefix("http://"))).request("GET", "/apis/v2beta1/healthz")
        connect(profile(host=f"{server.url}/pipeline/")).request("GET", "/apis/v2beta1/healthz")
        assert [path for _, path, *_ in server.seen] == ["/apis/v2beta1/healthz", "/pipeline/apis/v2beta1/healthz"]


@pytest.mark.parametrize(
    ("host", "page"),
    [
        ("http://kfp.example", "http://kfp.example/#/runs/details/R"),
        ("https://kubeflow.example/pipeline", "https://kubeflow.example/pipeline/#/runs/details/R"),
        (None, None),
    ],
)
def test_a_run_has_a_page_where_a_browser_can_get_to(host: str | None, page: str | None) -> None:
    assert connect(profile(host=host)).url_of("R") == page


def test_without_a_host_or_a_cluster_it_says_which_settings_are_missing() -> None:
    connection = connect(profile())
    with pytest.raises(UnavailableError, match=r"no way to ml-pipeline of profile dev: .*no kubeconfig") as caught:
        connection.request("GET", "/x")
    assert "kubeflow.host" in str(caught.value.hint)
    assert "KUBECONFIG" in str(caught.value.hint)
    with pytest.raises(UnavailableError, match="metadata-grpc-service"):
        connection.metadata()
    assert connection.kubernetes() is None
    assert connection.object_store_endpoint() is None


def test_from_a_pod_services_are_called_by_their_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.96.0.1")
    connection = connect(profile(system_namespace="kf"))
    assert connection.transport().base == "http://ml-pipeline.kf:8888"
    assert connection.metadata().host == "metadata-grpc-service.kf:8080"


def test_a_kubeconfigs_token_is_the_login(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with FaultServer(HEALTHY) as server:
        kubeconfig(tmp_path, monkeypatch, {"token": "kube-t0ken"}, "http://127.0.0.1:1")
        connect(profile(host=server.url, auth={"kind": "kubeconfig"})).request("GET", "/x")
        assert server.seen[0][2]["authorization"] == "Bearer kube-t0ken"


def test_a_kubeconfigs_login_plugin_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    api = "client.authentication.k8s.io/v1"
    said = json.dumps({"apiVersion": api, "kind": "ExecCredential", "status": {"token": "plugged"}})
    plugin = {"apiVersion": api, "command": "echo", "args": [said], "interactiveMode": "Never"}
    with FaultServer(HEALTHY) as server:
        kubeconfig(tmp_path, monkeypatch, {"exec": plugin}, "http://127.0.0.1:1")
        connect(profile(host=server.url, auth={"kind": "kubeconfig"})).request("GET", "/x")
        assert server.seen[0][2]["authorization"] == "Bearer plugged"


def test_a_kubeconfig_that_logs_in_by_certificate_is_no_login_for_kfp(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kubeconfig(tmp_path, monkeypatch, {}, "http://127.0.0.1:1")
    with pytest.raises(NotAllowedError, match="without a token") as caught:
        connect(profile(host="http://127.0.0.1:1", auth={"kind": "kubeconfig"})).request("GET", "/x")
    assert "auth: {kind: token, token_command: [kubectl, create, token" in str(caught.value.hint)


def test_a_pods_projected_token_is_the_login(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "token").write_text("pod-t0ken\n")
    monkeypatch.setenv("KF_PIPELINES_SA_TOKEN_PATH", str(tmp_path / "token"))
    with FaultServer(HEALTHY) as server:
        connect(profile(host=server.url, auth={"kind": "in_cluster"})).request("GET", "/x")
        assert server.seen[0][2]["authorization"] == "Bearer pod-t0ken"


def test_a_missing_ca_file_is_told_with_its_name(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="there is no CA file /no/such/ca"):
        connect(profile(host="https://127.0.0.1:1", ca_file="/no/such/ca")).request("GET", "/x")
    with pytest.raises(NotFoundError, match="there is no CA file /no/such/ca"):
        connect(profile(metadata_host="grpcs://127.0.0.1:1", ca_file="/no/such/ca")).metadata()


@pytest.fixture
def encrypted(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """ML Metadata behind TLS: (host:port, CA file)."""
    authority = Authority(tmp_path)
    crt, key = authority.issue("server", "server", server=True)
    with MlmdServer(lambda run: None, list) as owner:
        server = grpc.server(futures.ThreadPoolExecutor(2), handlers=[_Handler(owner)])
        credentials = grpc.ssl_server_credentials([(key.read_bytes(), crt.read_bytes())])
        port = server.add_secure_port("127.0.0.1:0", credentials)
        server.start()
        yield f"127.0.0.1:{port}", authority.path
        server.stop(0)


def test_ml_metadata_behind_tls_is_read_with_the_profiles_authority(encrypted: tuple[str, Path]) -> None:
    address, ca = encrypted
    trusted = connect(profile(host="http://127.0.0.1:1", metadata_host=f"grpcs://{address}", ca_file=str(ca)))
    assert trusted.metadata().read("no such run") is None
    trusted.close()


def test_threads_that_come_at_once_share_one_connection() -> None:
    with FaultServer(HEALTHY) as server:
        connection = connect(profile(host=server.url, metadata_host="127.0.0.1:1"))
        found: list[Any] = []
        gate = threading.Barrier(8)

        def ask() -> None:
            gate.wait()
            found.append((connection.transport(), connection.metadata()))

        threads = [threading.Thread(target=ask) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len({(id(transport), id(metadata)) for transport, metadata in found}) == 1


def test_kfps_own_context_and_kubeconfig_of_this_machine_are_not_used(
    stranger: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    home = Path.home()
    (home / ".config" / "kfp").mkdir(parents=True)
    (home / ".config" / "kfp" / "context.json").write_text('{"namespace": "somebody-elses"}')
    with FaultServer(Answer(body=b'{"runs": []}')) as server:
        kubeconfig(home, monkeypatch, {"token": "not-for-kfp"}, "http://127.0.0.1:1")
        client = connect(profile(host=server.url)).kfp_client()
        client.list_runs()
        (_, path, headers, _) = server.seen[0]
        assert "somebody-elses" not in path
        assert "authorization" not in headers
    assert capfd.readouterr() == ("", "")


def test_two_threads_that_are_quiet_at_once_leave_the_streams_and_the_log_as_they_were() -> None:
    """The one that begins last would otherwise put back what the first had set, for good."""
    before = sys.stdout, logging.root.manager.disable
    inside, go = threading.Event(), threading.Event()

    def first() -> None:
        with quiet():
            inside.set()
            go.wait(10)

    def second() -> None:
        inside.wait(10)
        with quiet():
            time.sleep(0.2)

    threads = [threading.Thread(target=each, daemon=True) for each in (first, second)]
    for each in threads:
        each.start()
    inside.wait(10)
    time.sleep(0.1)
    go.set()
    for each in threads:
        each.join(10)
    found = sys.stdout, logging.root.manager.disable
    sys.stdout = before[0]
    logging.disable(before[1])
    assert found == before
