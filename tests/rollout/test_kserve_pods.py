"""What of a pod's troubles is the model's fault."""

from __future__ import annotations

from typing import Any

import pytest

from evctl.rollout.serving.kserve_pods import doing, failure, losses

Object = dict[str, Any]
ENDED = {"exitCode": 137, "reason": "Error"}
CRASHED = {"restartCount": 7, "state": {"waiting": {"reason": "CrashLoopBackOff"}}, "lastState": {"terminated": ENDED}}


def pod(*, init: list[Object] | None = None, containers: list[Object] | None = None, **more: Any) -> Object:
    sidecars = [{"name": name, "restartPolicy": "Always"} for name in more.pop("sidecars", ())]
    listed = [{"name": "storage-initializer"}, *sidecars]
    status = {"phase": "Pending", "initContainerStatuses": init or [], "containerStatuses": containers or [], **more}
    return {"metadata": {"name": "new"}, "spec": {"initContainers": listed}, "status": status}


def initializer(**state: Any) -> Object:
    return {"name": "storage-initializer", "restartCount": 0, **state}


@pytest.mark.parametrize(
    ("reason", "message"),
    [
        ("Evicted", "The node was low on resource: memory."),
        ("Preempting", "Preempted in order to admit critical pod"),
        ("NodeShutdown", "Pod was terminated in response to imminent node shutdown."),
        ("OutOfcpu", "Node didn't have enough resource: cpu"),
    ],
)
def test_a_pod_that_its_node_gave_up_during_init_is_not_the_models_fault(reason: str, message: str) -> None:
    taken = pod(init=[initializer(state={"terminated": ENDED})], phase="Failed", reason=reason, message=message)
    assert failure([taken], ()) is None
    assert losses([taken]) == f"; a pod was taken away ({reason}: {message})"
    assert losses([taken], least=2) == ""
    assert losses([taken, taken], least=2) == f"; 2 pods were taken away ({reason}: {message})"


def test_a_pod_that_is_about_to_be_taken_away_is_known_by_its_condition() -> None:
    target = {"type": "DisruptionTarget", "status": "True", "reason": "PreemptionByScheduler", "message": "by web-1"}
    taken = pod(init=[initializer(state={"terminated": ENDED})], conditions=[target])
    assert failure([taken], ()) is None
    assert losses([taken]) == "; a pod was taken away (PreemptionByScheduler: by web-1)"


def test_the_same_end_of_an_init_container_without_an_eviction_is_a_failure() -> None:
    found = failure([pod(init=[initializer(state={"terminated": ENDED})])], ())
    assert found
    assert found.told == "pod new, storage-initializer failed (exit code 137)"


def test_a_sidecar_among_the_init_containers_may_be_restarted() -> None:
    beside = pod(init=[{"name": "istio-proxy", **CRASHED}], sidecars=["istio-proxy"])
    assert failure([beside], ()) is None
    assert doing([beside]) == ": istio-proxy waits (CrashLoopBackOff)", "what it keeps from being ready is told"
    assert failure([pod(init=[{"name": "istio-proxy", **CRASHED}])], ()), "an init container must end well"


@pytest.mark.parametrize("name", ["queue-proxy", "istio-proxy", "agent"])
def test_a_container_beside_the_models_may_be_restarted(name: str) -> None:
    assert failure([pod(containers=[{"name": name, **CRASHED}])], ()) is None
    assert failure([pod(containers=[{"name": "kserve-container", **CRASHED}])], ())


def test_a_sidecar_whose_image_cannot_be_had_is_hopeless_all_the_same() -> None:
    state = {"waiting": {"reason": "ImagePullBackOff", "message": "no such image"}}
    found = failure([pod(init=[{"name": "istio-proxy", "state": state}], sidecars=["istio-proxy"])], ())
    assert found
    assert found.told == "pod new, istio-proxy: ImagePullBackOff: no such image"


def test_an_init_container_that_a_restarted_node_runs_anew_has_not_failed() -> None:
    done = {"exitCode": 0, "reason": "Completed"}
    again = initializer(restartCount=1, state={"running": {}}, lastState={"terminated": done})
    assert failure([pod(init=[{**again, "restartCount": 1}])], ()) is None
    ended = initializer(state={"terminated": done})
    assert failure([pod(init=[{**ended, "restartCount": 1}])], ()) is None


def server(restarts: int, last: Object | None = None, **state: Any) -> Object:
    return {
        "name": "kserve-container",
        "restartCount": restarts,
        "state": state,
        "lastState": {"terminated": last} if last else {},
    }


def test_the_second_end_of_the_models_server_is_told_before_its_second_restart() -> None:
    once = server(0, terminated={"exitCode": 1, "reason": "Error"})
    assert failure([pod(containers=[once])], ()) is None
    assert doing([pod(containers=[once])]) == ": kserve-container ended (exit code 1) and is started again"
    twice = failure([pod(containers=[server(1, ENDED, terminated={"exitCode": 1, "reason": "Error"})])], ())
    assert twice
    assert (twice.told, twice.previous) == ("pod new, kserve-container ended twice (exit code 1)", False)
    backs_off = failure([pod(containers=[server(1, ENDED, waiting={"reason": "CrashLoopBackOff"})])], ())
    assert backs_off
    assert backs_off.told == "pod new, kserve-container ended twice (exit code 137)"
    assert failure([pod(containers=[server(1, ENDED, running={})])], ()) is None


def test_a_bundle_that_our_predictor_refuses_is_not_started_twice_for_it() -> None:
    ended = {"exitCode": 1, "reason": "Error", "message": "INFO loading\nrefused: DigestMismatch: model.joblib"}
    found = failure([pod(containers=[server(0, terminated=ended)])], ())
    assert found
    assert found.told == "pod new, kserve-container ended (exit code 1)"
    assert found.words.endswith("refused: DigestMismatch: model.joblib")
    again = failure([pod(containers=[server(1, ended, running={})])], ())
    assert again
    assert again.previous


def test_why_an_image_cannot_be_pulled_is_not_cut_off_behind_its_name() -> None:
    image = "registry.local/nope@sha256:" + "0" * 64
    message = (
        f'Back-off pulling image "{image}": ErrImagePull: failed to pull and unpack image "{image}": failed to resolve '
        f'reference "{image}": failed to do request: Head "https://registry.local/v2/nope": no such host'
    )
    state = {"waiting": {"reason": "ImagePullBackOff", "message": message}}
    found = failure([pod(containers=[{"name": "kserve-container", "state": state}])], ())
    assert found
    assert found.told.startswith(f"pod new, kserve-container: ImagePullBackOff: {image}: failed to pull and unpack")
    assert found.told.endswith('Head "https://registry.local/v2/nope": no such host')


def test_a_pod_that_waits_for_a_node_says_so_from_the_first_moment() -> None:
    nowhere = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/1 nodes: 1 cpu"}
    assert doing([pod(conditions=[nowhere])]) == ": it waits for a node (0/1 nodes: 1 cpu)"


def test_a_server_that_is_ready_may_have_been_started_again_before() -> None:
    ready = {**server(2, {"exitCode": 137, "reason": "OOMKilled"}, running={}), "ready": True}
    assert failure([pod(containers=[ready])], ()) is None
    assert failure([pod(containers=[{**ready, "ready": False}])], ())
