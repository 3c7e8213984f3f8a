"""A canary in Standard mode, as plain dicts: a second Deployment beside the one that serves, and a share of the route. Pure.

KServe makes a Deployment and a Service of each entry of `spec.canary` (0.20) and weighs them in its HTTPRoutes (0.21,
with the Gateway API). It gives a share as soon as one pod is ready, so evctl begins with none: what serves cars is proved
first. Promoting by renaming the predictor, as KServe's documents have it, deletes the Deployment that serves before its
successor stands; here the stable predictor keeps its name and takes the model over while the canary serves on.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from evctl.rollout.ledger import Release
from evctl.rollout.serving.kserve_spec import MODE, REVISION, annotations_of, least, service_body
from evctl.rollout.target import ServiceTarget

Object = Mapping[str, Any]


def canary_name(release: Release) -> str:
    """Return the name of a release's entry in `spec.canary`."""
    return f"r{release.revision}"


def backend(service: str, canary: str | None = None) -> str:
    """Return the name of the Deployment, and Service, of a service's predictor or of one of its canaries."""
    return f"{service}-{canary}-predictor" if canary else f"{service}-predictor"


def replicas_of(stable: Release, percent: int) -> int:
    """Return how many pods a canary needs for its share of what the stable release has."""
    return max(1, math.ceil(least(stable.spec["predictor"]) * percent / 100))


def kept_beside(stable: Release, replicas: int) -> int:
    """Return how many pods a stable release needs beside a canary that has its share."""
    return max(1, least(stable.spec["predictor"]) - replicas)


def kept(service: Object | None) -> int:
    """Return how many pods the stable predictor has: KServe takes those of its canaries from what it asks for."""
    beside = sum(least(each.get("predictor") or {}) for each in canaries(service))
    return max(1, least(((service or {}).get("spec") or {}).get("predictor") or {}) - beside)


def allowed(service: Object | None, kept: int, replicas: int) -> int:
    """Return as many of the pods to be kept beside a canary as a service's maxReplicas lets be asked for; it is not ours."""
    most = ((service or {}).get("spec") or {}).get("predictor", {}).get("maxReplicas")
    return min(kept, max(0, int(most) - replicas)) if most else kept


def split_body(
    target: ServiceTarget, stable: Release, canary: Release, *, percent: int, replicas: int, kept: int
) -> dict[str, Any]:
    """Return the InferenceService of a stable release, with `kept` pods, and a canary beside it, as it is applied.

    The canary's provenance stands with its predictor: an annotation of the service would restart the stable pods.
    """
    body = service_body(target, stable)
    body["spec"]["predictor"]["minReplicas"] = kept + replicas
    notes = {key: value for key, value in canary.spec["annotations"].items() if key != MODE}
    predictor = {
        **canary.spec["predictor"],
        "name": canary_name(canary),
        "minReplicas": replicas,
        "annotations": {**notes, REVISION: str(canary.revision)},
    }
    body["spec"]["canary"] = [{"trafficPercent": percent, "predictor": predictor}]
    return body


def canaries(service: Object | None) -> list[dict[str, Any]]:
    """Return the entries of `spec.canary`."""
    return list(((service or {}).get("spec") or {}).get("canary") or ())


def entry_of(service: Object | None, name: str) -> dict[str, Any] | None:
    """Return a canary's entry by name."""
    return next((each for each in canaries(service) if (each.get("predictor") or {}).get("name") == name), None)


def canary_in(service: Object | None, release: Release) -> str | None:
    """Return a release's name among a service's canaries; None where it is the stable release, or is not there."""
    name = canary_name(release)
    stable = annotations_of(service).get(REVISION) == str(release.revision)
    return None if stable or entry_of(service, name) is None else name


def as_service(entry: Object) -> dict[str, Any]:
    """Return a canary's entry as if it were a service of its own: its annotations and its model."""
    predictor = entry.get("predictor") or {}
    return {"metadata": {"annotations": predictor.get("annotations") or {}}, "spec": {"predictor": predictor}}


def told(service: Object | None) -> list[tuple[str, str, int, int]]:
    """Return (name, revision, percent, pods) of each canary: what of them is somebody's will."""
    return [
        (
            str((each.get("predictor") or {}).get("name")),
            str(((each.get("predictor") or {}).get("annotations") or {}).get(REVISION, "")),
            int(each.get("trafficPercent") or 0),
            least(each.get("predictor") or {}),
        )
        for each in canaries(service)
    ]


def route_problem(routes: Sequence[Object], service: str, canary: str, percent: int) -> str | None:
    """Return why the HTTPRoutes do not give a canary its share yet; None when they do."""
    shares = [share for route in routes for share in _shares(route, backend(service), backend(service, canary))]
    if not shares:
        return f"no HTTPRoute leads to {backend(service)}"
    if wrong := [share for share in shares if share != percent]:
        return f"the HTTPRoute gives {backend(service, canary)} {wrong[0]} of {percent} % of the requests"
    if percent and (refused := next((each for route in routes for each in _not_taken(route)), None)):
        return refused
    return None


def _shares(route: Object, stable: str, canary: str) -> Iterator[int]:
    for rule in (route.get("spec") or {}).get("rules") or ():
        weights = {str(ref.get("name")): int(ref.get("weight", 1)) for ref in rule.get("backendRefs") or ()}
        if stable in weights or canary in weights:
            yield round(100 * weights.get(canary, 0) / (sum(weights.values()) or 1))


def _not_taken(route: Object) -> Iterator[str]:
    name, generation = route["metadata"]["name"], int(route["metadata"].get("generation") or 0)
    parents = (route.get("status") or {}).get("parents") or ()
    if not parents:
        yield f"no gateway has taken HTTPRoute {name} up"
    for parent in parents:
        told = [each for each in parent.get("conditions") or () if each.get("type") in ("Accepted", "ResolvedRefs")]
        if "Accepted" not in [each["type"] for each in told]:
            yield f"the gateway has not accepted HTTPRoute {name} yet"
        for each in told:
            if int(each.get("observedGeneration") or generation) < generation:
                yield f"the gateway has not seen the change of HTTPRoute {name} yet"
            elif each.get("status") != "True":
                yield f"the gateway refuses HTTPRoute {name}: {each.get('reason')}: {each.get('message')}"
