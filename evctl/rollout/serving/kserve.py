"""The service on a cluster: a KServe InferenceService, written as plain dicts and proved by what its pods do."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from evctl.errors import ConflictError, EvctlError, FailedError, NotFoundError, RefusedError, UnavailableError
from evctl.kube import KubeApi
from evctl.kube_login import connect_kubernetes
from evctl.rollout.cluster import AWAY, ConfigMapLedger, steady
from evctl.rollout.cluster_lease import ClusterLease
from evctl.rollout.ledger import Release
from evctl.rollout.serving import kserve_checks as checks
from evctl.rollout.serving import kserve_embedded
from evctl.rollout.serving import kserve_mode as modes
from evctl.rollout.serving import kserve_reading as reading
from evctl.rollout.serving import kserve_spec as spec
from evctl.rollout.serving import kserve_split as split
from evctl.rollout.serving import kserve_ways as ways
from evctl.rollout.serving.base import ProofError, Serving
from evctl.rollout.serving.kserve_canary import StandardCanary
from evctl.rollout.serving.kserve_golden import Golden, Patience
from evctl.rollout.serving.kserve_objects import ServiceObjects
from evctl.rollout.serving.kserve_proof import Observed, Verdict, Wanted, judge
from evctl.rollout.target import ServiceTarget

POLL_S = 0.5
SETTLE_S = 2.0
"""How long after the rollout a golden request may still be answered by an old pod."""
SILENT_S = 20.0
"""How long after the rollout nobody may answer: endpoints and routes follow the pods within seconds."""
WATCH_S = 4.0
"""A proof asks again and again: an answer that hangs is given up for the next one."""


class ClusterWorld:
    """`ServingWorld` over the Kubernetes API.

    Args:
        api: the cluster; None connects as the profile and the environment say.
    """

    def __init__(self, target: ServiceTarget, api: KubeApi | None = None) -> None:
        self._target = target
        self._api = api or connect_kubernetes(target.settings.get("context"))
        self._objects = ServiceObjects(self._api, target)
        self._canary = StandardCanary(self._api, target, self._objects, self._proved)
        self._watched = ServiceObjects(self._api.hurried(WATCH_S), target)
        self._before: dict[str, Any] | None = None
        self._warnings: tuple[str, ...] = ()

    def ledger(self) -> ConfigMapLedger:
        """Return the ledger."""
        return ConfigMapLedger(self._api, self._target.namespace, self._target.name)

    def lease(self, by: str) -> ClusterLease:
        """Return the lease."""
        return ClusterLease(self._api, self._target.namespace, self._target.name, by=by)

    def read(self) -> Serving:
        """Return what serves now. The digest is that of the release the service was last given."""
        found = self._objects.read()
        if (resting := reading.at_rest(found)) or found is None:
            return resting or Serving("absent")
        wanted = reading.last_given(self._target.name, found, modes.running(found) or self._mode(found))
        return reading.at_work(found, wanted, self._objects.observe(wanted, found, {}, 0.0))

    def ask(self, method: str, path: str, document: Any) -> tuple[int, Any]:
        """Send a request to the service's own address where that can be reached, else through the Kubernetes API."""
        found = self._objects.read()
        if found is None:
            raise UnavailableError(f"InferenceService {self._target.name} does not exist", hint="evctl promote")
        wanted = Wanted(self._target.name, "", "", modes.running(found) or "")
        return ways.ask(
            self._api, self._target, found,
            lambda: self._objects.observe(wanted, found, {}, 0.0), lambda send: send(method, path, document),
        )  # fmt: skip

    def spec(self, manifest: Mapping[str, Any], uri: str) -> Mapping[str, Any]:
        """Return the predictor, its runtime and the provenance of a model. RefusedError when no runtime can serve it."""
        target, mode = self._target, self._mode(self._objects.read())
        runtime: dict[str, Any] | None = None
        if named := target.settings.get("runtime"):
            name, model_format = str(named), checks.runtime_format(self._api, target, str(named))
        else:
            amounts = {key: str(target.settings.get(key, usual)) for key, usual in (("cpu", "1"), ("memory", "2Gi"))}
            stock = target.settings.get("stock_image")
            runtime = (
                kserve_embedded.runtime(str(stock), manifest["versions"], mode=mode, **amounts)
                if stock and not target.settings.get("image")
                else spec.own_runtime(spec.image_of(target), mode=mode, **amounts)
            )
            name, model_format = runtime["metadata"]["name"], spec.OUR_FORMAT
        self._warnings = tuple(checks.stock(manifest.get("versions") or {}, model_format))
        if runtime and "@sha256:" not in runtime["metadata"]["annotations"][spec.PREFIX + "image"]:
            self._warnings += ("the predictor installs its packages at each start: set serving: {image: ...}",)
        return {
            "kind": "kserve",
            "mode": mode,
            "runtime": runtime,
            "annotations": {spec.MODE: mode, **spec.provenance(manifest, uri)},
            "predictor": spec.predictor(target, uri, runtime=name, model_format=model_format, mode=mode),
        }

    def preflight(self, release: Release, *, canary: int | None) -> Sequence[str]:
        """Check rights, owners, credentials, mode, runtime and the model in the store, and ask the server by a dry run."""
        target, mode = self._target, str(release.spec["mode"])
        checks.rights(self._api, target, mode, canary=canary is not None)
        found = self._objects.read()
        self._mode(found)
        modes.check_age(target, found)
        checks.canary(canary, first=found is None)
        checks.replicas(target, mode)
        checks.bundle(target, release)
        warnings = [*self._warnings, *checks.service(target, found), *checks.credentials(self._api, target)]
        if runtime := release.spec.get("runtime"):
            self._objects.check_runtime(runtime)
        else:
            checks.runtime_format(self._api, target, release.spec["predictor"]["model"]["runtime"])
        if canary is not None and mode == "Standard":
            self._canary.preflight(found or {}, self._live(), release, canary)
        else:
            taken = self._objects.dry_run(spec.service_body(target, release, canary=canary))
            checks.undivided(target, taken, canary)
        return warnings

    def may_change(self, *, canary: int | None) -> None:
        """Check rights and owners alone."""
        found = self._objects.read()
        checks.rights(self._api, self._target, self._mode(found), canary=canary is not None)
        checks.service(self._target, found)

    def apply(self, release: Release, *, canary: int | None = None) -> None:
        """Write the release's runtime and service; the pods that serve go on, as many as they are, until it is proved."""
        self._give(release, canary=canary, hold=release.spec["mode"] == "Standard")

    def _give(self, release: Release, *, canary: int | None = None, hold: bool = False) -> None:
        if runtime := release.spec.get("runtime"):
            self._objects.make_runtime(runtime)
        self._before = steady(self._objects.read)
        checks.refuse_going(self._target, self._before)
        live = self._live() if canary is not None and release.spec["mode"] == "Standard" else None
        if canary is not None and live is not None:
            self._canary.begin(live, release, canary, self._before)
        else:
            body = spec.service_body(self._target, release, canary=canary)
            self._objects.write(spec.holding(body, self._before) if hold else body, self._before)

    def prove(self, release: Release, deadline_s: float, *, before: bool = False) -> Iterator[str]:
        """Wait for the rollout, then send the golden rows. ProofError as soon as a pod shows that it cannot be.

        `before`: it was proved already, and is given another share only: by now it may be idle, without a pod to ask.
        """
        begun = time.monotonic()
        stock = release.spec["predictor"]["model"]["modelFormat"]["name"] == spec.STOCK_FORMAT
        golden = steady(lambda: Golden.of(release, self._target.store, identity=not stock))
        patience = Patience()
        unschedulable: dict[str, float] = {}
        last = ""
        while True:
            now = time.monotonic()
            try:
                verdict, seen = self._verdict(release, unschedulable, now - begun)
                told = verdict.told
                if verdict.state == "failed":
                    raise ProofError(self._objects.reason(verdict))
                if verdict.state == "rolled_out":
                    patience.seen(time.monotonic())
                    if before and ways.is_idle(seen.service, seen.latest, seen.pods):
                        yield f"{told}; it is idle, and was proved before"
                        return
                    problem = self._problem(golden, seen)
                    if problem is None:
                        yield f"{told}; golden rows answered as recorded"
                        return
                    told, patience_s = problem
                    if patience.spent_s >= patience_s:
                        raise ProofError(told)
                else:
                    patience.reset()
            except AWAY as error:
                patience.blind()
                told = f"waiting: {error.message}"
            if told != last:
                last = told
                yield told
            if now - begun > deadline_s:
                warning = self._objects.warning()
                raise ProofError(f"not proved within {deadline_s:.0f} s: {last}" + (f"; {warning}" if warning else ""))
            time.sleep(POLL_S)

    def commit(self, release: Release, *, canary: int | None = None) -> None:
        """Send all requests to the proved release, or its share to a canary, and let go what was held for the one before."""
        found = steady(self._objects.read)
        checks.refuse_going(self._target, found)
        if split.entry_of(found, split.canary_name(release)):
            live = self._live()
            if canary is not None and live is not None:
                self._canary.give(live, release, canary)
            else:
                self._canary.finish(release)
            return
        if found is None or spec.annotations_of(found).get(spec.REVISION) != str(release.revision):
            # who removes a field leaves no name with it
            what = "its canary was taken away" if release.canary else "it was changed"
            raise ConflictError(f"InferenceService {self._target.name}: {what} meanwhile", hint="evctl history")
        if canary is not None and release.spec["mode"] == "Standard":
            raise RefusedError(
                f"{release.model} has been given all requests already",
                hint=f"evctl promote {release.model} finishes that, evctl rollback takes it back",
            )
        held = spec.least(found["spec"]["predictor"]) > spec.least(release.spec["predictor"])
        fewer = held and release.spec["mode"] == "Standard"
        if fewer or spec.share(found) != (100 if canary is None else canary):
            self._objects.write(spec.service_body(self._target, release, canary=canary), found)
            self._proved(release, before=True)

    def undo(self, failed: Release, previous: Release | None) -> None:
        """Give the service its previous release again, proved; what only the failed one brought is taken away."""
        found = self._objects.read_standing()
        known = {str(each.revision) for each in (failed, previous) if each}
        if found is not None and spec.annotations_of(found).get(spec.REVISION) not in known:
            raise ConflictError(
                f"InferenceService {self._target.name} was changed by {spec.last_other(found)} meanwhile; "
                "it was left as it is",
                hint="evctl serving; evctl history",
            )
        if previous is None:
            self._objects.take_away(found, self._before)
            return
        if found is not None and spec.routed_to_newest(found, failed):
            # Knative routes to the newest that is ready: all requests to the release before, and only then another one
            self._objects.write(spec.service_body(self._target, failed, canary=0), found)
            self._objects.write(spec.service_body(self._target, previous, canary=0), steady(self._objects.read))
            self._proved(previous)
        if found is not None and split.entry_of(found, split.canary_name(failed)):
            self._canary.end(previous, failed)
        self._give(previous)
        self._proved(previous)

    def start(self, release: Release) -> None:
        """Write the release again, proved: for a service that was deleted. One made here that fails is deleted again."""
        self.preflight(release, canary=None)
        self._give(release)
        made = steady(self._objects.read) if self._before is None else None
        try:
            self._proved(release)
        except EvctlError as error:
            if made is None:
                raise
            told, hint = self._objects.unmake(release, made)
            raise FailedError(f"{release.model} was not started: {error.message}; {told}", hint=hint) from error

    def stop(self) -> None:
        """RefusedError: a cluster's service is not ours to stop."""
        where = f"-n {self._target.namespace} isvc {self._target.name}"
        raise RefusedError(
            "a service on a cluster is not stopped by evctl",
            hint=f"kubectl annotate {where} {spec.STOP}=true",
        )

    def _proved(self, release: Release, *, before: bool = False) -> None:
        for _ in self.prove(release, self._target.proof_timeout_s, before=before):
            pass

    def _mode(self, found: Mapping[str, Any] | None) -> str:
        return modes.mode_of(self._api, self._target, found)

    def _live(self) -> Release | None:
        return steady(self.ledger().read)[0].live

    def _verdict(self, release: Release, unschedulable: dict[str, float], since: float) -> tuple[Verdict, Observed]:
        found = self._watched.read()
        uri = str(release.spec["predictor"]["model"]["storageUri"])
        share, canary = spec.share(found) if found else 100, split.canary_in(found, release)
        wanted = Wanted(self._target.name, uri, str(release.revision), str(release.spec["mode"]), share, canary)
        seen = self._watched.observe(wanted, found, unschedulable, since)
        return judge(wanted, seen), seen

    def _problem(self, golden: Golden, seen: Observed) -> tuple[str, float] | None:
        """Return what is wrong with the golden request's answer and how long it may be so; None when nothing is."""
        try:
            ways.ask_golden(self._api, self._target, golden, seen)
        except ProofError as error:
            return error.message, SETTLE_S
        except (UnavailableError, NotFoundError, RefusedError) as error:
            return error.message, SILENT_S
        return None
