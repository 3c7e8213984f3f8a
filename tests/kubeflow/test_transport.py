"""The one policy of requests, over real sockets: what is tried again, what never is, and what is told."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest

from evctl.backends.kubeflow.auth import Auth
from evctl.backends.kubeflow.transport import Transport
from evctl.errors import (
    ConflictError,
    EvctlError,
    NotAllowedError,
    NotFoundError,
    TimedOutError,
    UnavailableError,
    UsageError,
)
from evctl.profile import AuthSettings, Profile
from tests.fakes.faults import GOOD, HALF, LOGIN_PAGE, NULL, RESET, TO_LOGIN, Answer, FaultServer, refuse

pytestmark = pytest.mark.kubeflow


def to(server: FaultServer, *, timeout_s: float = 0.4, deadline_s: float = 5.0, **auth: Any) -> Transport:
    return Transport(server.url, Auth(AuthSettings(**auth)), timeout_s=timeout_s, deadline_s=deadline_s)


EMPTY = Answer(body=b"")
STUMBLES = {
    "a reset": (RESET,),
    "half a body": (HALF,),
    "null": (NULL,),
    "no JSON": (Answer(body=b"{"),),
    "no body": (EMPTY,),
    "no content": (Answer(204, b""),),
    "a list": (Answer(body=b"[]"),),
    "a text": (Answer(body=b'"hi"'),),
    "503 without a body": (Answer(503, b""),),
    "429 without a body": (Answer(429, b""),),
    "a slow answer": (Answer(wait_s=1.0),),
    "503 twice": (refuse(503), refuse(503)),
    "500": (refuse(500, "boom"),),
    "429": (refuse(429, "slow down", Retry_After="0"),),
}


@pytest.mark.parametrize("name", STUMBLES)
def test_a_read_is_asked_again_after_a_stumble(name: str) -> None:
    with FaultServer(*STUMBLES[name], GOOD) as server:
        assert to(server).json("GET", "/x") == {"ok": True}
        assert len(server.seen) == len(STUMBLES[name]) + 1


@pytest.mark.parametrize("fault", [RESET, HALF, EMPTY, Answer(503, b""), Answer(wait_s=1.0), refuse(503), refuse(502)])
def test_a_submission_is_never_sent_twice(fault: Answer) -> None:
    with FaultServer(fault, GOOD) as server:
        with pytest.raises(UnavailableError):
            to(server).json("POST", "/runs", body={"a": 1})
        assert [method for method, *_ in server.seen] == ["POST"]


def test_a_submission_that_was_turned_away_is_sent_again() -> None:
    with FaultServer(refuse(429, Retry_After="0"), GOOD) as server:
        assert to(server).json("POST", "/runs", body={"a": 1}) == {"ok": True}
        assert [body for *_, body in server.seen] == [b'{"a": 1}'] * 2


def test_the_server_says_how_long_to_wait() -> None:
    with FaultServer(refuse(503, Retry_After="1"), GOOD) as server:
        to(server).json("GET", "/x")
        assert server.times[1] - server.times[0] >= 1


def test_a_server_that_asks_for_no_wait_is_not_stormed() -> None:
    for asked in ("0", "-1", "nan", formatdate(usegmt=True)):
        with FaultServer(refuse(503, Retry_After=asked)) as server:
            with pytest.raises(UnavailableError):
                to(server, deadline_s=1.0).json("GET", "/x")
            assert 2 <= len(server.seen) < 8


def test_a_date_to_come_back_at_is_by_the_servers_clock() -> None:
    ahead = time.time() + 3600
    told = {"Retry-After": formatdate(ahead + 1, usegmt=True), "Date": formatdate(ahead, usegmt=True)}
    with FaultServer(Answer(503, b"", told), GOOD) as server:
        to(server).json("GET", "/x")
        assert 0.9 <= server.times[1] - server.times[0] < 2


@pytest.mark.parametrize("status", [400, 403, 404, 409])
def test_a_refusal_without_a_word_is_told_by_its_number(status: int) -> None:
    with FaultServer(Answer(status, b"")) as server, pytest.raises(EvctlError, match=f"/x: HTTP {status}"):
        to(server).json("GET", "/x")


@pytest.mark.parametrize("headers", [{}, {"Connection": "close"}])
def test_a_stream_must_begin_in_time_and_may_be_silent_once_it_has(headers: dict[str, str]) -> None:
    with FaultServer(Answer(wait_s=3.0)) as server:
        start = time.monotonic()
        with pytest.raises(TimedOutError):
            list(to(server, timeout_s=10.0).stream("/log", deadline_s=0.5))
        assert time.monotonic() - start < 2
    with FaultServer(Answer(body=b"first\nlast\n", pause_s=1.0, cut=6, headers=headers)) as server:
        assert b"".join(to(server).stream("/log")) == b"first\nlast\n"


def test_a_storm_ends_with_the_deadline() -> None:
    with FaultServer(refuse(503, "upstream")) as server:
        start = time.monotonic()
        with pytest.raises(UnavailableError, match="upstream"):
            to(server, deadline_s=1.0).json("GET", "/x")
        assert time.monotonic() - start < 2
        assert len(server.seen) < 12


def test_a_dead_endpoint_is_told_within_five_seconds() -> None:
    with FaultServer() as gone:
        pass
    start = time.monotonic()
    with pytest.raises(UnavailableError, match="does not answer") as caught:
        to(gone, deadline_s=60).json("GET", "/x")
    assert time.monotonic() - start < 5
    assert "kubeflow.host" in str(caught.value.hint)


@pytest.mark.parametrize("refusal", [refuse(401), TO_LOGIN, LOGIN_PAGE], ids=["401", "redirect", "page"])
def test_a_login_that_ran_out_is_renewed_once(refusal: Answer, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("old\n")

    def renewing() -> Transport:
        transport = to(server, kind="token", token_file=str(token))
        transport.auth.headers()
        token.write_text("new\n")
        return transport

    with FaultServer(refusal, GOOD) as server:
        assert renewing().json("GET", "/x") == {"ok": True}
        assert [headers["authorization"] for _, _, headers, _ in server.seen] == ["Bearer old", "Bearer new"]
    with FaultServer(refusal) as server:
        with pytest.raises(NotAllowedError, match="does not accept the login") as caught:
            renewing().json("GET", "/x")
        assert len(server.seen) == 2
        assert "token" in str(caught.value.hint)


def test_a_submission_refused_for_its_login_is_sent_again_with_a_new_one(tmp_path: Path) -> None:
    command = ("sh", "-c", f"date +%s%N | tee -a {tmp_path}/asked")
    with FaultServer(refuse(401), GOOD) as server:
        to(server, kind="token", token_command=command).json("POST", "/runs", body={})
        first, second = (headers["authorization"] for _, _, headers, _ in server.seen)
        assert first != second


LOGINS: dict[str, tuple[dict[str, Any], str]] = {
    "an unset variable": ({"kind": "token", "token_env": "NO_SUCH_TOKEN"}, "NO_SUCH_TOKEN is not set"),
    "a missing file": ({"kind": "cookie", "token_file": "/no/such/file"}, "no login file"),
    "a failing command": ({"kind": "token", "token_command": ("sh", "-c", "echo geheim; exit 3")}, "exit 3"),
    "a missing command": ({"kind": "token", "token_command": ("no-such-command",)}, "not installed"),
    "an empty login": ({"kind": "token", "token_command": ("true",)}, "empty"),
    "nothing named": ({"kind": "token"}, "says nowhere"),
    "no projected token": ({"kind": "in_cluster"}, "no login file"),
}


@pytest.mark.parametrize("name", LOGINS)
def test_a_login_that_cannot_be_had_says_why_and_shows_nothing(name: str) -> None:
    settings, said = LOGINS[name]
    with FaultServer() as server:
        with pytest.raises(NotAllowedError, match=said) as caught:
            to(server, **settings).json("GET", "/x")
        assert "geheim" not in f"{caught.value.message} {caught.value.hint}"
        assert server.seen == []


def test_a_login_that_cannot_be_had_is_told_at_once() -> None:
    with FaultServer() as server:
        start = time.monotonic()
        with pytest.raises(NotAllowedError):
            to(server, kind="token", token_env="NO_SUCH_TOKEN", deadline_s=30).json("GET", "/x")
        assert time.monotonic() - start < 1


def test_a_sign_in_page_is_a_login_and_another_403_is_not() -> None:
    page = Answer(403, b"<html>Sign in</html>", {"Content-Type": "text/html"})
    with FaultServer(page) as server, pytest.raises(NotAllowedError, match="does not accept the login"):
        to(server).json("GET", "/x")
    mesh = Answer(403, b"RBAC: access denied", {"Content-Type": "text/plain"})
    with FaultServer(mesh) as server, pytest.raises(NotAllowedError, match="HTTP 403"):
        to(server).json("GET", "/x")


def test_a_server_that_has_moved_is_told_with_its_address() -> None:
    moved = Answer(301, b"", {"Location": "https://kubeflow.example/x"})
    with FaultServer(moved) as server, pytest.raises(UsageError, match=r"to https://kubeflow\.example") as caught:
        to(server).json("GET", "/x")
    assert "kubeflow.host" in str(caught.value.hint)


def test_a_name_without_an_address_is_told_at_once() -> None:
    start = time.monotonic()
    with pytest.raises(UnavailableError, match=r"no-such-host\.invalid has no address"):
        Transport("http://no-such-host.invalid", Auth(AuthSettings())).json("GET", "/x")
    assert time.monotonic() - start < 5


def test_a_body_that_trickles_ends_with_the_deadline() -> None:
    listener = socket.create_server(("127.0.0.1", 0))

    def trickle() -> None:
        while True:
            try:
                peer, _ = listener.accept()
            except OSError:
                return
            with peer, contextlib.suppress(OSError):
                peer.recv(1000)
                peer.sendall(b"HTTP/1.1 200 x\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n")
                for _ in range(1000):
                    peer.sendall(b"1")
                    time.sleep(0.02)

    threading.Thread(target=trickle, daemon=True).start()
    start = time.monotonic()
    with pytest.raises(UnavailableError, match="broke off"):
        Transport(
            f"http://127.0.0.1:{listener.getsockname()[1]}", Auth(AuthSettings()), timeout_s=0.5, deadline_s=1.0
        ).json("GET", "/x")
    assert time.monotonic() - start < 2
    listener.close()


def test_a_server_that_says_nothing_is_told_as_a_timeout_with_the_time() -> None:
    with FaultServer(Answer(wait_s=5)) as server:
        patient = Transport(server.url, Auth(AuthSettings()), timeout_s=0.3, deadline_s=0.4)
        with pytest.raises(TimedOutError, match=r"timed out: no answer within 0\.3 s"):
            patient.json("GET", "/x")


def test_a_cookie_travels_as_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SESSION", "authservice_session=abc")
    with FaultServer() as server:
        to(server, kind="cookie", token_env="SESSION").json("GET", "/x")
        assert server.seen[0][2]["cookie"] == "authservice_session=abc"


@pytest.mark.parametrize(
    ("status", "kind"), [(400, UsageError), (403, NotAllowedError), (404, NotFoundError), (409, ConflictError)]
)
def test_a_refusal_keeps_the_servers_words_and_is_not_repeated(status: int, kind: type[Exception]) -> None:
    with FaultServer(refuse(status, "because of this")) as server:
        with pytest.raises(kind, match="because of this"):
            to(server).json("GET", "/x")
        assert len(server.seen) == 1


def test_a_stack_trace_is_not_shown() -> None:
    body = b'{"error_message": "Failed to create", "error_details": "at server.go:187"}'
    with FaultServer(Answer(409, body)) as server, pytest.raises(ConflictError) as caught:
        to(server).json("POST", "/x", body={})
    assert caught.value.message == "Failed to create"


def test_an_hours_skew_is_noticed_and_harms_nothing() -> None:
    late = Answer(headers={"Date": formatdate(time.time() + 3600, usegmt=True)})
    with FaultServer(late) as server:
        transport = to(server)
        assert transport.json("GET", "/x") == {"ok": True}
        assert transport.skew_s == pytest.approx(3600, abs=5)


def test_a_stream_that_is_cut_off_is_told_after_what_came() -> None:
    with FaultServer(Answer(body=b"x" * 1000, cut=500)) as server:
        came: list[bytes] = []
        with pytest.raises(UnavailableError, match="broke off"):
            for chunk in to(server).stream("/log"):
                came.append(chunk)
        assert b"".join(came) == b"x" * 500


def test_kfps_own_client_follows_the_policy_and_says_nothing(
    capfd: pytest.CaptureFixture[str],
) -> None:
    from evctl.backends.kubeflow.connect import connect

    def kubeflow_profile(**kubeflow: Any) -> Profile:
        return Profile.model_validate({"backend": "kubeflow", "store": {"uri": "s3://a/b"}, "kubeflow": kubeflow})

    experiments = Answer(body=b'{"experiments": [], "total_size": 0}')
    with FaultServer(refuse(503), RESET, experiments) as server:
        client = connect(kubeflow_profile(host=server.url)).kfp_client()
        assert client.list_experiments().total_size == 0
        assert [path.partition("?")[0] for _, path, *_ in server.seen] == ["/apis/v2beta1/experiments"] * 3
    with FaultServer(LOGIN_PAGE) as server:
        client = connect(kubeflow_profile(host=server.url)).kfp_client()
        with pytest.raises(NotAllowedError, match="does not accept the login"):
            client.list_experiments()
    with FaultServer(refuse(404, "Experiment not found")) as server:
        client = connect(kubeflow_profile(host=server.url)).kfp_client()
        with pytest.raises(NotFoundError, match="Experiment not found"):
            client.get_experiment(experiment_id="x")
    assert capfd.readouterr() == ("", "")


def test_a_body_that_a_proxy_packed_is_unpacked() -> None:
    import gzip

    packed = Answer(body=gzip.compress(b'{"ok": true}'), headers={"Content-Encoding": "gzip"})
    with FaultServer(packed) as server:
        assert to(server).json("GET", "/x") == {"ok": True}


def test_a_login_page_is_no_log() -> None:
    with FaultServer(LOGIN_PAGE) as server, pytest.raises(NotAllowedError):
        list(to(server).stream("/apis/v1alpha1/runs/r/nodes/p/log"))


def test_a_prefix_before_the_api_stays_in_front() -> None:
    with FaultServer(GOOD) as server:
        host = Transport(f"{server.url}/pipeline/", Auth(AuthSettings()))
        host.json("GET", "/apis/v2beta1/healthz")
        assert [path for _, path, *_ in server.seen] == ["/pipeline/apis/v2beta1/healthz"]
