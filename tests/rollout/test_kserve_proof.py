"""The verdict over what a cluster shows: the recorded timelines frame by frame, and the states they lack."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from evctl.rollout.serving.kserve_proof import UNSCHEDULABLE_S, Observed, Verdict, Wanted, judge, serves

RECORDINGS = Path(__file__).parents[1] / "recordings" / "kserve-standard"
SOURCE = "internal.serving.kserve.io/storage-initializer-sourceuri"
NAME = "ev-battery-fault-classifier"
Object = dict[str, Any]


def frames(name: str) -> list[Object]:
    found: list[Object] = json.loads((RECORDINGS / f"{name}.json").read_text())
    return found


def service(uri: str, status: Object | None = None) -> Object:
    return {
        "metadata": {"name": NAME, "annotations": {"evctl/revision": "2"}, "managedFields": []},
        "spec": {"predictor": {"model": {"storageUri": uri}}},
        "status": status or {},
    }


def deployment(uri: str, status: Object, *, generation: int = 2) -> Object:
    notes = {SOURCE: uri, "evctl/revision": "2"}
    return {
        "metadata": {"name": f"{NAME}-predictor", "generation": generation},
        "spec": {"replicas": 1, "template": {"metadata": {"annotations": notes}}},
        "status": status,
    }


def pod(uri: str, *, name: str = "new", going: bool = False, **status: Any) -> Object:
    metadata: Object = {"name": name, "annotations": {SOURCE: uri}, "labels": {}}
    if going:
        metadata["deletionTimestamp"] = "2026-11-23T07:00:00Z"
    return {"metadata": metadata, "status": {"phase": "Running", **status}}


def seen_in(frame: Object, uri: str) -> Observed:
    """Return a recorded frame as it is observed; the pod that appears with the change is the new one's."""
    made = [
        deployment(each["sourceuri"], each["status"], generation=each["generation"]) for each in frame["deployments"]
    ]
    known = {"57949f8cbb": "s3://models/ev/v1/", "58b4d77955": "s3://models/ev/v2/"}
    pods = []
    for each in frame["pods"]:
        origin = known.get(each["name"].split("-")[-2], uri)
        pods.append(
            pod(
                origin, name=each["name"], going=bool(each["deletionTimestamp"]), phase=each["phase"],
                conditions=[{"type": kind, "status": value} for kind, value in each["conditions"].items()],
                initContainerStatuses=each["init"], containerStatuses=each["containers"],
            )
        )  # fmt: skip
    return Observed(service(uri, frame["inferenceservice"]["status"]), pods, made[0], since=frame["t"])


def verdicts(name: str) -> list[tuple[float, Verdict]]:
    found = []
    for frame in frames(name):
        uri = frame["inferenceservice"]["storageUri"]
        wanted = Wanted(NAME, uri, "2", "Standard")
        found.append((frame["t"], judge(wanted, seen_in(frame, uri))))
    return found


@pytest.mark.parametrize(
    ("name", "state", "at"),
    [
        ("1_create_settled", "rolled_out", 0.3),
        ("2_update_good", "rolled_out", 16.0),
        ("3_update_bad_uri", "failed", 4.5),
        ("4_rollback_after_bad_uri", "rolled_out", 0.8),
        ("5_update_corrupt", "failed", 28.7),
        ("6_rollback_after_corrupt", "rolled_out", 17.1),
        ("7_update_empty_dir", "rolled_out", 17.2),
        ("8_back_to_v1", "rolled_out", 15.3),
    ],
)
def test_each_recorded_timeline_ends_where_its_pods_do(name: str, state: str, at: float) -> None:
    told = verdicts(name)
    first = next((t, verdict.state) for t, verdict in told if verdict.state != "waiting")
    assert first == (at, state)


def test_the_reason_names_the_container_and_whose_log_has_the_last_word() -> None:
    verdict = next(v for _, v in verdicts("5_update_corrupt") if v.state == "failed")
    assert verdict.told.endswith("kserve-container ended twice (exit code 1)")
    assert (verdict.container, verdict.previous) == ("kserve-container", False)


def judged(*pods: Object, **observed: Any) -> Verdict:
    uri = "s3://m/2/"
    rolling = {"observedGeneration": 2, "replicas": 2, "updatedReplicas": 1, "availableReplicas": 1}
    given: dict[str, Any] = {"deployment": deployment(uri, rolling), "since": 8.0, **observed}
    return judge(Wanted(NAME, uri, "2", "Standard"), Observed(service(uri), pods, **given))


