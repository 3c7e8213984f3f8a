"""What a store's failures are told as: in our words, with the next command, no secret and none of the library's text."""

from __future__ import annotations

import re
import socket
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from evctl.errors import EvctlError, NotAllowedError, UnavailableError, UsageError
from evctl.rollout import store_remote
from evctl.rollout.store import Store
from tests.fakes.saying import Saying

KEY, SECRET = "AKIAFORTESTS", "this-is-the-secret-value"
JARGON = ("Generic", "Debug", "source", "reqwest", "hyper", "retries", "Os {", "obstore", KEY, SECRET)


@pytest.fixture(autouse=True)
def login(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setattr(store_remote, "RETRIES", 1)
    monkeypatch.setattr(store_remote, "RETRY_S", 1.0)


@pytest.fixture
def says() -> Iterator[Any]:
    made: list[Saying] = []

    def start(status: int, code: str = "", message: str = "") -> Saying:
        body = f"<Error><Code>{code}</Code><Message>{message} {KEY}</Message></Error>" if code else ""
        made.append(Saying(status, body.encode()))
        return made[-1]

    yield start
    for each in made:
        each.stop()


def failures(**config: Any) -> list[EvctlError]:
    """Return what reading, listing and writing raise."""
    found = []
    for call in (lambda s: s.read("k"), lambda s: s.keys("p/"), lambda s: s.create("k", b"x")):
        with pytest.raises(EvctlError) as told:
            call(Store({"uri": "s3://models/x", **config}))
        found.append(told.value)
        assert told.value.hint, told.value.message
        assert not [each for each in JARGON if each in told.value.message], told.value.message
    return found


@pytest.mark.parametrize(
    ("status", "code", "kind", "why", "hint"),
    [
        (403, "AccessDenied", NotAllowedError, "these credentials may not do that here", "export other credentials"),
        (403, "InvalidAccessKeyId", NotAllowedError, "does not know this access key", "export the credentials again"),
        (403, "SignatureDoesNotMatch", NotAllowedError, "the secret key is not that", "export the credentials again"),
        (403, "RequestTimeTooSkewed", NotAllowedError, "this machine's clock is wrong", "timedatectl"),
        (403, "", NotAllowedError, r"does not allow it \(403\)", "look at the credentials"),
        (400, "ExpiredToken", NotAllowedError, "the session token has expired", "log in again"),
        (404, "NoSuchBucket", UnavailableError, "the bucket does not exist", "store.uri in the profile"),
        (301, "PermanentRedirect", UnavailableError, "the bucket is in another region", "set store: {region: ITS"),
        (503, "SlowDown", UnavailableError, "SlowDown, status 503", "in a while"),
    ],
)
def test_what_the_store_says_is_told_in_our_words(
    status: int, code: str, kind: type[EvctlError], why: str, hint: str, says: Any
) -> None:
    for told in failures(endpoint=f"http://127.0.0.1:{says(status, code).port}"):
        assert isinstance(told, kind)
        assert re.search(why, told.message), told.message
        assert hint in (told.hint or "")


def test_the_region_that_the_store_expects_is_named(says: Any) -> None:
    server = says(400, "AuthorizationHeaderMalformed", "the region 'us-east-1' is wrong; expecting 'eu-west-1'")
    for told in failures(endpoint=f"http://127.0.0.1:{server.port}"):
        assert told.message.endswith("the bucket is in the region eu-west-1")
        assert told.hint == "set store: {region: eu-west-1} in the profile, or AWS_REGION"


def test_an_endpoint_that_refuses_is_named() -> None:
    for told in failures(endpoint="http://127.0.0.1:9"):
        assert told.message.endswith("nothing listens at http://127.0.0.1:9")


def test_an_endpoint_of_an_unknown_name_is_told() -> None:
    for told in failures(endpoint="http://no.such.host.invalid:9"):
        assert told.message.endswith("the name of http://no.such.host.invalid:9 is not known")


def test_an_endpoint_that_is_silent_is_told_after_its_time() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        for told in failures(endpoint=url, request_timeout_s=0.3):
            assert told.message.endswith(f"{url} did not answer in time")


def test_https_to_a_server_without_tls_is_told(says: Any) -> None:
    url = f"https://127.0.0.1:{says(200).port}"
    for told in failures(endpoint=url):
        assert told.message.endswith(f"{url} does not speak TLS")


def test_a_certificate_that_is_not_trusted_is_told(says: Any, tmp_path: Path) -> None:
    asked = "openssl req -x509 -newkey rsa:2048 -nodes -days 1 -subj /CN=localhost -addext subjectAltName=IP:127.0.0.1"
    files = ["-keyout", str(tmp_path / "key.pem"), "-out", str(tmp_path / "crt.pem")]
    subprocess.run([*asked.split(), *files], check=True, capture_output=True)
    server = says(200).server
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "crt.pem", tmp_path / "key.pem")
    server.socket = context.wrap_socket(server.socket, server_side=True)
    for told in failures(endpoint=f"https://127.0.0.1:{server.server_port}"):
        assert "the certificate of https://127.0.0.1" in told.message
        assert "SSL_CERT_FILE" in (told.hint or "")


def test_a_login_that_cannot_be_had_from_the_machine_is_no_unavailable_store(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_METADATA_ENDPOINT", "http://127.0.0.1:9")
    for told in failures(endpoint="http://127.0.0.1:9"):
        assert isinstance(told, NotAllowedError)
        assert "there is no login for it" in told.message


def test_a_key_with_a_lines_end_in_it_is_told_and_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET + "\n")
    with pytest.raises(NotAllowedError, match="AWS_SECRET_ACCESS_KEY holds a space, a line's end") as told:
        Store({"uri": "s3://models/x", "endpoint": "http://127.0.0.1:9"})
    assert SECRET not in told.value.message


def test_a_file_that_is_no_key_of_googles_is_told_and_not_quoted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "key.json"
    file.write_text(f'{{"private_key": "{SECRET}"}}')
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(file))
    with pytest.raises(NotAllowedError, match="is no key of Google's") as told:
        Store({"uri": "gs://models/x"})
    assert SECRET not in told.value.message


@pytest.mark.parametrize(
    ("config", "why"),
    [
        ({"endpoint": "minio.local:9000"}, "store.endpoint is 'minio.local:9000'"),
        ({"endpoint": "http://127.0.0.1:port"}, "no address of a server"),
        ({"endpoint": "http://a b:9"}, "no address of a server"),
        ({"uri": "s3:///x"}, "names the bucket ''"),
        ({"uri": "s3://b b/x"}, "names the bucket 'b b'"),
        ({"region": "eu west"}, "the store's region is 'eu west'"),
    ],
)
def test_an_address_that_would_end_the_library_in_a_panic_is_a_usage_error(config: dict[str, str], why: str) -> None:
    with pytest.raises(UsageError) as told:
        Store({"uri": "s3://models/x", "endpoint": "http://127.0.0.1:9", **config})
    assert why in told.value.message


@pytest.mark.parametrize(
    ("at", "why"), [("k", "a folder is in its place"), ("k/below", "a file is in a folder's place")]
)
def test_a_folder_store_tells_what_is_in_the_way(at: str, why: str, tmp_path: Path) -> None:
    (tmp_path / "k").mkdir() if at == "k" else (tmp_path / "k").write_text("")
    with pytest.raises(UnavailableError, match=why) as told:
        Store({"uri": str(tmp_path)}).overwrite(at, b"x")
    assert not [each for each in JARGON if each in told.value.message]
