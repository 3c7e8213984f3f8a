"""A name server that says nothing is told in seconds, by whatever verb has to do with it first."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from evctl import resolving
from evctl.backends.kubeflow.auth import Auth
from evctl.backends.kubeflow.transport import Transport
from evctl.errors import UnavailableError
from evctl.profile import AuthSettings


@pytest.fixture
def silence(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A resolver that answers for nobody until the test is over."""
    over, real = threading.Event(), socket.getaddrinfo

    def ask(host: Any, *rest: Any, **more: Any) -> Any:
        if host == "kfp.silent.test":
            over.wait(20)
        return real(host, *rest, **more)

    monkeypatch.setattr(socket, "getaddrinfo", ask)
    monkeypatch.setattr(resolving, "RESOLVE_S", 0.2)
    yield
    over.set()


@pytest.mark.usefixtures("silence")
def test_a_server_whose_name_gets_no_answer_is_told_at_once_and_not_tried_again() -> None:
    began = time.monotonic()
    with pytest.raises(UnavailableError, match=r"the name kfp\.silent\.test has not been resolved in 0\.2 s"):
        Transport("http://kfp.silent.test:8888", Auth(AuthSettings())).json("GET", "/apis/v2beta1/healthz")
    assert time.monotonic() - began < 2


@pytest.mark.usefixtures("silence")
def test_a_known_name_and_an_unknown_one_are_left_to_whoever_connects() -> None:
    resolving.resolve("http://127.0.0.1:1")
    resolving.resolve("http://no-such-host.invalid:1")
