"""What an InferenceService is in, in the words of `evctl serving`. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from evctl.rollout.serving import kserve_spec as spec
from evctl.rollout.serving import kserve_split as split
from evctl.rollout.serving.base import Serving, Share
from evctl.rollout.serving.kserve_proof import Observed, Wanted, judge, serves

Object = Mapping[str, Any]


def at_rest(service: Object | None) -> Serving | None:
    """Return what a service is in where no look at its pods is needed for it; None where they decide."""
    if service is None:
        return Serving("absent")
    notes, uri, url = spec.annotations_of(service), spec.storage_uri(service), _url(service)
    if notes.get(spec.STOP) == "true":
        return Serving("stopped", notes.get(spec.DIGEST), notes.get(spec.MODEL), uri, url, "by its annotation")
    if notes.get(spec.URI) != uri:
        return Serving("failing", uri=uri, url=url, detail=f"changed by {spec.last_other(service)}: {uri}")
    return None


def last_given(name: str, service: Object, mode: str) -> Wanted:
    """Return the release that a service was last given, as it is to be judged."""
    revision = spec.annotations_of(service).get(spec.REVISION, "")
    return Wanted(name, str(spec.storage_uri(service)), revision, mode, spec.share(service))


def at_work(service: Object, wanted: Wanted, seen: Observed) -> Serving:
    """Return what a service is in, by what the cluster made of it."""
    notes, verdict = spec.annotations_of(service), judge(wanted, seen)
    return Serving(
        "serving" if serves(seen, verdict) else "failing" if verdict.state == "failed" else "starting",
        digest=notes.get(spec.DIGEST),
        version=notes.get(spec.MODEL),
        uri=wanted.uri,
        url=_url(service),
        detail="" if verdict.state == "rolled_out" else verdict.told,
        extra={
            "mode": wanted.mode,
            "revision": wanted.revision,
            "percent": wanted.percent,
            "rolling": verdict.state == "waiting",
        },
        shares=shares(service),
    )


def shares(service: Object) -> tuple[Share, ...]:
    """Return what parts of its requests a service sets apart: Standard mode's canaries, and Knative's share."""
    found = [Share(name, revision, percent) for name, revision, percent, _ in split.told(service)]
    if (percent := spec.share(service)) != 100:
        found.append(Share(spec.SHARE, spec.annotations_of(service).get(spec.REVISION, ""), percent))
    return tuple(found)


def _url(service: Object) -> str | None:
    return next(iter(spec.addresses(service)), None)
