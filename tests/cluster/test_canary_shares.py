"""Shares and pods of a canary in Standard mode: what a failed change keeps, what is taken away when, and by whom."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from evctl.errors import ConflictError, FailedError, NotAllowedError, RefusedError
from evctl.rollout.promotion import rollback
from evctl.rollout.serving import kserve_checks
from evctl.rollout.serving.base import Share
from tests.cluster.playing import CRASHES
from tests.cluster.waiting import until
from tests.cluster.weighed import Standard

LACKING = ("inferenceservices", "patch")


def test_a_canary_whose_route_does_not_come_to_a_larger_share_keeps_the_one_that_was_proved(
    standard: Standard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("evctl.rollout.serving.kserve_canary.ROUTE_S", 2.0)
    standard.promote("b", canary=10)
    standard.player.most = 20
    with pytest.raises(FailedError, match=r"-r2-predictor 20 of 50 %.*; it has its 10 % again, proved") as told:
        standard.promote("b", canary=50)
    assert told.value.exit_code == 1
    assert standard.shares() == {standard.uri("b"): 10, standard.uri("a"): 90}
    assert standard.stage.statuses() == ["live", "pending"]
    assert standard.stage.service()["spec"]["canary"][0]["predictor"]["minReplicas"] == 1
    assert standard.gaps() == []


def test_a_canary_whose_further_pod_finds_no_place_keeps_the_share_that_was_proved(standard: Standard) -> None:
    standard.promote("b", canary=10)
    standard.player.room = 1
    with pytest.raises(FailedError, match=r"not proved within 3 s: .* of 2 .*; it has its 10 % again, proved"):
        standard.promote_hurried("b", canary=50)
    assert standard.shares() == {standard.uri("b"): 10, standard.uri("a"): 90}
    assert standard.stage.service()["spec"]["canary"][0]["predictor"]["minReplicas"] == 1
    assert standard.stage.statuses() == ["live", "pending"]
    assert not [each for each in standard.player.history if each.get(standard.uri("b"), 0) > 10]


def test_no_pod_that_serves_is_taken_away_for_a_canary_before_the_requests_are(standard: Standard) -> None:
    """KServe takes a canary's pods from those that the stable predictor asks for, as soon as it is written."""
    begun = len(standard.player.stable) - 1
    standard.promote("b", canary=60)
    assert {pods for _, pods, given in standard.player.stable[begun:] if given == 0} == {3}
    until(lambda: standard.player.stable[-1] == (standard.uri("a"), 1, 60))
    standard.promote("b", canary=10)
    until(lambda: standard.player.stable[-1] == (standard.uri("a"), 2, 10))
    standard.promote("b")
    until(lambda: standard.player.stable[-1] == (standard.uri("b"), 3, 0))
    assert not [pods for _, pods, given in standard.player.stable[begun:] if given == 0 and pods < 3]


@pytest.mark.parametrize("by_canary", [False, True])
def test_fewer_pods_are_asked_for_once_the_new_release_is_proved_and_not_before(
    by_canary: bool, standard: Standard
) -> None:
    begun = len(standard.player.stable) - 1
    if by_canary:
        standard.promote("b", canary=10, min_replicas=1)
    standard.promote("b", min_replicas=1)
    assert standard.stage.service()["spec"]["predictor"]["minReplicas"] == 1
    until(lambda: standard.player.stable[-1] == (standard.uri("b"), 1, 0))
    assert not [each for each in standard.player.stable[begun:] if each[0] == standard.uri("a") and each[1] < 2]
    if not by_canary:
        assert {pods for uri, pods, _ in standard.player.stable[begun:] if uri == standard.uri("a")} == {3}
    assert standard.gaps() == []


def test_more_pods_that_somebody_else_asked_for_stay_until_what_takes_them_over_is_proved(standard: Standard) -> None:
    base = f"/apis/serving.kserve.io/v1beta1/namespaces/{standard.stage.target.namespace}/inferenceservices"
    kind = {"apiVersion": "serving.kserve.io/v1beta1", "kind": "InferenceService"}
    edit = {**kind, "spec": {"predictor": {"minReplicas": 4}}}
    standard.stage.api().apply(f"{base}/{standard.stage.target.name}", edit, "autoscaling-team", force=True)
    with pytest.raises(ConflictError, match=r'"autoscaling-team".*\.spec\.predictor\.minReplicas'):
        standard.promote("b")
    until(lambda: standard.player.stable[-1] == (standard.uri("a"), 4, 0))
    begun = len(standard.player.stable) - 1
    standard.promote("b", take_over=True)
    until(lambda: standard.player.stable[-1] == (standard.uri("b"), 3, 0))
    assert {pods for uri, pods, _ in standard.player.stable[begun:] if uri == standard.uri("a")} == {4}


def test_a_release_with_fewer_pods_that_fails_cost_the_one_before_none(standard: Standard) -> None:
    begun = len(standard.player.stable) - 1
    standard.ways[standard.uri("b")] = CRASHES
    with pytest.raises(FailedError, match="serves again, proved"):
        standard.promote("b", min_replicas=1)
    assert {each[1] for each in standard.player.stable[begun:]} == {3}
    assert standard.stage.service()["spec"]["predictor"]["minReplicas"] == 3


def test_a_canary_that_somebody_set_by_hand_is_shown_and_makes_no_promotion_unchanged(standard: Standard) -> None:
    theirs = {
        "trafficPercent": 20,
        "predictor": {"name": "theirs", "minReplicas": 1, "model": {"storageUri": "s3://x/"}},
    }
    base = f"/apis/serving.kserve.io/v1beta1/namespaces/{standard.stage.target.namespace}/inferenceservices"
    path = f"{base}/{standard.stage.target.name}"
    standard.stage.api().patch(path, {"spec": {"canary": [theirs]}}, fieldManager="bob")
    assert standard.world().read().shares == (Share("theirs", "", 20),)
    for model in "ab":
        with pytest.raises(ConflictError, match=r"divides its requests by theirs, set by bob at ") as told:
            standard.promote(model)
        assert told.value.exit_code == 6
        assert '"path": "/spec/canary"' in str(told.value.hint)
    assert standard.stage.statuses() == ["live"]
    standard.stage.api().patch(path, {"spec": {"canary": None}}, fieldManager="bob")
    until(lambda: standard.promote("a").changed is False)


def test_a_canary_is_taken_back_by_nobody_who_may_not_and_of_no_service_that_a_repository_keeps(
    standard: Standard, operator: Callable[[list[dict[str, list[str]]]], object]
) -> None:
    standard.promote("b", canary=10)
    rules = [
        {"apiGroups": [group], "resources": [name], "verbs": [each for each in verbs if (name, each) != LACKING]}
        for group, name, verbs in kserve_checks.RIGHTS
    ]
    world = standard.stage.world(operator(rules), min_replicas=3)  # type: ignore[arg-type]
    with pytest.raises(NotAllowedError, match=r"missing rights .*: patch inferenceservices\.serving\.kserve\.io$"):
        rollback(standard.stage.target, world, by="anna")
    base = f"/apis/serving.kserve.io/v1beta1/namespaces/{standard.stage.target.namespace}/inferenceservices"
    path = f"{base}/{standard.stage.target.name}"
    standard.stage.api().patch(path, {"metadata": {"labels": {"argocd.argoproj.io/instance": "ml"}}})
    with pytest.raises(RefusedError, match="is kept by Argo CD"):
        rollback(standard.stage.target, standard.world(), by="anna")
    assert standard.shares() == {standard.uri("b"): 10, standard.uri("a"): 90}
    assert standard.stage.statuses() == ["live", "pending"]
