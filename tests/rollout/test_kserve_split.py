"""A canary of Standard mode as plain dicts: what is written for it, and what its routes must say."""

from __future__ import annotations

from typing import Any

import pytest

from evctl.rollout.ledger import Release
from evctl.rollout.serving import kserve_split as split
from evctl.rollout.target import ServiceTarget

TARGET = ServiceTarget("ev", "ns", "kubeflow", {"uri": "s3://models"})


def release(revision: int, replicas: int = 1) -> Release:
    spec = {
        "annotations": {"serving.kserve.io/deploymentMode": "Standard", "evctl/model": f"v{revision}"},
        "predictor": {"minReplicas": replicas, "model": {"storageUri": f"s3://models/v{revision}/"}},
    }
    return Release(revision, f"v{revision}", f"s3://models/v{revision}/", "d", None, "live", "now", "anna", spec=spec)


def route(*refs: dict[str, Any], generation: int = 1, seen: int = 1, **taken: Any) -> dict[str, Any]:
    condition = {"type": "Accepted", "status": "True", "observedGeneration": seen, **taken}
    return {
        "metadata": {"name": "ev", "generation": generation},
        "spec": {"rules": [{"backendRefs": list(refs)}]},
        "status": {"parents": [{"conditions": [condition]}]},
    }


STABLE, CANARY = {"name": "ev-predictor", "weight": 90}, {"name": "ev-r2-predictor", "weight": 10}


def test_a_canarys_provenance_stands_with_its_predictor_and_not_with_the_service() -> None:
    body = split.split_body(TARGET, release(1), release(2), percent=0, replicas=1, kept=1)
    assert body["metadata"]["annotations"]["evctl/model"] == "v1"
    (entry,) = body["spec"]["canary"]
    assert entry["trafficPercent"] == 0
    assert entry["predictor"]["name"] == "r2"
    assert entry["predictor"]["annotations"] == {"evctl/model": "v2", "evctl/revision": "2"}
    assert split.told(body) == [("r2", "2", 0, 1)]


def test_what_the_stable_predictor_keeps_stands_on_top_of_what_kserve_takes_from_it_for_the_canary() -> None:
    alone = {"spec": {"predictor": {"minReplicas": 3}}}
    assert split.kept(alone) == 3
    body = split.split_body(TARGET, release(1, replicas=3), release(2), percent=0, replicas=2, kept=3)
    assert (body["spec"]["predictor"]["minReplicas"], split.kept(body)) == (5, 3)
    assert split.kept_beside(release(1, replicas=3), 2) == 1
    assert split.kept_beside(release(1, replicas=2), 2) == 1, "KServe leaves it one"


@pytest.mark.parametrize(("percent", "pods"), [(0, 1), (1, 1), (25, 1), (26, 2), (99, 4)])
def test_a_canary_has_the_pods_that_its_share_needs_and_never_none(percent: int, pods: int) -> None:
    assert split.replicas_of(release(1, replicas=4), percent) == pods


@pytest.mark.parametrize(
    ("routes", "percent", "problem"),
    [
        ([route(STABLE, CANARY)], 10, None),
        ([route(STABLE, CANARY)], 20, "gives ev-r2-predictor 10 of 20 %"),
        ([route({"name": "ev-predictor"})], 10, "gives ev-r2-predictor 0 of 10 %"),
        ([route({"name": "ev-predictor"})], 0, None),
        ([route(STABLE, CANARY), route({"name": "ev-predictor"})], 10, "gives ev-r2-predictor 0 of 10 %"),
        ([route({"name": "ev-transformer"}), route(STABLE, CANARY)], 10, None),
        ([route({"name": "ev-transformer"})], 10, "no HTTPRoute leads to ev-predictor"),
        ([], 10, "no HTTPRoute leads to ev-predictor"),
        ([route(STABLE, CANARY, generation=3, seen=2)], 10, "has not seen the change"),
        ([route(STABLE, CANARY, status="False", reason="NoMatchingParent")], 10, "refuses HTTPRoute ev: NoMatching"),
        ([{**route(STABLE, CANARY), "status": {}}], 10, "no gateway has taken HTTPRoute ev up"),
        ([{**route(STABLE, CANARY), "status": {"parents": [{}]}}], 10, "has not accepted HTTPRoute ev yet"),
        ([route(STABLE, CANARY, type="ResolvedRefs")], 10, "has not accepted HTTPRoute ev yet"),
        ([{**route({"name": "ev-predictor"}), "status": {}}], 0, None),
    ],
)
def test_a_share_is_proved_by_every_route_that_leads_to_the_predictor(
    routes: list[dict[str, Any]], percent: int, problem: str | None
) -> None:
    told = split.route_problem(routes, "ev", "r2", percent)
    assert told is None if problem is None else problem in str(told)


@pytest.mark.parametrize(
    ("most", "kept", "replicas", "asked"), [(None, 3, 2, 5), (0, 3, 2, 5), (9, 3, 2, 5), (4, 3, 2, 4), (1, 1, 1, 1)]
)
def test_no_more_pods_are_asked_for_than_somebodys_maximum_lets_be(
    most: int | None, kept: int, replicas: int, asked: int
) -> None:
    """KServe's webhook refuses a minimum above it."""
    predictor = {"minReplicas": 3} | ({} if most is None else {"maxReplicas": most})
    assert split.allowed({"spec": {"predictor": predictor}}, kept, replicas) + replicas == asked
