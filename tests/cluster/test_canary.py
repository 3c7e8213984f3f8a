"""Knative mode on a real API server: promotion by revisions, canaries, and the API's proxy as the way to a new pod."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from evctl.errors import FailedError, RefusedError, UnavailableError
from evctl.kube import KubeApi
from evctl.rollout.predicting import predict_file
from evctl.rollout.promotion import promote, rollback
from evctl.rollout.serving import kserve_spec
from tests.cluster.answering import ModelServer
from tests.cluster.canaries import Canaries, playing
from tests.cluster.knative import KnativePlayer
from tests.cluster.playing import CRASHES
from tests.cluster.routing import Routed
from tests.cluster.stage import CREATE, SESSION, Stage
from tests.cluster.waiting import until


class Knative(Canaries):
    """A Knative service; `pods` stands for the newest revision's pod."""

    def traffic(self) -> list[tuple[str, int]]:
        last: list[tuple[str, int]] = self.player.history[-1]
        return last


@pytest.fixture
def knative(stage: Stage, own_address: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Knative]:
    pods = ModelServer(own_address)
    pods.bundles = stage.server.bundles
    monkeypatch.setattr(kserve_spec, "CONTAINER_PORT", pods.port)
    ways: dict[str, str] = {}

    def routed(shares: list[tuple[str, int]]) -> None:
        stage.server.active = shares[0][0] if shares else None
        pods.active = player.newest

    player = KnativePlayer(
        stage.api(), namespace=stage.target.namespace, service=stage.target.name, ways=ways,
        url=stage.server.url, pod_ip=own_address, on_traffic=routed,
    )  # fmt: skip
    with playing(Knative(stage, pods, ways, player, {"mode": "Knative"}), player) as made:
        yield made


def test_a_new_revision_gets_all_requests_once_it_is_ready(knative: Knative) -> None:
    done = knative.promote("b")
    assert (done.revision, done.previous) == (2, knative.stage.models["a"].version)
    assert knative.traffic() == [(knative.uri("b"), 100)]
    assert knative.stage.service()["spec"]["predictor"].get("canaryTrafficPercent") is None


def test_a_revision_that_crashes_is_taken_back_and_never_got_a_request(knative: Knative) -> None:
    knative.ways[knative.uri("b")] = CRASHES
    with pytest.raises(FailedError, match=r"was restarted 2 times \(exit code 1\): refused: GoldenMismatch"):
        knative.promote("b")
    routed = [uri for shares in knative.player.history for uri, share in shares if share]
    assert set(routed) == {knative.uri("a")}


def test_a_canary_gets_its_share_and_then_all_by_promote(knative: Knative) -> None:
    begun = knative.promote("b", canary=10)
    assert begun.revision == 2
    assert knative.traffic() == [(knative.uri("b"), 10), (knative.uri("a"), 90)]
    assert knative.stage.statuses() == ["live", "pending"]
    with pytest.raises(RefusedError, match=r"a canary of .* gets 10 % of the requests"):
        knative.promote("c")
    more = knative.promote("b", canary=40)
    assert more.revision == 2
    assert knative.traffic() == [(knative.uri("b"), 40), (knative.uri("a"), 60)]
    done = knative.promote("b")
    assert (done.changed, done.revision) == (True, 2)
    assert knative.traffic() == [(knative.uri("b"), 100)]
    assert knative.stage.statuses() == ["superseded", "live"]
    assert len(knative.player._made) == 2, "the share alone makes no new revision"


def test_a_canary_is_taken_back_by_rollback_without_a_request_too_many(knative: Knative) -> None:
    knative.promote("b", canary=10)
    before = len(knative.player.history)
    done = rollback(knative.stage.target, knative.world(), by="anna")
    assert (done.model, done.previous) == (knative.stage.models["a"].version, knative.stage.models["b"].version)
    assert knative.traffic() == [(knative.uri("a"), 100)]
    later = [shares for shares in knative.player.history[before:] for uri, share in shares if uri == knative.uri("b")]
    assert not [shares for shares in later if dict(shares)[knative.uri("b")] > 10]
    assert knative.stage.statuses() == ["live", "rolled_back"]


