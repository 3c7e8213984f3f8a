"""What only Argo knows: a pod that was refused, lost or never asked for, and a workflow that nobody looks at or has."""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Callable
from typing import Any

import pytest

from evctl.backends.base import RunState
from evctl.backends.kubeflow.join import join
from evctl.backends.kubeflow.workflow import Workflow, read
from evctl.lifecycle import exit_code_of, standstill
from tests.fakes.kfp_life import Moment, Plan
from tests.kubeflow.conftest import Kubeflow
from tests.kubeflow.pipelines_of_others import compiled
from tests.kubeflow.synthesised import RUN_ID, Synthesis

pytestmark = pytest.mark.kubeflow
Evctl = Callable[..., tuple[int, str, str]]
PREFIX = "somebody-elses-x7k2p(0).root(0)"
QUOTA = 'pods "x" is forbidden: exceeded quota: team, requested: cpu=4, used: cpu=8, limited: cpu=8'


def node(name: str, phase: str, message: str, kind: str = "Pod") -> dict[str, Any]:
    began = "2026-11-27T09:00:30Z"
    return {"name": f"{PREFIX}.{name}", "type": kind, "phase": phase, "message": message, "startedAt": began}


def workflow(*nodes: dict[str, Any], phase: str = "Running", packed: bool = False) -> dict[str, Any]:
    named = {str(at): each for at, each in enumerate(nodes)}
    status: dict[str, Any] = {"phase": phase, "nodes": named}
    if packed:
        text = base64.b64encode(gzip.compress(json.dumps(named).encode())).decode()
        status = {"phase": phase, "compressedNodes": text}
    return {"kind": "Workflow", "metadata": {"name": "somebody-elses-x7k2p"}, "status": status if phase else {}}


@pytest.mark.parametrize("packed", [True, False])
def test_a_nodes_message_is_found_by_its_place_and_what_pods_say_better_is_left_out(*, packed: bool) -> None:
    found = read(
        workflow(
            node("train(0).executor(0)", "Error", "pod deleted"),
            node("train-2-driver(0)", "Pending", QUOTA),
            node("train-3(0).executor(0)", "Failed", "main: Error (exit code 1)"),
            node("train-3(0)", "Failed", "child failed", kind="DAG"),
            packed=packed,
        )
    )
    assert {place: each.text for place, each in found.said.items()} == {
        "root.train": "pod deleted", "root.train-2-driver": QUOTA,
    }  # fmt: skip
    assert found.begun and not read(workflow(phase="")).begun
    assert read({"status": {"compressedNodes": "not base64"}}) == Workflow(begun=False)


class Still:
    """A life that stands still at one moment."""

    def __init__(self, made: Synthesis) -> None:
        sources = made.sources()
        self.moment = Moment(dict(sources.run), None, made.pods)

    def at(self, seconds: float) -> Moment:
        return self.moment

    def terminated(self, seconds: float) -> Still:
        return self

    retried = terminated


def started(kubeflow: Kubeflow, **how: Any) -> str:
    """Start a run of somebody's pipeline that stands as synthesised; ML Metadata has nothing of it."""
    kubeflow.profile(pending_timeout_s=1)
    made = Synthesis(compiled("thrice"), **how)
    kubeflow.world.lives.append(lambda *_: Still(made))
    body = {"display_name": "theirs", "pipeline_spec": compiled("thrice")}
    return str(kubeflow.world.create_run(body)["run_id"])


def status(evctl: Evctl, run_id: str) -> tuple[int, dict[str, Any]]:
    code, out, err = evctl("status", run_id, "--env", "dev", "-o", "json")
    assert err == ""
    return code, json.loads(out)


def test_a_pod_that_somebody_deleted_is_the_reason(kubeflow: Kubeflow, evctl: Evctl) -> None:
    made = {("train-2",): "killed"}
    run_id = started(kubeflow, fates=made)
    kubeflow.world.run(run_id).moment().pods.clear()
    kubeflow.world.workflows = {run_id: workflow(node("train-2(0).executor(0)", "Error", "pod deleted"))}
    code, document = status(evctl, run_id)
    assert (code, document["reason"]) == (1, "train_2: pod deleted")


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        ("main: OOMKilled (exit code 137)", "killed for memory (OOMKilled): raise the step's memory in the profile"),
        ("Pod was active on the node longer than the specified deadline", "deadline: it ran longer than its timeout"),
        ("main: Error (exit code 137)", "MB 32"),
    ],
)
def test_what_ended_a_pod_that_is_gone_by_now_is_argos_to_say_and_not_its_logs_last_line(
    message: str, reason: str, kubeflow: Kubeflow, evctl: Evctl
) -> None:
    run_id = started(kubeflow, fates={("train-2",): "killed"})
    for pod in kubeflow.world.run(run_id).moment().pods:
        kubeflow.world.logs[pod["metadata"]["name"]] = "MB 16\nMB 32\n"
    kubeflow.world.run(run_id).moment().pods.clear()
    kubeflow.world.workflows = {run_id: workflow(node("train-2(0).executor(0)", "Failed", message))}
    kubeflow.api.requests.clear()
    kubeflow.mlmd.calls.clear()
    code, document = status(evctl, run_id)
    assert code == 1 and document["reason"].startswith(f"train_2: {reason}")
    assert len(kubeflow.api.paths()) + len(kubeflow.mlmd.calls) <= 6


