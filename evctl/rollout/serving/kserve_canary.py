"""A canary in Standard mode on the cluster: begun without a request, given its share, made the stable release, ended."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from evctl.errors import ConflictError, NotAllowedError, NotFoundError, RefusedError
from evctl.kube import KubeApi
from evctl.rollout.cluster import steady
from evctl.rollout.ledger import Release
from evctl.rollout.serving import kserve_spec as spec
from evctl.rollout.serving import kserve_split as split
from evctl.rollout.serving.base import ProofError
from evctl.rollout.serving.kserve_objects import ServiceObjects
from evctl.rollout.target import ServiceTarget

ROUTE_S = 30.0
"""How long KServe and the gateway have for a changed share: both act within a second or two."""
BLIND_S = 5.0
POLL_S = 0.5
Object = Mapping[str, Any]
NEEDS = "KServe 0.21 or newer, the Gateway API and a gateway (ingress.enableGatewayApi in KServe's settings)"


class StandardCanary:
    """The canary of a service. `prove` waits until a release's pods answer as they must, or raises."""

    def __init__(
        self, api: KubeApi, target: ServiceTarget, objects: ServiceObjects, prove: Callable[[Release], None]
    ) -> None:
        self._api, self._target, self._objects, self._prove = api, target, objects, prove

    def preflight(self, found: Object, live: Release | None, release: Release, percent: int) -> None:
        """Ask for all that a split needs. RefusedError naming it, ConflictError when something else serves."""
        revision = spec.annotations_of(found).get(spec.REVISION)
        if live is None or revision != str(live.revision):
            raise ConflictError(
                f"InferenceService {self._target.name} has revision {revision}, the ledger says "
                f"{live.revision if live else 'that none is live'}: a canary needs a release beside it",
                hint="evctl promote, without --canary",
            )
        if not self._routes():
            raise RefusedError(
                f"a canary in Standard mode needs {NEEDS}: there is no HTTPRoute {self._target.name}",
                hint="evctl promote, without --canary; or install them, or Knative",
            )
        pods = split.replicas_of(live, percent)
        kept = split.allowed(found, split.kept(found), pods)
        body = split.split_body(self._target, live, release, percent=0, replicas=pods, kept=kept)
        if not split.canaries(self._objects.dry_run(body)):
            raise RefusedError(
                f"a canary in Standard mode needs {NEEDS}: the KServe here drops spec.canary, so it is older than 0.20",
                hint="evctl promote, without --canary; or upgrade KServe",
            )

    def begin(self, live: Release, release: Release, percent: int, base: Object | None) -> None:
        """Write the canary without a request; its pods are as many as its share will need, and come on top of the others."""
        self._write(live, release, 0, split.replicas_of(live, percent), split.kept(base), base)

    def give(self, live: Release, release: Release, percent: int) -> None:
        """Give a proved canary its share. ProofError when no route comes to it.

        Pods come before the requests that they are for, and go after them.
        """
        found, entry = self._beside(live, release)
        share, has, had = int(entry.get("trafficPercent") or 0), spec.least(entry["predictor"]), split.kept(found)
        replicas = split.replicas_of(live, percent)
        kept = split.kept_beside(live, replicas)
        if replicas > has:
            self._write(live, release, share, replicas, had, found)
            self._prove(release)
            found, _ = self._beside(live, release)
        most, more = max(replicas, has), max(kept, had)
        if (share, had) != (percent, more):
            self._write(live, release, percent, most, more, found)
        self._routed(release, percent)
        if (most, more) != (replicas, kept):
            self._write(live, release, percent, replicas, kept, self._beside(live, release)[0])
            if most > replicas:
                self._prove(release)

    def finish(self, release: Release) -> None:
        """Make the canary's release the stable one, proved, while the canary serves on; then end the canary."""
        found, entry = self._entry(release)
        if spec.annotations_of(found).get(spec.REVISION) != str(release.revision):
            percent, replicas = int(entry.get("trafficPercent") or 0), spec.least(entry["predictor"])
            self._write(release, release, percent, replicas, _whole(release, found), found)
        self._prove(release)
        self.end(release, release)

    def end(self, stable: Release, release: Release) -> None:
        """Take the requests from a canary, and only then its pods: KServe deletes them before it changes the route."""
        found = steady(self._objects.read)
        if spec.annotations_of(found).get(spec.REVISION) not in (str(stable.revision), str(release.revision)):
            raise ConflictError(
                f"InferenceService {self._target.name} was changed by {spec.last_other(found or {})} meanwhile",
                hint="evctl serving; evctl history",
            )
        if (entry := split.entry_of(found, split.canary_name(release))) is not None:
            self._write(stable, release, 0, spec.least(entry["predictor"]), _whole(stable, found), found)
            self._unrouted(release)
        self._objects.write(spec.service_body(self._target, stable), steady(self._objects.read))

    def _unrouted(self, release: Release) -> None:
        try:
            if self._routes():
                self._routed(release, 0)
        except NotAllowedError:
            time.sleep(BLIND_S)  # who may not see the route gives it the time that it takes

    def _write(
        self, stable: Release, release: Release, percent: int, replicas: int, kept: int, base: Object | None
    ) -> None:
        kept = split.allowed(base, kept, replicas)
        body = split.split_body(self._target, stable, release, percent=percent, replicas=replicas, kept=kept)
        self._objects.write(body, base)

    def _beside(self, live: Release, release: Release) -> tuple[dict[str, Any], dict[str, Any]]:
        found, entry = self._entry(release)
        if spec.annotations_of(found).get(spec.REVISION) != str(live.revision):
            raise RefusedError(
                f"{release.model} is being given all requests, and no share of them",
                hint=f"evctl promote {release.model} finishes that, evctl rollback takes it back",
            )
        return found, entry

    def _entry(self, release: Release) -> tuple[dict[str, Any], dict[str, Any]]:
        found = steady(self._objects.read)
        entry = split.entry_of(found, split.canary_name(release))
        if found is None or entry is None:
            raise ConflictError(
                f"the canary of {release.model} was taken away by {spec.last_other(found) if found else 'somebody'}",
                hint="evctl rollback, then evctl promote",
            )
        return found, entry

    def _routed(self, release: Release, percent: int) -> None:
        end, name = time.monotonic() + ROUTE_S, split.canary_name(release)
        while True:
            problem = split.route_problem(steady(self._routes), self._target.name, name, percent)
            if problem is None:
                return
            if time.monotonic() > end:
                raise ProofError(f"{problem}, after {ROUTE_S:.0f} s; a split needs {NEEDS}")
            time.sleep(POLL_S)

    def _routes(self) -> list[dict[str, Any]]:
        base = f"/apis/gateway.networking.k8s.io/v1/namespaces/{self._target.namespace}/httproutes"
        found = []
        for name in (self._target.name, split.backend(self._target.name)):
            try:
                found.append(self._api.get(f"{base}/{name}"))
            except NotFoundError:
                continue
        return found


def _whole(stable: Release, found: Object | None) -> int:
    """Return the pods for a stable release that is to get all requests: never fewer than there are."""
    return max(spec.least(stable.spec["predictor"]), split.kept(found))
