"""Why a pod died or cannot start, from Kubernetes' own words; documents as the kubelet and the scheduler write them."""

from __future__ import annotations

from typing import Any

import pytest

from evctl.backends.kubeflow import pods


def pod(**status: Any) -> dict[str, Any]:
    note = {pods.NODE_NAME: "wf(0).root(0).exit-handler-1(0).train-fault-classifier(0).executor(0)"}
    return {"metadata": {"name": "wf-1", "annotations": note}, "status": {"phase": "Failed", **status}}


def ended(name: str, code: int, reason: str = "Error", message: str | None = None) -> dict[str, Any]:
    said = {"exitCode": code, "reason": reason, **({"message": message} if message else {})}
    return {"name": name, "state": {"terminated": said}}


DEATHS = {
    "main for memory": (
        {"containerStatuses": [ended("main", 137, "OOMKilled"), ended("wait", 0, "Completed")]},
        (137, "killed for memory (OOMKilled): raise the step's memory in the profile"),
    ),
    "wait for memory": (
        {"containerStatuses": [ended("main", 0, "Completed"), ended("wait", 137, "OOMKilled")]},
        (0, "its container wait was killed for memory (OOMKilled): raise the step's memory in the profile"),
    ),
    "deadline": (
        {"reason": "DeadlineExceeded", "containerStatuses": [ended("main", 143)]},
        (143, "deadline: it ran longer than its timeout (timeout_s of the step in the profile)"),
    ),
    "evicted by the kubelet": (
        {"reason": "Evicted", "message": "The node was low on resource: ephemeral-storage."},
        (None, "Evicted: The node was low on resource: ephemeral-storage."),
    ),
    "preempted": (
        {
            "conditions": [
                {
                    "type": "DisruptionTarget",
                    "status": "True",
                    "reason": "PreemptionByScheduler",
                    "message": "default-scheduler: preempting to accommodate a higher priority pod",
                }
            ],
            "containerStatuses": [ended("main", 143)],
        },
        (143, "PreemptionByScheduler: default-scheduler: preempting to accommodate a higher priority pod"),
    ),
    "no such program": (
        {"containerStatuses": [ended("main", 128, "StartError", 'exec: "pyton": executable file not found in $PATH')]},
        (128, 'StartError: exec: "pyton": executable file not found in $PATH'),
    ),
    "init failed": (
        {
            "initContainerStatuses": [ended("init", 0, "Completed"), ended("kfp-launcher", 1, message="cp: no space")],
            "containerStatuses": [{"name": "main", "state": {"waiting": {"reason": "PodInitializing"}}}],
        },
        (None, "its container kfp-launcher ended with exit code 1: cp: no space"),
    ),
    "artifacts not saved": (
        {"containerStatuses": [ended("main", 0, "Completed"), ended("wait", 64, message="failed to put file: 403")]},
        (0, "its container wait ended with exit code 64: failed to put file: 403"),
    ),
    "its own fault": ({"containerStatuses": [ended("main", 3), ended("wait", 0, "Completed")]}, (3, None)),
}


@pytest.mark.parametrize("how", DEATHS)
def test_a_dead_pod_says_what_killed_it(how: str) -> None:
    status, wanted = DEATHS[how]
    (found,) = pods.read([pod(**status)])
    assert (found.exit_code, found.death) == wanted


BLOCKS = {
    "queued": (
        {"conditions": [{"type": "PodScheduled", "status": "False", "reason": "SchedulingGated", "message": "gated"}]},
        "SchedulingGated: gated",
    ),
    "an image of a side container": (
        {
            "containerStatuses": [
                {"name": "main", "state": {"waiting": {"reason": "PodInitializing"}}},
                {"name": "wait", "state": {"waiting": {"reason": "ErrImagePull", "message": "not found"}}},
            ]
        },
        "ErrImagePull: not found",
    ),
    "an init container that restarts": (
        {"initContainerStatuses": [{"name": "init", "state": {"waiting": {"reason": "CrashLoopBackOff"}}}]},
        "CrashLoopBackOff",
    ),
    "nothing yet": (
        {"containerStatuses": [{"name": "main", "state": {"waiting": {"reason": "PodInitializing"}}}]},
        None,
    ),
}


@pytest.mark.parametrize("how", BLOCKS)
def test_a_pod_that_cannot_start_says_what_holds_it(how: str) -> None:
    status, wanted = BLOCKS[how]
    (found,) = pods.read([pod(**{**status, "phase": "Pending"})])
    assert found.blocked == wanted


LEAVING = {
    "a node that does not answer": (
        {"phase": "Unknown", "reason": "NodeLost", "message": "Node n unresponsive"},
        {},
        "NodeLost: Node",
    ),
    "an eviction that waits for its node": (
        {
            "phase": "Running",
            "conditions": [
                {
                    "type": "DisruptionTarget",
                    "status": "True",
                    "reason": "DeletionByTaintManager",
                    "message": "Taint manager: deleting due to NoExecute taint",
                }
            ],
        },
        {"deletionTimestamp": "2026-11-27T09:00:00Z"},
        "DeletionByTaintManager: Taint manager",
    ),
    "a pod that ends at Argo's word": ({"phase": "Running"}, {"deletionTimestamp": "2026-11-27T09:00:00Z"}, ""),
    "a pod at work": ({"phase": "Running"}, {}, ""),
}


@pytest.mark.parametrize("how", LEAVING)
def test_a_pod_that_is_taken_away_says_so_while_it_is_not_gone(how: str) -> None:
    status, meta, wanted = LEAVING[how]
    item = pod(**status)
    item["metadata"] |= meta
    (found,) = pods.read([item])
    assert (found.leaving or "")[: len(wanted)] == wanted and bool(found.leaving) == bool(wanted)


MORE_BLOCKS = {
    "a ConfigMap that is missing": (
        {"containerStatuses": [{"name": "main", "state": {"waiting": {
            "reason": "CreateContainerConfigError", "message": 'configmap "settings" not found'}}}]},
        'CreateContainerConfigError: configmap "settings" not found',
    ),
    "a volume claim that is missing": (
        {"conditions": [{"type": "PodScheduled", "status": "False", "reason": "Unschedulable",
            "message": 'persistentvolumeclaim "data" not found'}]},
        'Unschedulable: persistentvolumeclaim "data" not found',
    ),
}  # fmt: skip


@pytest.mark.parametrize("how", MORE_BLOCKS)
def test_what_a_pod_needs_and_does_not_find_is_named(how: str) -> None:
    status, wanted = MORE_BLOCKS[how]
    (found,) = pods.read([pod(**{**status, "phase": "Pending"})])
    assert found.blocked == wanted


@pytest.mark.parametrize(("scheduled", "blocked"), [("True", None), ("False", "Unschedulable: 0/1 nodes")])
def test_that_a_pod_had_no_node_is_no_news_once_it_has_one(scheduled: str, blocked: str | None) -> None:
    condition = {"type": "PodScheduled", "status": scheduled, "reason": "Unschedulable", "message": "0/1 nodes"}
    waiting = pod(phase="Pending", conditions=[condition])
    event = {"reason": "FailedScheduling", "message": "0/1 nodes", "object": "wf-1"}
    assert pods.read([waiting], [event])[0].blocked == blocked
    mount = {"reason": "FailedMount", "message": "no secret", "object": "wf-1"}
    assert pods.read([waiting], [event, mount])[0].blocked == (blocked or "FailedMount: no secret")
