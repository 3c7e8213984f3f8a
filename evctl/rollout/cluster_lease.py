"""The lease on a cluster: a Lease with a holder and an expiry.

Time is the API server's: two promoters whose clocks differ agree on when a lease ends.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any

from evctl.errors import ConflictError, EvctlError, NotFoundError
from evctl.kube import KubeApi
from evctl.rollout.cluster import AWAY, MANAGED, steady
from evctl.rollout.holders import Holder

LEASE_S = 20
"""How long a promoter that died elsewhere keeps the others waiting; `locking` renews it four times as often."""
REQUEST_S = 4.0
"""One request that hangs must not cost the lease."""
LOST_S = 10.0
"""How long it is looked after what became of a write whose answer was lost."""


class ClusterLease:
    """The Lease `<service>-promotion`."""

    def __init__(self, api: KubeApi, namespace: str, service: str, *, by: str, seconds: int | None = None) -> None:
        self._api, self._name = api.hurried(REQUEST_S), f"{service}-promotion"
        self._seconds = LEASE_S if seconds is None else seconds
        self._all = f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases"
        self._path = f"{self._all}/{self._name}"
        self._identity = Holder.own(by).identity

    def acquire(self) -> None:
        """Take it, or take it over from a holder that is late, or is known to be dead."""
        found = self._get()
        if found is not None and self._is_held(found["spec"]):
            raise self._held(found)
        try:
            self._take(found)
        except (ConflictError, *AWAY) as error:
            # ours all the same when only the answer was lost: nobody else would give it back
            now = steady(self._get, LOST_S)
            if now is not None and now["spec"].get("holderIdentity") == self._identity:
                return
            if not isinstance(error, ConflictError):
                raise
            raise self._held(now) from error
        except BaseException:
            self.release()  # interrupted: it may have been written
            raise

    def renew(self) -> None:
        """Hold it longer. UnavailableError while the server is away."""
        found = self._get()
        if found is None or found["spec"].get("holderIdentity") != self._identity:
            raise ConflictError("the promotion's lease was lost to somebody else", hint="evctl history")
        self._put(found)

    def release(self) -> None:
        """Give it back; a server that stays away lets it expire."""
        try:
            steady(self._release, LOST_S)
        except EvctlError:
            return  # it ends by itself, and what was asked for is done

    def _release(self) -> None:
        while (found := self._get()) and found["spec"].get("holderIdentity") == self._identity:
            spec = {**found["spec"], "holderIdentity": "", "leaseDurationSeconds": 1}
            try:
                self._api.replace(self._path, {**found, "spec": spec})
                return
            except ConflictError:
                continue  # written in between, by us or by somebody else: read it again

    def _take(self, found: Mapping[str, Any] | None) -> None:
        if found is not None:
            self._put(found, transitions=1)
            return
        body = {
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": {"name": self._name, "labels": MANAGED},
            "spec": {**self._spec(), "leaseTransitions": 0},
        }
        self._api.create(self._all, body)

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

    def _is_held(self, spec: Mapping[str, Any]) -> bool:
        identity = str(spec.get("holderIdentity") or "")
        if identity in ("", self._identity) or self._left(spec) <= 0:
            return False
        holder = Holder.parse(identity)
        return holder is None or not holder.is_dead

    def _left(self, spec: Mapping[str, Any]) -> float:
        renewed = spec.get("renewTime")
        if not renewed:
            return 0.0
        end = datetime.fromisoformat(renewed) + timedelta(seconds=int(spec.get("leaseDurationSeconds") or 0))
        return (end - self._now()).total_seconds()

    def _held(self, found: Mapping[str, Any] | None) -> ConflictError:
        spec = found["spec"] if found else {}
        identity = str(spec.get("holderIdentity") or "")
        holder = Holder.parse(identity)
        who = (holder.told if holder else identity) or "somebody else"
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
