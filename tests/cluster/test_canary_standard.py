"""Canaries in Standard mode on a real API server: begun without a request, weighed by the route, ended without a gap."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

import pytest

from evctl.commands.release import outcome_lines
from evctl.errors import ConflictError, FailedError, NotAllowedError, RefusedError
from evctl.kube import KubeApi
from evctl.rollout.ledger import Release
from evctl.rollout.promotion import Outcome, promote, rollback
from evctl.rollout.serving import kserve_checks
from evctl.rollout.serving.base import Share
from evctl.rollout.serving.kserve import ClusterWorld
from tests.cluster.answering import ModelServer
from tests.cluster.playing import CRASHES
from tests.cluster.stage import Stage
from tests.cluster.standard import StandardPlayer
from tests.cluster.waiting import until

LACKING = ("inferenceservices", "patch")


@dataclass
class Standard:
    """A service in Standard mode behind a gateway; `canary` stands for a canary's pods."""

    stage: Stage
    canary: ModelServer
    player: StandardPlayer
    ways: dict[str, str] = field(default_factory=dict)

    def world(self, min_replicas: int = 3) -> ClusterWorld:
        return self.stage.world(min_replicas=min_replicas)

    def promote(self, model: str, canary: int | None = None, *, min_replicas: int = 3) -> Outcome:
        world, uri = self.world(min_replicas), self.stage.models[model].uri
        return promote(self.stage.target, world, uri, by="anna", canary=canary, tell=self.stage.told.append)

    def uri(self, model: str) -> str:
        return self.stage.models[model].uri

    def shares(self) -> dict[str, int]:
        return self.player.history[-1]

    def gaps(self) -> list[dict[str, int]]:
        """The moments in which a request met nobody, after the first pod was there."""
        begun = next(n for n, each in enumerate(self.player.history) if "" not in each)
        return [each for each in self.player.history[begun:] if "" in each]


@pytest.fixture
def standard(
    request: pytest.FixtureRequest, stage: Stage, admin: KubeApi, own_address: str, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Standard]:
    monkeypatch.setattr("evctl.rollout.serving.kserve_canary.POLL_S", 0.1)
    canary = ModelServer(own_address)
    canary.bundles = stage.server.bundles
    stable, base = f"{stage.target.name}-predictor", f"/api/v1/namespaces/{stage.target.namespace}"

    def changed(name: str, uri: str | None) -> None:
        if name == stable:
            stage.server.active = uri
            return
        canary.active = uri
        if uri is not None:
            _reach(admin, base, name, own_address, canary.port)

    ways: dict[str, str] = {}
    player = StandardPlayer(
        stage.api(), namespace=stage.target.namespace, service=stage.target.name, ways=ways, url=stage.server.url,
        pod_ip=own_address, on_change=changed, **getattr(request, "param", {}),
    )  # fmt: skip
    player.start()
    made = Standard(stage, canary, player, ways)
    made.promote("a")
    yield made
    player.stop()
    canary.stop()


def _reach(admin: KubeApi, base: str, service: str, address: str, port: int) -> None:
    """Let the API server's proxy of a service lead to an address, as a Service of ready pods would."""
    pod = next(each["metadata"]["name"] for each in admin.list(f"{base}/pods") if service in each["metadata"]["name"])
    ports = [{"name": "http", "port": 80, "targetPort": port}]
    admin.apply(
        f"{base}/services/{service}",
        {"apiVersion": "v1", "kind": "Service", "metadata": {"name": service}, "spec": {"ports": ports}}, "kserve",
    )  # fmt: skip
    target = {"kind": "Pod", "name": pod, "namespace": base.rpartition("/")[2]}
    subset = {"addresses": [{"ip": address, "targetRef": target}], "ports": [{"name": "http", "port": port}]}
    admin.apply(
        f"{base}/endpoints/{service}",
        {"apiVersion": "v1", "kind": "Endpoints", "metadata": {"name": service}, "subsets": [subset]}, "kserve",
    )  # fmt: skip


def test_a_canary_is_proved_without_a_request_and_then_gets_its_share(standard: Standard) -> None:
    begun = standard.promote("b", canary=10)
    assert (begun.changed, begun.revision) == (True, 2)
    assert standard.shares() == {standard.uri("b"): 10, standard.uri("a"): 90}
    assert standard.canary.asked >= 2, "its own pods answered the golden rows"
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
    standard.canary.ways[standard.uri("c")] = "wrong"
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
    hurried = replace(standard.stage.target, proof_timeout_s=3.0)
    world = ClusterWorld(replace(hurried, settings=standard.world()._target.settings), standard.stage.api())
    with pytest.raises(FailedError, match=r"not proved within 3 s: .* of 2 .*; it has its 10 % again, proved"):
        promote(hurried, world, standard.uri("b"), by="anna", canary=50)
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


def test_a_release_with_fewer_pods_that_fails_cost_the_one_before_none(standard: Standard) -> None:
    begun = len(standard.player.stable) - 1
    standard.ways[standard.uri("b")] = CRASHES
    with pytest.raises(FailedError, match="serves again, proved"):
        standard.promote("b", min_replicas=1)
    assert {each[1] for each in standard.player.stable[begun:]} == {3}
    assert standard.stage.service()["spec"]["predictor"]["minReplicas"] == 3


def test_a_canary_that_somebody_took_away_is_told_and_rolled_back(standard: Standard) -> None:
    standard.promote("b", canary=10)
    patch = {"spec": {"canary": None}}
    base = f"/apis/serving.kserve.io/v1beta1/namespaces/{standard.stage.target.namespace}/inferenceservices"
    standard.stage.api().patch(f"{base}/{standard.stage.target.name}", patch, fieldManager="bob")
    with pytest.raises(FailedError, match="its canary was taken away meanwhile"):
        standard.promote("b", canary=20)
    assert standard.stage.statuses() == ["live", "failed"]


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