def waiting(reason: str) -> Object:
    return {"name": "kserve-container", "restartCount": 0, "state": {"waiting": {"reason": reason, "message": "so"}}}


@pytest.mark.parametrize(
    ("reason", "state"),
    [
        ("ErrImagePull", "waiting"),
        ("ContainerCreating", "waiting"),
        ("ImagePullBackOff", "failed"),
        ("InvalidImageName", "failed"),
        ("CreateContainerConfigError", "failed"),
    ],
)
def test_only_a_hopeless_wait_ends_a_promotion(reason: str, state: str) -> None:
    verdict = judged(pod("s3://m/2/", containerStatuses=[waiting(reason)]))
    assert verdict.state == state
    assert reason in verdict.told


def test_the_first_restart_is_forgiven_and_the_second_is_not() -> None:
    once = {"name": "kserve-container", "restartCount": 1, "state": {"running": {}}}
    assert judged(pod("s3://m/2/", containerStatuses=[once])).state == "waiting"
    ended = {"exitCode": 137, "reason": "OOMKilled"}
    twice = {**once, "restartCount": 2, "lastState": {"terminated": ended}}
    verdict = judged(pod("s3://m/2/", containerStatuses=[twice]))
    assert verdict.told == "pod new, kserve-container was restarted 2 times (exit code 137), OOMKilled"


def test_the_storage_initializers_own_message_is_kept() -> None:
    ended = {"exitCode": 1, "reason": "Error", "message": "INFO copying\nERROR No model found in ev/nope/."}
    failed = {"name": "storage-initializer", "restartCount": 0, "state": {"terminated": ended}}
    verdict = judged(pod("s3://m/2/", initContainerStatuses=[failed]))
    assert verdict.state == "failed"
    assert verdict.words.endswith("No model found in ev/nope/.")


def test_a_pod_without_a_node_fails_after_the_grace_only() -> None:
    nowhere = [{"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/3 nodes: cpu"}]
    lonely = pod("s3://m/2/", phase="Pending", conditions=nowhere)
    assert judged(lonely, unschedulable={"new": 1.0}).state == "waiting"
    verdict = judged(lonely, unschedulable={"new": UNSCHEDULABLE_S})
    assert verdict.told == "pod new finds no node: 0/3 nodes: cpu"


def test_pods_of_older_releases_may_fail_as_they_like() -> None:
    crashed = {"name": "kserve-container", "restartCount": 9, "state": {"waiting": {"reason": "CrashLoopBackOff"}}}
    assert judged(pod("s3://m/1/", containerStatuses=[crashed])).state == "waiting"
    assert judged(pod("s3://m/2/", going=True, containerStatuses=[crashed])).state == "waiting"


def test_an_old_pod_that_still_serves_is_waited_for() -> None:
    uri = "s3://m/2/"
    done = {"observedGeneration": 2, "replicas": 1, "updatedReplicas": 1, "availableReplicas": 1}
    ready = [{"type": "Ready", "status": "True"}]
    both = (pod(uri, conditions=ready), pod("s3://m/1/", name="old", conditions=ready))
    given = {"deployment": deployment(uri, done)}
    assert judged(*both, **given).state == "waiting"
    assert judged(both[0], pod("s3://m/1/", name="old", going=True), **given).state == "rolled_out"
    stale = {"deployment": deployment(uri, {**done, "observedGeneration": 1})}
    assert judged(both[0], **stale).state == "waiting", "the status is the previous template's"


def test_a_service_serves_while_a_release_rolls_out_and_when_it_lost_one_of_its_pods() -> None:
    uri = "s3://m/2/"
    wanted = Wanted(NAME, uri, "2", "Standard")
    status = {"observedGeneration": 2, "replicas": 2, "updatedReplicas": 2, "availableReplicas": 1}
    made = deployment(uri, status)
    made["spec"]["replicas"] = 2
    conditions = [{"type": "Ready", "status": "True"}]
    ready, starts = pod(uri, conditions=conditions), pod(uri, name="again")
    old, going = (pod("s3://m/1/", name="old", going=each, conditions=conditions) for each in (False, True))
    for pods, expected in (([ready, starts], True), ([starts], False), ([starts, old], True), ([starts, going], False)):
        seen = Observed(service(uri), pods, made)
        verdict = judge(wanted, seen)
        assert verdict.state == "waiting"
        assert serves(seen, verdict) is expected


