"""How long the ledger waits for an API server, and what of it is not worth waiting for."""

from __future__ import annotations

from typing import Any, cast

import pytest

from evctl.errors import NotAllowedError, UnavailableError
from evctl.kube import KubeApi
from evctl.kube_errors import LoginRefused, explained
from evctl.rollout import cluster
from evctl.rollout.cluster import ConfigMapLedger, steady
from evctl.rollout.ledger import Ledger


class Api:
    """A ConfigMap, and how many requests fail before the next one is answered."""

    def __init__(self) -> None:
        self.document: dict[str, Any] = {"metadata": {"resourceVersion": "1"}, "data": {}}
        self.errors: list[Exception] = []

    def get(self, path: str) -> dict[str, Any]:
        if self.errors:
            raise self.errors.pop(0)
        return self.document

    def patch(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        return self.document


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> Api:
    monkeypatch.setattr(cluster, "PAUSE_S", 0.01)
    return Api()


def test_a_blip_before_anything_was_begun_is_told_and_one_after_it_waited_for(api: Api) -> None:
    store = ConfigMapLedger(cast(KubeApi, api), "ns", "ev")
    api.errors = [UnavailableError("away")]
    with pytest.raises(UnavailableError):
        store.read()
    store.write(Ledger(), "1")
    api.errors = [UnavailableError("away"), LoginRefused("expired")]
    assert store.read() == (Ledger(), "1")


def test_an_expired_login_passes_and_a_missing_right_does_not() -> None:
    expired = explained("GET", "/api", 401, b"{}", "https://c")
    assert isinstance(expired, LoginRefused)
    assert expired.exit_code == NotAllowedError("").exit_code
    answers: list[Exception] = [expired]

    def call() -> str:
        if answers:
            raise answers.pop()
        return "in"

    assert steady(call, 5.0) == "in"
    answers.append(explained("GET", "/api", 403, b"{}", "https://c"))
    with pytest.raises(NotAllowedError):
        steady(call, 5.0)
