"""Promotions while the cluster, the network or the promoter itself goes away; two promoters; leases."""

from __future__ import annotations

import copy
import socket
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from evctl.errors import ConflictError, EvctlError, FailedError, UnavailableError
from evctl.kube import KubeApi
from evctl.rollout.cluster import ConfigMapLedger, bounded
from evctl.rollout.ledger import Ledger, Release
from evctl.rollout.promotion import promote, rollback
from evctl.rollout.serving.kserve import ClusterWorld
from tests.cluster.harness import Cluster
from tests.cluster.player import recorded
from tests.cluster.stage import CREATE, GOOD, Stage
from tests.cluster.waiting import Background, under_way, until


@pytest.mark.slow
def test_a_promotion_outlives_an_api_server_that_is_away_for_twenty_seconds(
    serving: Stage, own_cluster: Cluster
) -> None:
    going = Background(lambda: serving.promote("b"))
    until(under_way(serving, "b"))
    gone = time.monotonic()
    with own_cluster.without_api():
        until(lambda: any("waiting: the Kubernetes API" in line for line in serving.told))
        time.sleep(max(0.0, 16.0 - (time.monotonic() - gone)))
    assert time.monotonic() - gone >= 18.0
    assert going.result().model == serving.models["b"].version
    assert serving.statuses() == ["superseded", "live"]


def test_a_promotion_outlives_a_restart_of_etcd(serving: Stage, own_cluster: Cluster) -> None:
    going = Background(lambda: serving.promote("b"))
    until(under_way(serving, "b"))
    own_cluster.stop_etcd()
    time.sleep(1.0)
    own_cluster.start_etcd()
    assert going.result().model == serving.models["b"].version
    assert serving.statuses() == ["superseded", "live"]


def test_a_dead_api_server_is_told_at_once_where_nothing_was_begun(serving: Stage, own_cluster: Cluster) -> None:
    world = serving.world()
    with own_cluster.without_api():
        start = time.monotonic()
        with pytest.raises(UnavailableError) as told:
            serving.promote_in(world, "b")
        assert time.monotonic() - start < 5.0
    assert told.value.exit_code == 9


def test_of_two_promoters_at_once_one_is_told_who_the_other_is(serving: Stage) -> None:
    going = Background(lambda: serving.promote("b"))
    until(under_way(serving, "b"))
    with pytest.raises(ConflictError, match=r"anna, process \d+ .* is promoting"):
        serving.promote("c")
    assert going.result().changed


def test_a_change_by_somebody_else_in_mid_promotion_is_told_and_left(serving: Stage) -> None:
    going = Background(lambda: serving.promote("b"))
    until(under_way(serving, "b"))
    service = serving.service()
    service["spec"]["predictor"]["model"]["storageUri"] = "s3://theirs/"
    service["metadata"]["annotations"]["evctl/revision"] = "by hand"
    where = f"/apis/serving.kserve.io/v1beta1/namespaces/{serving.target.namespace}/inferenceservices"
    until(lambda: replaced(serving, where, service))
    with pytest.raises(FailedError, match=r"was changed by .*: s3://theirs/.*it was left as it is"):
        going.result()
    assert serving.service()["spec"]["predictor"]["model"]["storageUri"] == "s3://theirs/"


def replaced(stage: Stage, where: str, body: dict[str, Any]) -> bool:
    body["metadata"]["resourceVersion"] = stage.service()["metadata"]["resourceVersion"]
    try:
        stage.api().replace(f"{where}/{stage.target.name}", body)
    except ConflictError:
        return False  # the player wrote a status in between
    return True


def test_a_service_deleted_in_mid_promotion_is_told_and_the_one_before_made_again_once_it_is_gone(
    serving: Stage,
) -> None:
    """A finalizer holds it, as KServe's own does: what is written to it in the meantime would go with it."""
    serving.plays("a", CREATE)
    base = f"/apis/serving.kserve.io/v1beta1/namespaces/{serving.target.namespace}/inferenceservices"
    path = f"{base}/{serving.target.name}"
    going = Background(lambda: serving.promote("b"))
    until(under_way(serving, "b"))
    serving.api().patch(path, {"metadata": {"finalizers": ["tests/held"]}})
    serving.api().delete(path)
    time.sleep(1.5)
    assert going.is_alive(), "what is being deleted is waited for"
    serving.api().patch(path, {"metadata": {"finalizers": None}})
    with pytest.raises(FailedError, match=r"is being deleted, since .*tests/held; .* serves again, proved"):
        going.result()
    assert serving.world().read().digest == serving.models["a"].digest


