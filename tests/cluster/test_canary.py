"""Knative mode on a real API server: promotion by revisions, canaries, and the API's proxy as the way to a new pod."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest

from evctl.errors import FailedError, RefusedError
from evctl.kube import KubeApi
from evctl.rollout.promotion import Outcome, promote, rollback
from evctl.rollout.serving import kserve_spec
from evctl.rollout.serving.kserve import ClusterWorld
from tests.cluster.answering import ModelServer
from tests.cluster.knative import KnativePlayer
from tests.cluster.playing import CRASHES
from tests.cluster.stage import CREATE, Stage


@pytest.fixture
def own_address() -> str:
    """This machine's own address: the API server proxies to no loopback one."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # sends nothing: only the route is looked up
        except OSError:
            pytest.skip("this machine has no address but loopback, to which the API server does not proxy")
        address = str(probe.getsockname()[0])
    if address.startswith("127."):
        pytest.skip("this machine has no address but loopback, to which the API server does not proxy")
    return address


@dataclass
class Knative:
    """A Knative service with model a live; `pods` stands for the newest revision's pod."""

    stage: Stage
    player: KnativePlayer
    pods: ModelServer
    ways: dict[str, str] = field(default_factory=dict)

    def world(self) -> ClusterWorld:
        return self.stage.world(mode="Knative")

    def promote(self, model: str, canary: int | None = None) -> Outcome:
        world, uri = self.world(), self.stage.models[model].uri
        return promote(self.stage.target, world, uri, by="anna", canary=canary, tell=self.stage.told.append)

    def traffic(self) -> list[tuple[str, int]]:
        return self.player.history[-1]

    def uri(self, model: str) -> str:
        return self.stage.models[model].uri


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
    player.start()
    made = Knative(stage, player, pods, ways)
    made.promote("a")
    yield made
    player.stop()
    pods.stop()


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


def test_a_canary_whose_pod_answers_wrong_is_taken_back(knative: Knative) -> None:
    knative.pods.ways[knative.uri("b")] = "wrong"
    with pytest.raises(FailedError, match=r"golden rows differ by 0\.25.*; .* serves again, proved"):
        knative.promote("b", canary=10)
    assert knative.traffic() == [(knative.uri("a"), 100)]
    assert knative.stage.statuses() == ["live", "failed"]


def test_a_service_that_is_out_of_reach_is_asked_through_the_kubernetes_api(
    stage: Stage, own_address: str, admin: KubeApi
) -> None:
    """As from an operator's machine: the service's name means nothing there."""
    pods = ModelServer(own_address)
    pods.bundles = stage.server.bundles
    pods.active = stage.models["a"].uri
    stage.plays("a", CREATE)
    stage.start(url="http://x-predictor.t.svc.cluster.local", pod_ip=own_address)
    service = f"{stage.target.name}-predictor"
    labels = {"serving.kserve.io/inferenceservice": stage.target.name}
    spec = {"selector": labels, "ports": [{"name": "http", "port": 80, "targetPort": pods.port}]}
    base = f"/api/v1/namespaces/{stage.target.namespace}"
    admin.create(
        f"{base}/services", {"apiVersion": "v1", "kind": "Service", "metadata": {"name": service}, "spec": spec}
    )

    def endpoints(line: str) -> None:
        found = admin.list(f"{base}/pods")
        if not found or asked:
            return
        asked.append(line)
        reference = {"kind": "Pod", "name": found[0]["metadata"]["name"], "namespace": stage.target.namespace}
        address = {"ip": own_address, "targetRef": reference}
        subset = {"addresses": [address], "ports": [{"name": "http", "port": pods.port}]}
        body = {"apiVersion": "v1", "kind": "Endpoints", "metadata": {"name": service}, "subsets": [subset]}
        admin.create(f"{base}/endpoints", body)

    asked: list[str] = []
    done = promote(stage.target, stage.world(), stage.models["a"].uri, by="anna", tell=endpoints)
    assert done.changed
    assert pods.asked >= 2
    assert stage.server.asked == 0
    pods.stop()