def test_another_revision_of_the_same_model_is_not_this_one() -> None:
    uri = "s3://m/2/"
    done = {"observedGeneration": 2, "replicas": 1, "updatedReplicas": 1, "availableReplicas": 1}
    older = deployment(uri, done)
    older["spec"]["template"]["metadata"]["annotations"]["evctl/revision"] = "1"
    assert judged(deployment=older).told == "KServe has not taken the change up yet"


def test_a_deployment_that_can_make_no_pods_fails_with_its_own_words() -> None:
    condition = {"type": "ReplicaFailure", "status": "True", "reason": "FailedCreate", "message": "quota exceeded"}
    made = deployment("s3://m/2/", {"observedGeneration": 2, "conditions": [condition]})
    assert judged(deployment=made).told == "FailedCreate: quota exceeded"


def test_a_service_that_is_being_deleted_is_no_success_however_ready_its_pods_are() -> None:
    uri = "s3://m/2/"
    going = service(uri)
    going["metadata"] |= {"deletionTimestamp": "2026-11-23T07:00:00Z", "finalizers": ["inferenceservice.finalizers"]}
    done = {"observedGeneration": 2, "replicas": 1, "updatedReplicas": 1, "availableReplicas": 1}
    ready = pod(uri, conditions=[{"type": "Ready", "status": "True"}])
    verdict = judge(Wanted(NAME, uri, "2", "Standard"), Observed(going, [ready], deployment(uri, done)))
    assert verdict.state == "failed"
    assert "is being deleted, since 2026-11-23T07:00:00Z, and held by the finalizer inferences" in verdict.told


@pytest.mark.parametrize("told", ["RawDeployment", "Serverless"])
def test_a_kserve_that_does_not_know_the_mode_is_not_waited_for_until_the_deadline(told: str) -> None:
    """One that knows today's names writes them into the status."""
    uri = "s3://m/2/"
    wanted, found = Wanted(NAME, uri, "2", "Standard"), service(uri, {"deploymentMode": told})
    assert judge(wanted, Observed(found, since=1.0)).state == "waiting"
    verdict = judge(wanted, Observed(found, since=6.0))
    assert verdict.state == "failed"
    assert f"calls the mode {told}: 0.15 and older do not know the name" in verdict.told


@pytest.mark.parametrize("key", ["stop", "disable-auto-update"])
def test_a_service_on_which_kserve_does_not_act_is_not_waited_for(key: str) -> None:
    uri = "s3://m/2/"
    paused = service(uri)
    paused["metadata"]["annotations"][f"serving.kserve.io/{key}"] = "true"
    verdict = judge(Wanted(NAME, uri, "2", "Standard"), Observed(paused))
    assert verdict == Verdict("failed", f"serving.kserve.io/{key}=true: KServe does not act on it")


def test_an_event_of_kserve_that_rejects_the_mode_ends_the_wait() -> None:
    uri = "s3://m/2/"
    seen = Observed(service(uri), since=6.0, rejected="ServerlessModeRejected: Knative Services are not available")
    verdict = judge(Wanted(NAME, uri, "2", "Standard"), seen)
    assert verdict == Verdict(
        "failed", "KServe does not act on it: ServerlessModeRejected: Knative Services are not available"
    )


def test_a_mode_that_cannot_be_proved_is_not_taken_for_standard() -> None:
    uri = "s3://m/2/"
    assert "runs in mode ModelMesh" in judge(Wanted(NAME, uri, "2", "ModelMesh"), Observed(service(uri))).told


def test_an_invalid_spec_counts_once_it_cannot_be_the_previous_ones() -> None:
    uri = "s3://m/2/"
    info = {"reason": "NoSupportingRuntime", "message": "no runtime"}
    status = {"modelStatus": {"transitionStatus": "InvalidSpec", "lastFailureInfo": info}}
    wanted = Wanted(NAME, uri, "2", "Standard")
    assert judge(wanted, Observed(service(uri, status), since=1.0)).state == "waiting"
    assert judge(wanted, Observed(service(uri, status), since=9.0)).told == (
        "KServe refuses it: NoSupportingRuntime: no runtime"
    )


def test_a_service_that_was_deleted_or_changed_is_told_with_who_did() -> None:
    uri = "s3://m/2/"
    wanted = Wanted(NAME, uri, "2", "Standard")
    assert "was deleted meanwhile" in judge(wanted, Observed(None)).told
    other = copy.deepcopy(service("s3://theirs/"))
    other["metadata"]["managedFields"] = [{"manager": "kubectl-edit", "time": "2026-11-23T07:00:00Z"}]
    assert judge(wanted, Observed(other)).told == (
        f"InferenceService {NAME} was changed by kubectl-edit at 2026-11-23T07:00:00Z: s3://theirs/"
    )