def test_of_several_tasks_whose_pods_are_gone_argo_says_of_all_and_the_rest_is_not_called_unreadable(
    kubeflow: Kubeflow, evctl: Evctl
) -> None:
    run_id = started(kubeflow, fates={("train",): "killed", ("train-2",): "killed", ("train-3",): "killed"})
    kubeflow.world.run(run_id).moment().pods.clear()
    kubeflow.world.workflows = {run_id: workflow(node("train-2(0).executor(0)", "Error", "pod deleted"))}
    kubeflow.api.requests.clear()
    kubeflow.mlmd.calls.clear()
    _, document = status(evctl, run_id)
    told = {task["name"]: task["reason"] for task in document["tasks"] if task["state"] == "FAILED"}
    assert told["train_2"] == "pod deleted"
    assert told["train_3"] == "failed; its log was not read here"
    [said] = document["warnings"]
    assert "train_3" in said and "train_2" not in said
    assert len(kubeflow.api.paths()) + len(kubeflow.mlmd.calls) <= 6


def test_a_pod_that_a_quota_keeps_out_is_told_within_the_pending_timeout(kubeflow: Kubeflow, evctl: Evctl) -> None:
    run_id = started(kubeflow, fates={("train-2",): "waiting"})
    kubeflow.world.run(run_id).moment().pods.clear()
    kubeflow.world.workflows = {run_id: workflow(node("train-2(0).executor(0)", "Pending", QUOTA))}
    code, document = status(evctl, run_id)
    told = {task["name"]: task["reason"] for task in document["tasks"] if task["reason"]}
    assert code == 8 and "exceeded quota" in told["train_2"]
    assert document["blocked_since"] == "2026-11-27T09:00:30.000Z"
    code, _, err = evctl("status", run_id, "--watch", "--env", "dev")
    assert code == 1 and "train_2 cannot start" in err and "exceeded quota" in err


def test_a_controller_that_is_down_and_a_workflow_that_is_gone_are_told(kubeflow: Kubeflow, evctl: Evctl) -> None:
    for workflows, word in (({}, "its workflow is gone"), (None, "workflow-controller up?")):
        run_id = started(kubeflow, fates={("train-2",): "running"})
        kubeflow.world.run(run_id).moment().pods.clear()
        kubeflow.world.workflows = {run_id: workflow(phase="")} if workflows is None else workflows
        _, document = status(evctl, run_id)
        assert any(word in warning for warning in document["warnings"]), document["warnings"]
        code, _, err = evctl("status", run_id, "--watch", "--env", "dev")
        assert code == 1 and word in err


def test_a_cluster_that_shows_no_workflows_is_done_without(kubeflow: Kubeflow, evctl: Evctl) -> None:
    run_id = started(kubeflow, fates={("train-2",): "killed"})
    kubeflow.world.run(run_id).moment().pods.clear()
    code, document = status(evctl, run_id)
    assert code == 1 and document["reason"].startswith("train_2: failed; its pod is gone")


def test_what_argo_says_of_an_ended_run_blocks_nothing() -> None:
    made = Synthesis(compiled("thrice"), fates={("train-2",): "killed"}).sources(pods=False)
    said = read(workflow(node("train-2(0).executor(0)", "Pending", QUOTA)))
    run = join(type(made)(**{**{f: getattr(made, f) for f in made.__slots__}, "argo": said}))
    assert run.state is RunState.FAILED and run.blocked_since is None and standstill(run) is None
    assert exit_code_of(run) == 1 and run.run_id == RUN_ID


def test_a_run_whose_pods_are_at_work_asks_nothing_of_argo(kubeflow: Kubeflow, evctl: Evctl) -> None:
    kubeflow.profile()
    kubeflow.world.plan = Plan(task_s=60)
    run_id = kubeflow.world.create_run({"display_name": "theirs", "pipeline_spec": compiled("thrice")})["run_id"]
    kubeflow.world.run(str(run_id)).frozen = 70
    status(evctl, str(run_id))
    assert not [each.path for each in kubeflow.api.requests if "argoproj" in each.path]
