"""The Kubernetes API over bad lines; over a real server: tests/cluster/test_kube.py."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from evctl.errors import ConflictError, NotAllowedError, NotFoundError, RefusedError, TimedOutError, UnavailableError
from evctl.kube import KubeApi
from evctl.kube_errors import NoKubeconfig, WebhookRefusal
from evctl.kube_login import connect_kubernetes
from tests.fakes.faults import GOOD, HALF, NULL, RESET, Answer, FaultServer, refuse


def to(server: FaultServer, folder: Path, *, timeout_s: float = 0.4, deadline_s: float = 3.0) -> KubeApi:
    config = {
        "apiVersion": "v1", "kind": "Config", "current-context": "c",
        "clusters": [{"name": "c", "cluster": {"server": server.url}}],
        "users": [{"name": "u", "user": {"token": "t0ken"}}],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u", "namespace": "n"}}],
    }  # fmt: skip
    (folder / "kubeconfig").write_text(yaml.safe_dump(config))
    api = connect_kubernetes(kubeconfig=folder / "kubeconfig", timeout_s=timeout_s)
    api.deadline_s = deadline_s
    return api


@pytest.mark.parametrize(
    "content",
    [
        "clusters: [", "\tx: y", "hello", "[]", "clusters: null\n", "apiVersion: v1\nkind: Config\n", "", b"\x00\xff\xfe",
        "apiVersion: v1\nclusters: [{name: c}]\ncontexts: [{name: c}]\ncurrent-context: c\nusers: []\n",
    ],
)  # fmt: skip
def test_a_kubeconfig_that_is_damaged_is_told_as_one(content: str | bytes, tmp_path: Path) -> None:
    damaged = tmp_path / "damaged"
    damaged.write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises((UnavailableError, NotAllowedError)) as caught:
        connect_kubernetes(kubeconfig=damaged)
    assert not isinstance(caught.value, NoKubeconfig) and caught.value.hint


@pytest.mark.parametrize("command", ["no-such-login", "false"])
def test_a_login_plugin_that_fails_is_told_and_nobody_goes_on_without_a_name(
    command: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    plugin = {"apiVersion": "client.authentication.k8s.io/v1", "command": command, "interactiveMode": "Never"}
    config = {
        "apiVersion": "v1", "kind": "Config", "current-context": "c",
        "clusters": [{"name": "c", "cluster": {"server": "https://127.0.0.1:1"}}],
        "users": [{"name": "u", "user": {"exec": plugin}}],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
    }  # fmt: skip
    (tmp_path / "kubeconfig").write_text(yaml.safe_dump(config))
    with pytest.raises(NotAllowedError, match="login plugin failed: "):
        connect_kubernetes(kubeconfig=tmp_path / "kubeconfig")
    assert capfd.readouterr().err == ""


def test_where_nobody_has_named_a_cluster_there_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(NoKubeconfig, match="no kubeconfig, and this is no pod"):
        connect_kubernetes()


STUMBLES = {
    "a reset": RESET, "half a body": HALF, "null": NULL, "a list": Answer(body=b"[]"), "no JSON": Answer(body=b"<"),
    "a slow answer": Answer(wait_s=0.8), "503": refuse(503), "429": refuse(429), "no body": Answer(body=b""),
    "503 without a body": Answer(503, b""),
}  # fmt: skip


@pytest.mark.parametrize("name", STUMBLES)
def test_a_read_is_asked_again_after_a_stumble(name: str, tmp_path: Path) -> None:
    with FaultServer(STUMBLES[name], GOOD) as server:
        assert to(server, tmp_path).get("/x") == {"ok": True}
        assert [headers["authorization"] for _, _, headers, _ in server.seen] == ["Bearer t0ken"] * 2


@pytest.mark.parametrize("name", ["a reset", "half a body", "null", "503", "a slow answer"])
def test_a_write_is_never_sent_twice(name: str, tmp_path: Path) -> None:
    with FaultServer(STUMBLES[name], GOOD) as server:
        with pytest.raises(UnavailableError):
            to(server, tmp_path).create("/x", {})
        assert len(server.seen) == 1


def test_a_server_that_never_answers_is_given_up_within_the_deadline_and_one_request(tmp_path: Path) -> None:
    with FaultServer(Answer(wait_s=5)) as server:
        start = time.monotonic()
        with pytest.raises(TimedOutError, match=r"timed out: no answer within 0\.4 s"):
            to(server, tmp_path, deadline_s=1.0).get("/x")
        assert time.monotonic() - start < 2


def test_a_silent_server_is_left_alone_by_whoever_can_do_without_it(tmp_path: Path) -> None:
    with FaultServer(Answer(wait_s=5), GOOD) as server:
        api = to(server, tmp_path)
        api.quiet_s = 1.0
        start = time.monotonic()
        for _ in range(3):
            with pytest.raises(TimedOutError, match="no answer within"):
                api.get("/x")
        with pytest.raises(TimedOutError):
            list(api.pod_log("n", "p"))
        assert time.monotonic() - start < 1.0 and len(server.seen) == 1
        time.sleep(1.5)
        assert api.get("/x") == {"ok": True}


def test_a_way_that_swallows_connections_is_a_timeout_and_a_closed_port_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("evctl.kube.CONNECT_TIMEOUT_S", 0.3)
    with FaultServer() as server, swallowing() as url:
        server.url = url
        with pytest.raises(TimedOutError, match=r"timed out: no connection within 0\.3 s"):
            to(server, tmp_path).get("/x")
    with FaultServer() as gone:
        pass
    with pytest.raises(UnavailableError, match="does not answer") as closed:
        to(gone, tmp_path).get("/x")
    assert not isinstance(closed.value, TimedOutError)


@contextlib.contextmanager
def swallowing() -> Iterator[str]:
    """A port that answers no more connections: its queue is full."""
    with socket.socket() as listener, contextlib.ExitStack() as kept:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        with contextlib.suppress(TimeoutError):
            for _ in range(64):
                kept.enter_context(socket.create_connection(listener.getsockname(), 0.3))
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


@pytest.mark.parametrize(
    ("status", "said", "kind"),
    [
        (401, "Unauthorized", NotAllowedError),
        (403, 'pods is forbidden: User "ann" cannot list resource "pods"', NotAllowedError),
        (403, 'admission webhook "x.kserve" denied the request: minReplicas', WebhookRefusal),
        (404, 'pods "x" not found', NotFoundError),
        (409, "the object has been modified", ConflictError),
        (422, "spec.x: Invalid value", RefusedError),
    ],
)
def test_a_refusal_is_told_as_what_it_is_and_not_repeated(
    status: int, said: str, kind: type[Exception], tmp_path: Path
) -> None:
    with FaultServer(refuse(status, said)) as server:
        with pytest.raises(kind) as caught:
            to(server, tmp_path).get("/x")
        assert len(server.seen) == 1
    assert status == 401 or said in str(caught.value)
    assert "t0ken" not in str(caught.value)