def test_two_writers_of_the_ledger_one_is_told(serving: Stage) -> None:
    store = serving.world().ledger()
    ledger, token = store.read()
    store.write(ledger.begin(ledger.releases[0], 50)[0], token)
    with pytest.raises(ConflictError, match="changed by somebody else"):
        store.write(ledger, token)
    with pytest.raises(ConflictError):
        ConfigMapLedger(serving.api(), serving.target.namespace, serving.target.name).write(Ledger(), None)


def test_a_write_of_the_ledger_whose_answer_was_lost_counts_as_written(serving: Stage) -> None:
    api = serving.api()

    class Losing(ConfigMapLedger):
        lost = 0

        def _write(self, text: str, token: str | None) -> str:
            written = super()._write(text, token)
            if not self.lost:
                self.lost += 1
                raise UnavailableError("the answer was lost")
            return written

    store = Losing(api, serving.target.namespace, serving.target.name)
    ledger, token = store.read()
    longer, _ = ledger.begin(ledger.releases[0], 50)
    store.write(longer, token)
    assert (store.lost, len(store.read()[0].releases)) == (1, 2)


def test_the_ledger_stays_far_under_a_configmaps_mebibyte() -> None:
    spec = {"annotations": {"x": "y" * 9_000}}
    release = Release(0, "v", "u", "d", None, "pending", "t", "me", spec=spec)
    ledger = Ledger()
    for _ in range(150):
        ledger, begun = ledger.begin(release, 200)
        ledger = ledger.ended(begun.revision, "live")
    small = bounded(ledger)
    assert len(small.to_json()) <= 900_000 < len(ledger.to_json())
    assert small.live == ledger.live
    assert small.revision == ledger.revision


def test_history_outlives_the_service(serving: Stage) -> None:
    where = f"/apis/serving.kserve.io/v1beta1/namespaces/{serving.target.namespace}/inferenceservices"
    serving.promote("b")
    serving.api().delete(f"{where}/{serving.target.name}")
    assert serving.statuses() == ["superseded", "live"]
    serving.plays("a", CREATE)
    assert rollback(serving.target, serving.world(), by="anna").model == serving.models["a"].version


@pytest.mark.slow
def test_in_real_time_a_ready_pod_is_a_success_within_two_seconds_and_a_failing_one_told_within_five(
    stage: Stage,
) -> None:
    stage.plays("a", CREATE, "4_rollback_after_bad_uri")
    stage.plays("b", "3_update_bad_uri")
    stage.plays("c", GOOD)
    stage.start(speed=1.0)
    stage.promote("a")
    with pytest.raises(FailedError, match="storage-initializer failed"):
        stage.promote("b")
    failed = stage.when(lambda frame: _restarted(frame))
    undone = next(at for at, uri, _ in stage.frames if uri == stage.models["a"].uri and at > failed)
    assert undone - failed < 5.0
    stage.promote("c")
    ended = time.monotonic()
    ready = stage.when(lambda frame: frame["t"] == 16.0)
    assert 0 <= ended - ready < 2.0


def _restarted(frame: Any) -> bool:
    return any(each["restartCount"] for pod in frame["pods"] for each in pod["init"])


