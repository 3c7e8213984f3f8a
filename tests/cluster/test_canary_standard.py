"""Canaries in Standard mode on a real API server: begun without a request, weighed by the route, ended without a gap."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from evctl.commands.release import outcome_lines
from evctl.errors import ConflictError, FailedError, NotAllowedError, RefusedError
from evctl.rollout.ledger import Release
from evctl.rollout.promotion import promote, rollback
from evctl.rollout.serving import kserve_checks
from tests.cluster.playing import CRASHES
from tests.cluster.waiting import until
from tests.cluster.weighed import Standard


def test_a_canary_is_proved_without_a_request_and_then_gets_its_share(standard: Standard) -> None:
    begun = standard.promote("b", canary=10)
    assert (begun.changed, begun.revision) == (True, 2)
    assert standard.shares() == {standard.uri("b"): 10, standard.uri("a"): 90}
    assert standard.pods.asked >= 2, "its own pods answered the golden rows"
    assert standard.stage.statuses() == ["live", "pending"]
    service = standard.stage.service()
    assert service["spec"]["predictor"]["model"]["storageUri"] == standard.uri("a")
    assert service["metadata"]["annotations"]["evctl/revision"] == "1", "the stable pods are not restarted for it"
    assert standard.gaps() == []


def test_a_canary_is_told_as_one_and_what_ends_it(standard: Standard) -> None:
    begun = standard.promote("b", canary=10)
    a, b = (standard.stage.models[each].version for each in "ab")
    first, then = outcome_lines(begun)
    assert first.startswith(f"canary: {b} gets 10 % of the requests (revision 2, beside {a}), proved in ")
    assert then == f"  next: evctl promote {b}   or: evctl rollback"
    assert begun.to_json()["verified"]["percent"] == 10
    canary = standard.world().ledger().read()[0].canary
    assert canary is not None
    assert (canary.model, canary.canary) == (b, 10)
    done = standard.promote("b")
    assert outcome_lines(done)[0].startswith(f"live: {b} (revision 2, before: {a})")
    assert done.to_json()["verified"]["percent"] == 100


def test_a_canary_is_given_more_and_then_all_without_a_gap(standard: Standard) -> None:
    standard.promote("b", canary=10)
    with pytest.raises(RefusedError, match=r"a canary of .* gets 10 % of the requests"):
        standard.promote("c")
    standard.promote("b", canary=60)
    assert standard.shares() == {standard.uri("b"): 60, standard.uri("a"): 40}
    assert standard.player.workloads[f"{standard.stage.target.name}-r2-predictor"].replicas == 2, "60 % of three pods"
    done = standard.promote("b")
    assert (done.changed, done.revision) == (True, 2)
    assert standard.shares() == {standard.uri("b"): 100}
    assert "canary" not in standard.stage.service()["spec"]
    assert standard.stage.statuses() == ["superseded", "live"]
    until(lambda: list(standard.player.workloads) == [f"{standard.stage.target.name}-predictor"])
    assert standard.gaps() == []
    assert standard.promote("b").changed is False


def test_a_canary_is_taken_back_by_rollback_without_a_gap(standard: Standard) -> None:
    standard.promote("b", canary=30)
    done = rollback(standard.stage.target, standard.world(), by="anna")
    assert (done.model, done.previous) == (standard.stage.models["a"].version, standard.stage.models["b"].version)
    assert standard.shares() == {standard.uri("a"): 100}
    assert standard.stage.statuses() == ["live", "rolled_back"]
    assert standard.gaps() == []


def test_a_canary_that_crashes_or_answers_wrong_never_got_a_request(standard: Standard) -> None:
    standard.ways[standard.uri("b")] = CRASHES
    with pytest.raises(FailedError, match=r"-r2-predictor-001, kserve-container was restarted 2 times"):
        standard.promote("b", canary=10)
    standard.pods.ways[standard.uri("c")] = "wrong"
    with pytest.raises(FailedError, match=r"golden rows differ by 0\.25.*; .* serves again, proved"):
        standard.promote("c", canary=10)
    served = {uri for shares in standard.player.history for uri in shares if uri}
    assert served == {standard.uri("a")}
    assert standard.stage.statuses() == ["live", "failed", "failed"]
    assert standard.gaps() == []


def test_a_canary_whose_promotion_fails_is_taken_back_with_it(standard: Standard) -> None:
    standard.promote("b", canary=10)
    standard.stage.server.ways[standard.uri("b")] = "wrong"
    with pytest.raises(FailedError, match=r"golden rows differ by 0\.25.*; .* serves again, proved"):
        standard.promote("b")
    assert standard.shares() == {standard.uri("a"): 100}
    assert standard.stage.statuses() == ["live", "failed"]
    assert standard.gaps() == []


def test_a_canary_that_somebody_took_away_is_told_and_rolled_back(standard: Standard) -> None:
    standard.promote("b", canary=10)
    patch = {"spec": {"canary": None}}
    base = f"/apis/serving.kserve.io/v1beta1/namespaces/{standard.stage.target.namespace}/inferenceservices"
    standard.stage.api().patch(f"{base}/{standard.stage.target.name}", patch, fieldManager="bob")
    with pytest.raises(FailedError, match="its canary was taken away meanwhile"):
        standard.promote("b", canary=20)
    assert standard.stage.statuses() == ["live", "failed"]


def test_a_promoter_that_died_over_a_canary_leaves_nothing_behind(
    standard: Standard, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = standard.world()
    monkeypatch.setattr(world, "prove", dies)
    monkeypatch.setattr(world, "undo", dies)
    with pytest.raises(SystemExit):
        promote(standard.stage.target, world, standard.uri("b"), by="bob", canary=10)
    assert standard.stage.statuses() == ["live", "pending"]
    done = standard.promote("c", canary=10)
    assert done.revision == 3
    assert [each["predictor"]["name"] for each in standard.stage.service()["spec"]["canary"]] == ["r3"]
    assert standard.stage.statuses() == ["live", "failed", "pending"]


def dies(*_: object) -> None:
    raise SystemExit


def test_a_canary_that_is_being_given_all_gets_no_share_and_is_finished_or_taken_back(
    standard: Standard, monkeypatch: pytest.MonkeyPatch
) -> None:
    standard.promote("b", canary=10)
    world = standard.world()
    monkeypatch.setattr(world._canary, "end", dies)
    monkeypatch.setattr(world, "undo", dies)
    with pytest.raises(SystemExit):
        promote(standard.stage.target, world, standard.uri("b"), by="bob")
    assert standard.stage.statuses() == ["live", "pending"]
    with pytest.raises(RefusedError, match="is being given all requests, and no share of them"):
        standard.promote("b", canary=30)
    assert standard.stage.statuses() == ["live", "pending"], "nothing was changed"
    done = standard.promote("b")
    assert done.revision == 2
    assert standard.shares() == {standard.uri("b"): 100}
    assert standard.stage.statuses() == ["superseded", "live"]
    assert standard.gaps() == []


def test_a_canary_that_has_been_given_all_gets_no_share_either(
    standard: Standard, monkeypatch: pytest.MonkeyPatch
) -> None:
    standard.promote("b", canary=10)
    with monkeypatch.context() as dying:
        dying.setattr("evctl.rollout.recovery.end", dies)
        dying.setattr("evctl.rollout.recovery.fail", dies)
        with pytest.raises(SystemExit):
            standard.promote("b")
    with pytest.raises(RefusedError, match="has been given all requests already"):
        standard.promote("b", canary=30)
    assert "canaryTrafficPercent" not in standard.stage.service()["spec"]["predictor"]
    back = rollback(standard.stage.target, standard.world(), by="anna")
    assert back.model == standard.stage.models["a"].version
    assert standard.shares() == {standard.uri("a"): 100}
    assert standard.stage.statuses() == ["live", "rolled_back"]


def test_a_promoter_that_wakes_after_its_canary_was_taken_back_changes_nothing(
    standard: Standard, monkeypatch: pytest.MonkeyPatch
) -> None:
    standard.promote("b", canary=10)
    world = standard.world()
    end = world._canary.end

    def late(stable: Release, release: Release) -> None:
        lease = f"/apis/coordination.k8s.io/v1/namespaces/{standard.stage.target.namespace}/leases"
        standard.stage.api().delete(f"{lease}/{standard.stage.target.name}-promotion")
        rollback(standard.stage.target, standard.world(), by="bea")
        end(stable, release)

    monkeypatch.setattr(world._canary, "end", late)
    with pytest.raises(ConflictError):
        promote(standard.stage.target, world, standard.uri("b"), by="bob")
    assert standard.shares() == {standard.uri("a"): 100}
    assert standard.stage.statuses() == ["live", "rolled_back"]


@pytest.mark.parametrize("standard", [{"gateway": False}], indirect=True)
def test_without_the_gateway_api_a_canary_is_refused_with_what_to_install(standard: Standard) -> None:
    with pytest.raises(RefusedError, match=r"needs KServe 0\.21 or newer, the Gateway API .* no HTTPRoute") as told:
        standard.promote("b", canary=10)
    assert "without --canary" in str(told.value.hint)
    assert standard.stage.statuses() == ["live"]


@pytest.mark.parametrize("standard", [{"weighs": False}], indirect=True)
def test_where_kserve_makes_no_weights_the_canary_is_taken_back(
    standard: Standard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("evctl.rollout.serving.kserve_canary.ROUTE_S", 1.0)
    with pytest.raises(FailedError, match=r"-r2-predictor 0 of 10 % .* a split needs KServe 0\.21"):
        standard.promote("b", canary=10)
    assert standard.stage.statuses() == ["live", "failed"]
    assert "canary" not in standard.stage.service()["spec"]
    assert standard.gaps() == []


def test_the_right_to_see_routes_is_asked_for_a_canary_alone(
    standard: Standard, operator: Callable[[list[dict[str, list[str]]]], object]
) -> None:
    rules = [
        {"apiGroups": [group], "resources": [resource], "verbs": list(verbs)}
        for group, resource, verbs in kserve_checks.RIGHTS
    ]
    kubeconfig = operator(rules)
    world = standard.stage.world(kubeconfig, min_replicas=3)  # type: ignore[arg-type]
    with pytest.raises(NotAllowedError, match=r"get httproutes\.gateway\.networking\.k8s\.io"):
        promote(standard.stage.target, world, standard.uri("b"), by="anna", canary=10)
    assert promote(standard.stage.target, world, standard.uri("b"), by="anna").changed
