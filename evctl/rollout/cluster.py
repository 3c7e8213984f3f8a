"""Ledger and lease on a cluster: a ConfigMap written by compare-and-swap, a Lease with a holder and an expiry.

Time is the API server's: two promoters whose clocks differ agree on when a lease ends.
"""

from __future__ import annotations

import os
import socket
import time
import uuid
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar

from evctl.errors import ConflictError, EvctlError, NotFoundError, UnavailableError
from evctl.kube import KubeApi
from evctl.rollout.ledger import Ledger

T = TypeVar("T")
MANAGED = {"app.kubernetes.io/managed-by": "evctl"}
KEY = "releases.json"
MAX_BYTES = 900_000
"""Of a ConfigMap's 1 MiB; the rest is for its metadata."""
LEASE_S = 60
OUTAGE_S = 90.0
"""How long a change that was begun waits for an API server that is away."""
PAUSE_S = 0.5


def steady(call: Callable[[], T], seconds: float = OUTAGE_S) -> T:
    """Return what a call returns, asked again while the API server is away. UnavailableError after `seconds`."""
    end = time.monotonic() + seconds
    while True:
        try:
            return call()
        except UnavailableError:
            if time.monotonic() + PAUSE_S > end:
                raise
            time.sleep(PAUSE_S)


class ConfigMapLedger:
    """The ledger in the ConfigMap `<service>-releases`; the token is its resourceVersion."""

    def __init__(self, api: KubeApi, namespace: str, service: str) -> None:
        self._api, self._name = api, f"{service}-releases"
        self._all = f"/api/v1/namespaces/{namespace}/configmaps"
        self._path = f"{self._all}/{self._name}"

    def read(self) -> tuple[Ledger, str | None]:
        """Return the ledger and its token."""
        found = self._get()
        if found is None:
            return Ledger(), None
        text = (found.get("data") or {}).get(KEY)
        return (Ledger.from_json(text) if text else Ledger()), str(found["metadata"]["resourceVersion"])

    def write(self, ledger: Ledger, token: str | None) -> str:
        """Write if nobody wrote since. ConflictError otherwise, also when the answer was lost and another write won."""
        text = bounded(ledger).to_json()
        end = time.monotonic() + OUTAGE_S
        while True:
            try:
                return self._write(text, token)
            except UnavailableError:
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


class ClusterLease:
    """The Lease `<service>-promotion`."""

    def __init__(self, api: KubeApi, namespace: str, service: str, *, by: str, seconds: int | None = None) -> None:
        self._api, self._name, self._by = api, f"{service}-promotion", by
        self._seconds = LEASE_S if seconds is None else seconds
        self._all = f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases"
        self._path = f"{self._all}/{self._name}"
        self._identity = f"{by}, process {os.getpid()} on {socket.gethostname()}, {uuid.uuid4().hex[:8]}"

    def acquire(self) -> None:
        """Take it, or take it over from a holder that is late."""
        found = self._get()
        if found is None:
            body = {
                "apiVersion": "coordination.k8s.io/v1",
                "kind": "Lease",
                "metadata": {"name": self._name, "labels": MANAGED},
                "spec": {**self._spec(), "leaseTransitions": 0},
            }
            try:
                self._api.create(self._all, body)
            except ConflictError as error:
                raise self._held(self._get()) from error
            return
        if self._left(found["spec"]) > 0 and found["spec"].get("holderIdentity") not in (None, "", self._identity):
            raise self._held(found)
        try:
            self._put(found, transitions=1)
        except ConflictError as error:
            raise self._held(self._get()) from error

    def renew(self) -> None:
        """Hold it longer. UnavailableError while the server is away."""
        found = self._get()
        if found is None or found["spec"].get("holderIdentity") != self._identity:
            raise ConflictError("the promotion's lease was lost to somebody else", hint="evctl history")
        self._put(found)

    def release(self) -> None:
        """Give it back; a server that stays away lets it expire."""
        try:
            steady(self._release, 10.0)
        except EvctlError:
            return  # it ends by itself, and what was asked for is done

    def _release(self) -> None:
        found = self._get()
        if found and found["spec"].get("holderIdentity") == self._identity:
            spec = {**found["spec"], "holderIdentity": "", "leaseDurationSeconds": 1}
            self._api.replace(self._path, {**found, "spec": spec})

    def _put(self, found: Mapping[str, Any], *, transitions: int = 0) -> None:
        old = found["spec"]
        spec = {**self._spec(), "leaseTransitions": int(old.get("leaseTransitions") or 0) + transitions}
        if not transitions:
            spec["acquireTime"] = old.get("acquireTime")
        self._api.replace(self._path, {**found, "spec": spec})

    def _spec(self) -> dict[str, Any]:
        now = self._now().isoformat(timespec="microseconds").replace("+00:00", "Z")
        return {
            "holderIdentity": self._identity,
            "leaseDurationSeconds": self._seconds,
            "acquireTime": now,
            "renewTime": now,
        }

    def _left(self, spec: Mapping[str, Any]) -> float:
        renewed = spec.get("renewTime")
        if not renewed:
            return 0.0
        end = datetime.fromisoformat(renewed) + timedelta(seconds=int(spec.get("leaseDurationSeconds") or 0))
        return (end - self._now()).total_seconds()

    def _held(self, found: Mapping[str, Any] | None) -> ConflictError:
        spec = found["spec"] if found else {}
        who = str(spec.get("holderIdentity") or "somebody else").rpartition(", ")[0] or "somebody else"
        left = max(1, int(self._left(spec)))
        return ConflictError(f"{who} is promoting; the lease ends in {left} s", hint="wait for it, then evctl history")

    def _now(self) -> datetime:
        told = self._api.raw("GET", "/version").headers.get("date")
        return parsedate_to_datetime(told) if told else datetime.now(UTC)

    def _get(self) -> dict[str, Any] | None:
        try:
            return self._api.get(self._path)
        except NotFoundError:
            return None