def knative(created: str, ready: str, traffic: list[tuple[str, int]], *, uri: str = "s3://m/2/") -> Object:
    notes = {SOURCE: uri, "evctl/revision": "2"}
    shares = [{"revisionName": name, "percent": percent} for name, percent in traffic]
    status = {
        "observedGeneration": 2, "latestCreatedRevisionName": created, "latestReadyRevisionName": ready,
        "traffic": shares,
    }  # fmt: skip
    return {"metadata": {"generation": 2}, "spec": {"template": {"metadata": {"annotations": notes}}}, "status": status}


def revision(ready: str = "True", uri: str = "s3://m/2/") -> Object:
    condition = {"type": "Ready", "status": ready, "reason": "ProgressDeadlineExceeded", "message": "no pod"}
    return {
        "metadata": {"name": "r2", "annotations": {SOURCE: uri, "evctl/revision": "2"}},
        "status": {"conditions": [condition]},
    }


@pytest.mark.parametrize(
    ("service_", "latest", "percent", "state", "told"),
    [
        (knative("r1", "r1", [("r1", 100)], uri="s3://m/1/"), revision(), 100, "waiting", "not taken the change up"),
        (knative("r2", "r1", [("r1", 100)]), revision("Unknown"), 100, "waiting", "r2 is not ready"),
        (knative("r2", "r2", [("r1", 100)]), revision(), 100, "waiting", "gets 0 of 100 %"),
        (knative("r2", "r2", [("r2", 100)]), revision(), 100, "rolled_out", "is ready and gets 100 %"),
        (knative("r2", "r2", [("r1", 90), ("r2", 10)]), revision(), 10, "rolled_out", "gets 10 %"),
        (knative("r2", "r1", [("r1", 100)]), revision("False"), 100, "failed", "ProgressDeadlineExceeded: no pod"),
    ],
)
def test_knatives_revision_must_be_ready_and_have_its_share(
    service_: Object, latest: Object, percent: int, state: str, told: str
) -> None:
    uri = "s3://m/2/"
    wanted = Wanted(NAME, uri, "2", "Knative", percent)
    verdict = judge(wanted, Observed(service(uri), knative=service_, latest=latest, since=9.0))
    assert verdict.state == state
    assert told in verdict.told


def test_an_idle_revision_whose_pods_went_serves_as_before() -> None:
    """Scaled to zero: KServe says InProgress, Pending (1.2 of the notes), Knative that nobody asks."""
    uri = "s3://m/2/"
    status = {"modelStatus": {"transitionStatus": "InProgress", "states": {"targetModelState": "Pending"}}}
    idle = revision()
    idle["status"]["conditions"].append({"type": "Active", "status": "False", "reason": "NoTraffic"})
    last = pod(uri, going=True, conditions=[{"type": "Ready", "status": "False"}])
    last["metadata"]["labels"] = {"serving.knative.dev/revision": "r2"}
    for pods in ([last], []):
        seen = Observed(
            service(uri, status), pods, knative=knative("r2", "r2", [("r2", 100)]), latest=idle, since=900.0
        )
        assert judge(Wanted(NAME, uri, "2", "Knative"), seen).told == "revision r2 is ready and gets 100 %"


def test_a_service_is_proved_with_all_the_pods_that_it_asks_for_though_the_autoscaler_has_not_acted() -> None:
    uri = "s3://m/2/"
    done = {"observedGeneration": 2, "replicas": 1, "updatedReplicas": 1, "availableReplicas": 1}
    asking = service(uri)
    asking["spec"]["predictor"]["minReplicas"] = 2
    ready = pod(uri, conditions=[{"type": "Ready", "status": "True"}])
    seen = Observed(asking, [ready], deployment(uri, done), since=8.0)
    verdict = judge(Wanted(NAME, uri, "2", "Standard"), seen)
    assert (verdict.state, verdict.told) == ("waiting", "1 of 2 new pods ready")
    two = {**done, "replicas": 2, "updatedReplicas": 2, "availableReplicas": 2}
    made = deployment(uri, two)
    made["spec"]["replicas"] = 2
    seen = Observed(asking, [ready, {**ready, "metadata": {**ready["metadata"], "name": "other"}}], made, since=8.0)
    assert judge(Wanted(NAME, uri, "2", "Standard"), seen).state == "rolled_out"
