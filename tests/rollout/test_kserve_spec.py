"""What is written for a release: how many pods it asks for while another one serves."""

from __future__ import annotations

from typing import Any

import pytest

from evctl.rollout.serving import kserve_spec as spec


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