def test_a_canary_that_does_not_come_to_a_larger_share_keeps_the_one_that_was_proved(knative: Knative) -> None:
    knative.promote("b", canary=10)
    knative.player.most = 20
    with pytest.raises(FailedError, match=r"gets 20 of 50 % of the requests.*; it has its 10 % again, proved"):
        knative.promote_hurried("b", canary=50)
    assert knative.traffic() == [(knative.uri("b"), 10), (knative.uri("a"), 90)]
    assert knative.stage.statuses() == ["live", "pending"]
    canary = knative.world().ledger().read()[0].canary
    assert canary is not None
    assert canary.canary == 10


def test_a_canary_that_answers_wrong_when_it_is_given_more_is_ended(knative: Knative) -> None:
    knative.promote("b", canary=10)
    knative.pods.ways[knative.uri("b")] = "wrong"
    with pytest.raises(FailedError, match=r"golden rows differ by 0\.25.*; .* serves again, proved"):
        knative.promote("b", canary=50)
    assert knative.traffic() == [(knative.uri("a"), 100)]
    assert knative.stage.statuses() == ["live", "failed"]


def test_a_canary_whose_pod_answers_wrong_is_taken_back(knative: Knative) -> None:
    knative.pods.ways[knative.uri("b")] = "wrong"
    with pytest.raises(FailedError, match=r"golden rows differ by 0\.25.*; .* serves again, proved"):
        knative.promote("b", canary=10)
    assert knative.traffic() == [(knative.uri("a"), 100)]
    assert knative.stage.statuses() == ["live", "failed"]


def test_predict_asks_a_ready_pod_of_the_revision_that_serves(
    knative: Knative, real_predictor: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the service's address is not for us, and `<service>-predictor` is but a name of the gateway's."""
    knative.player.url = "http://x-predictor.t.svc.cluster.local"
    until(lambda: "x-predictor" in str(knative.world().read().url))
    monkeypatch.setattr(kserve_spec, "CONTAINER_PORT", real_predictor)
    answer = predict_file(knative.stage.target, knative.world(), SESSION)
    assert answer["model"]["version"] == knative.stage.models["a"].version
    assert answer["sessions"]
    knative.player.scale_to_zero()
    with pytest.raises(UnavailableError, match="has no pod that is ready"):
        predict_file(knative.stage.target, knative.world(), SESSION)


def test_an_idle_service_serves_and_goes_on_from_there(knative: Knative) -> None:
    """Scaled to zero after its proof: no pod, and a status of KServe's that says it is being loaded."""
    knative.player.scale_to_zero()
    assert knative.stage.api().list(f"/api/v1/namespaces/{knative.stage.target.namespace}/pods") == []
    serving = knative.world().read()
    assert (serving.state, serving.detail) == ("serving", "")
    assert knative.promote("a").changed is False
    assert knative.promote("b").changed


def test_a_canary_that_became_idle_is_promoted_without_a_pod_to_ask(knative: Knative) -> None:
    """As from an operator's machine, from where the service's address would not wake it."""
    knative.player.url = "http://x-predictor.t.svc.cluster.local"
    knative.promote("b", canary=10)
    knative.player.scale_to_zero()
    done = knative.promote("b")
    assert (done.changed, done.revision) == (True, 2)
    assert knative.traffic() == [(knative.uri("b"), 100)]
    assert knative.stage.statuses() == ["superseded", "live"]


def test_a_service_that_is_out_of_reach_is_asked_through_the_kubernetes_api(
    stage: Stage, own_address: str, admin: KubeApi
) -> None:
    """As from an operator's machine: the service's name means nothing there."""
    pods = ModelServer(own_address)
    pods.bundles = stage.server.bundles
    pods.active = stage.models["a"].uri
    stage.plays("a", CREATE)
    stage.start(url="http://x-predictor.t.svc.cluster.local", pod_ip=own_address)
    routed = Routed(admin, stage.target, own_address, pods.port)
    done = promote(stage.target, stage.world(), stage.models["a"].uri, by="anna", tell=lambda line: routed.follow())
    assert done.changed
    assert pods.asked >= 2
    assert stage.server.asked == 0
    pods.stop()
