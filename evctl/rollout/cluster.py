"""The ledger on a cluster: a ConfigMap written by compare-and-swap. And how long an API server that is away is waited for."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, TypeVar

from evctl.errors import ConflictError, NotFoundError, UnavailableError
from evctl.kube import KubeApi
from evctl.kube_errors import LoginRefused
from evctl.rollout.ledger import Ledger

T = TypeVar("T")
MANAGED = {"app.kubernetes.io/managed-by": "evctl"}
KEY = "releases.json"
MAX_BYTES = 900_000
"""Of a ConfigMap's 1 MiB; the rest is for its metadata."""
OUTAGE_S = 90.0
"""How long a change that was begun waits for an API server that is away."""
AWAY = (UnavailableError, LoginRefused)
"""What passes: a server that is away, and a token that has just expired and is renewed elsewhere."""
PAUSE_S = 0.5


def steady(call: Callable[[], T], seconds: float = OUTAGE_S) -> T:
    """Return what a call returns, asked again while the API server is away. UnavailableError after `seconds`.

    For what was begun: there a login that expired is waited for too (LoginRefused).
    """
    end = time.monotonic() + seconds
    while True:
        try:
            return call()
        except AWAY:
            if time.monotonic() + PAUSE_S > end:
                raise
            time.sleep(PAUSE_S)


class ConfigMapLedger:
    """The ledger in the ConfigMap `<service>-releases`; the token is its resourceVersion."""

    def __init__(self, api: KubeApi, namespace: str, service: str) -> None:
        self._api, self._name = api, f"{service}-releases"
        self._all = f"/api/v1/namespaces/{namespace}/configmaps"
        self._path = f"{self._all}/{self._name}"
        self._begun = False

    def read(self) -> tuple[Ledger, str | None]:
        """Return the ledger and its token; once something was written here, a server that is away is waited for."""
        found = steady(self._get) if self._begun else self._get()
        if found is None:
            return Ledger(), None
        text = (found.get("data") or {}).get(KEY)
        return (Ledger.from_json(text) if text else Ledger()), str(found["metadata"]["resourceVersion"])

    def write(self, ledger: Ledger, token: str | None) -> str:
        """Write if nobody wrote since. ConflictError otherwise, also when the answer was lost and another write won."""
        text = bounded(ledger).to_json()
        self._begun = True
        end = time.monotonic() + OUTAGE_S
        while True:
            try:
                return self._write(text, token)
            except AWAY:
                if time.monotonic() + PAUSE_S > end:
                    raise
                time.sleep(PAUSE_S)
            except ConflictError:
                # ours may have been written although its answer was lost
                found = steady(self._get)
                if found and (found.get("data") or {}).get(KEY) == text:
                    return str(found["metadata"]["resourceVersion"])
                raise

    def _write(self, text: str, token: str | None) -> str:
        body: dict[str, Any] = {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": self._name, "labels": MANAGED},
            "data": {KEY: text},
        }
        try:
            if token is None:
                written = self._api.create(self._all, body)
            else:
                # of the data only our key: what others keep there stays, as the token says that nothing changed
                patch = {"metadata": {"resourceVersion": token}, "data": {KEY: text}}
                written = self._api.patch(self._path, patch)
        except (ConflictError, NotFoundError) as error:
            if isinstance(error, NotFoundError) and token is None:
                raise
            raise ConflictError(
                "the release ledger was changed by somebody else", hint="evctl history, then the same command"
            ) from error
        return str(written["metadata"]["resourceVersion"])

    def _get(self) -> dict[str, Any] | None:
        try:
            return self._api.get(self._path)
        except NotFoundError:
            return None


def bounded(ledger: Ledger, limit: int = MAX_BYTES) -> Ledger:
    """Drop the oldest releases that neither serve nor are begun until the document fits."""
    while len(ledger.to_json().encode()) > limit:
        victim = next((each for each in ledger.releases if each.status not in ("live", "pending")), None)
        if victim is None:
            break
        ledger = Ledger(tuple(each for each in ledger.releases if each is not victim), ledger.revision)
    return ledger
