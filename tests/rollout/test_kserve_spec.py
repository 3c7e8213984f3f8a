"""What is written for a release: how many pods it asks for while another one serves, and how a pod goes."""

from __future__ import annotations

from typing import Any

import pytest

from evctl.rollout.serving import kserve_spec as spec

IMAGE = "registry.example/ev-battery@sha256:" + "0" * 64


def asking(pods: int | None) -> dict[str, Any]:
    return {"spec": {"predictor": {} if pods is None else {"minReplicas": pods}}}


@pytest.mark.parametrize(
    ("new", "before", "written"), [(1, 3, 3), (3, 1, 3), (2, 2, 2), (None, None, 1), (1, None, 1), (None, 3, 3)]
)
def test_a_release_asks_for_no_fewer_pods_than_there_are_until_it_is_proved(
    new: int | None, before: int | None, written: int
) -> None:
    body = asking(new)
    assert spec.holding(body, asking(before))["spec"]["predictor"]["minReplicas"] == written
    assert body == asking(new), "what it asks for in the end stays"


def test_a_first_release_asks_for_its_own() -> None:
    assert spec.holding(asking(2), None) == asking(2)


def test_a_pod_that_goes_takes_requests_until_every_proxy_knows_of_it() -> None:
    """On a real cluster each swap lost requests to a pod that had stopped while its node still sent some."""
    (container,) = spec.own_runtime(IMAGE, cpu="1", memory="1Gi", mode="Standard")["spec"]["containers"]
    assert container["lifecycle"]["preStop"]["exec"]["command"] == ["sleep", "5"]


def test_knative_takes_no_hook_and_gets_a_runtime_of_another_name() -> None:
    here, there = (spec.own_runtime(IMAGE, cpu="1", memory="1Gi", mode=mode) for mode in ("Standard", "Knative"))
    assert "lifecycle" not in there["spec"]["containers"][0]
    assert here["metadata"]["name"] != there["metadata"]["name"]
