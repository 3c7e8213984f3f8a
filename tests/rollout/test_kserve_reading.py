"""What `evctl serving` says of an InferenceService: what it is in, and the address that answers."""

from __future__ import annotations

from typing import Any

import pytest

from evctl.commands.serving import _lines
from evctl.rollout.serving import kserve_reading as reading
from evctl.rollout.serving.base import Share
from evctl.rollout.serving.kserve_proof import Observed

INNER, OUTER, EXAMPLE = "http://ev.ns.svc.cluster.local", "https://ev.cars.test", "http://ev-ns.example.com"
Object = dict[str, Any]


def service(**more: Any) -> Object:
    notes = {"evctl/revision": "2", "evctl/uri": "s3://m/2/", "evctl/model": "v2", "evctl/digest": "d"}
    return {
        "metadata": {"name": "ev", "annotations": notes},
        "spec": {"predictor": {"model": {"storageUri": "s3://m/2/"}}},
        **more,
    }


def told(found: Object) -> str | None:
    wanted = reading.last_given("ev", found, "Standard")
    return reading.at_work(found, wanted, Observed(found)).url


@pytest.mark.parametrize(
    ("status", "url"),
    [
        ({"url": OUTER, "address": {"url": INNER}}, OUTER),
        ({"url": EXAMPLE, "address": {"url": INNER}}, INNER),
        ({"url": "http://ev-ns.example.com:8080/x", "address": {"url": INNER}}, INNER),
        ({"url": "http://ev-ns.my-example.com", "address": {"url": INNER}}, "http://ev-ns.my-example.com"),
        ({"url": EXAMPLE}, None),
        ({}, None),
    ],
)
def test_the_address_told_is_one_that_somebody_set_and_else_the_clusters_own(status: Object, url: str | None) -> None:
    assert told(service(status=status)) == url


def test_a_service_that_is_stopped_or_was_changed_by_hand_is_told_without_a_look_at_its_pods() -> None:
    assert reading.at_rest(None) == reading.Serving("absent")
    assert reading.at_rest(service()) is None
    stopped = service()
    stopped["metadata"]["annotations"]["serving.kserve.io/stop"] = "true"
    changed = service(spec={"predictor": {"model": {"storageUri": "s3://theirs/"}}})
    found = [reading.at_rest(each) for each in (stopped, changed)]
    assert [each.state for each in found if each] == ["stopped", "failing"]


@pytest.mark.parametrize(
    ("url", "line"),
    [
        (OUTER, f"  {OUTER}/v2/models/ev/infer"),
        (INNER, f"  {INNER}/v2/models/ev/infer   in the cluster; from here: evctl predict FILE"),
        (None, "  it tells no address; evctl predict FILE asks it through the Kubernetes API"),
    ],
)
def test_where_an_address_can_be_used_from_stands_beside_it(url: str | None, line: str) -> None:
    document: Object = {"service": "ev", "state": "serving", "model": "v2", "detail": "", "canary": None, "url": url}
    assert _lines({**document, "by_hand": []})[-1] == line


def test_parts_of_the_requests_that_are_set_apart_are_read_in_both_modes_whoever_wrote_them() -> None:
    found = service()
    assert reading.shares(found) == ()
    found["spec"]["predictor"]["canaryTrafficPercent"] = 20
    assert reading.shares(found) == (Share("canaryTrafficPercent", "2", 20),)
    theirs = {"trafficPercent": 30, "predictor": {"name": "theirs"}}
    ours = {"trafficPercent": 10, "predictor": {"name": "r3", "annotations": {"evctl/revision": "3"}}}
    found = service(spec={"predictor": {}, "canary": [theirs, ours]})
    assert reading.shares(found) == (Share("theirs", "", 30), Share("r3", "3", 10))