def test_a_pod_without_a_node_is_given_up_unless_a_node_is_being_made_for_it(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Frames of a pod that finds no node are made from the good update's first one."""
    monkeypatch.setattr("evctl.rollout.serving.kserve_proof.UNSCHEDULABLE_S", 2.0)
    first = copy.deepcopy(dict(recorded(GOOD)[0]))
    pod = next(each for each in first["pods"] if each["phase"] == "Pending")
    pod["conditions"], pod["init"], pod["containers"] = {"PodScheduled": "False"}, [], []
    pod["reasons"] = {"PodScheduled": ("Unschedulable", "0/3 nodes are available: 3 Insufficient memory.")}
    stage.plays("a", CREATE, "4_rollback_after_bad_uri", "4_rollback_after_bad_uri")
    stage.plays("b", [first])
    stage.start()
    stage.promote("a")
    with pytest.raises(FailedError, match=r"finds no node: 0/3 nodes are available: 3 Insufficient memory\."):
        stage.promote("b")
    hurried = replace(stage.target, proof_timeout_s=4.0)
    going = Background(lambda: promote(hurried, ClusterWorld(hurried, stage.api()), stage.models["b"].uri, by="anna"))
    pods = f"/api/v1/namespaces/{stage.target.namespace}/pods"
    until(lambda: len(stage.api().list(pods)) == 2)
    for each in stage.api().list(pods):
        grows(stage, each["metadata"]["name"])
    with pytest.raises(FailedError, match=r"not proved within 4 s: 0 of 1 new pods ready"):
        going.result()


def grows(stage: Stage, pod: str) -> None:
    body = {
        "apiVersion": "v1", "kind": "Event", "metadata": {"name": f"{pod}.1"}, "reason": "TriggeredScaleUp",
        "type": "Normal", "message": "pod triggered scale-up",
        "involvedObject": {"kind": "Pod", "name": pod, "namespace": stage.target.namespace},
    }  # fmt: skip
    stage.api().create(f"/api/v1/namespaces/{stage.target.namespace}/events", body)


def test_a_promotion_that_takes_too_long_is_taken_back_with_the_last_it_knew(stage: Stage) -> None:
    stage.plays("a", CREATE, "4_rollback_after_bad_uri")
    stage.start()
    stage.promote("a")
    hurried = replace(stage.target, proof_timeout_s=1.5)
    with pytest.raises(EvctlError, match=r"not proved within 2 s: KServe has not taken the change up yet"):
        promote(hurried, ClusterWorld(hurried, stage.api()), stage.models["c"].uri, by="anna")
    assert stage.statuses() == ["live", "failed"]


@pytest.fixture
def hanging_node(admin: KubeApi, own_cluster: Cluster) -> Iterator[None]:
    """The played pods' node, whose kubelet takes connections and says nothing: as one that is out of memory does."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as kubelet:
        admin.create("/api/v1/nodes", {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "played"}})
        addresses = [{"type": "InternalIP", "address": "127.0.0.1"}]
        endpoint = {"kubeletEndpoint": {"Port": kubelet.getsockname()[1]}}
        admin.patch("/api/v1/nodes/played/status", {"status": {"addresses": addresses, "daemonEndpoints": endpoint}})
        yield
        admin.delete("/api/v1/nodes/played")


def test_a_log_that_hangs_does_not_hold_a_verdict_up(
    stage: Stage, hanging_node: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    undo, judged = ClusterWorld.undo, list[float]()

    def recorded_undo(*args: Any) -> None:
        judged.append(time.monotonic())
        undo(*args)

    monkeypatch.setattr(ClusterWorld, "undo", recorded_undo)
    stage.plays("a", CREATE, "6_rollback_after_corrupt")
    stage.plays("b", "5_update_corrupt")
    stage.start()
    stage.promote("a")
    with pytest.raises(FailedError, match=r"ended twice \(exit code 1\); .* serves again, proved"):
        stage.promote("b")
    assert judged[0] - stage.when(lambda frame: frame["t"] == 28.7) < 5.0


def test_a_kserve_that_rejects_the_mode_is_told_by_its_event(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """KServe 0.15, which takes its default mode for one that it does not know, on a cluster without Knative."""
    monkeypatch.setattr("evctl.rollout.serving.kserve_proof.STALE_S", 1.0)
    monkeypatch.setattr("evctl.rollout.serving.kserve_objects.STALE_S", 1.0)
    going = Background(lambda: stage.promote("a"))
    until(lambda: stage.world().read().state != "absent")
    metadata = stage.service()["metadata"]
    about = {"kind": "InferenceService", **{key: metadata[key] for key in ("name", "namespace", "uid")}}
    body = {
        "apiVersion": "v1", "kind": "Event", "metadata": {"name": "rejected"}, "type": "Warning",
        "reason": "ServerlessModeRejected", "message": "Knative Services are not available", "involvedObject": about,
    }  # fmt: skip
    stage.api().create(f"/api/v1/namespaces/{stage.target.namespace}/events", body)
    with pytest.raises(FailedError, match="does not act on it: ServerlessModeRejected: Knative Services are not"):
        going.result(30.0)
    assert stage.world().read().state == "absent"
