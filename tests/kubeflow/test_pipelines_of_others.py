"""Any pipeline that kfp compiles: branches, loops in loops, pipelines in pipelines, importers, several exit handlers."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from evctl.backends.base import Run, RunState, TaskState
from evctl.backends.kubeflow.artifacts import log_artifacts, outputs_of
from evctl.backends.kubeflow.join import join
from evctl.backends.metadata.values import Link, RunMetadata, StoredArtifact
from evctl.backends.spec import tree
from evctl.lifecycle import exit_code_of, standstill
from tests.kubeflow.pipelines_of_others import compiled
from tests.kubeflow.synthesised import Synthesis

KNOWN = pytest.mark.parametrize("metadata", [True, False], ids=["with ML Metadata", "without ML Metadata"])
RETRIED = pytest.mark.parametrize("retried", [True, False], ids=["every node retried", "no default of retries"])


def shown(name: str, *, metadata: bool = True, pods: bool = True, **how: Any) -> Run:
    return join(Synthesis(compiled(name), **how).sources(metadata=metadata, pods=pods))


def states(run: Run) -> dict[str, str]:
    return {task.label: task.state.value for task in run.tasks if task.kind == "task"}


def state_of(run: Run, kind: str) -> dict[str, str]:
    return {task.name: task.state.value for task in run.tasks if task.kind == kind}


@KNOWN
@RETRIED
def test_of_if_elif_and_else_the_one_that_is_taken_runs(*, metadata: bool, retried: bool) -> None:
    run = shown("branches", metadata=metadata, retried=retried, opens={"condition-3": False, "condition-5": False})
    assert states(run) == {
        "check": "SUCCEEDED", "flip": "SUCCEEDED", "work": "SKIPPED", "tell": "SKIPPED", "work_2": "SUCCEEDED",
        "work_3": "SKIPPED", "work_4": "SUCCEEDED",
    }  # fmt: skip
    assert state_of(run, "gate") == {
        "heads": "SKIPPED", "good enough": "SKIPPED", "condition_4": "SUCCEEDED", "condition_5": "SKIPPED",
    }  # fmt: skip
    assert (exit_code_of(run), run.gate.decision) == (0, "passed")


def test_a_compound_condition_is_said_in_words() -> None:
    run = shown("branches", opens={"condition-3": False, "condition-4": False})
    notes = {line.name: line.note for line in run.tasks if line.kind == "gate"}
    assert notes["condition_5"] == "not (flip == 'heads') and not (flip == 'tails')"
    assert notes["heads"] == "flip == 'heads'"


def test_a_gate_over_a_loops_item_says_whose() -> None:
    notes = [line.note for line in shown("handlers").tasks if line.kind == "gate"]
    assert notes == ["item == 2", "item == 2"]


def test_a_gate_inside_the_branch_that_is_taken_may_still_refuse() -> None:
    closed = {"condition-2": False, "condition-4": False, "condition-5": False}
    run = shown("branches", opens=closed)
    assert (run.gate.decision, states(run)["tell"], exit_code_of(run)) == ("refused", "SKIPPED", 0)


@KNOWN
@RETRIED
def test_the_second_iteration_of_three_failed(*, metadata: bool, retried: bool) -> None:
    counts, fates = {"for-loop-1": 3}, {("for-loop-1", 1, "work"): "failed"}
    run = shown("loops", metadata=metadata, retried=retried, counts=counts, fates=fates)
    told = states(run)
    assert [told[f"work[{at}]"] for at in range(3)] == ["SUCCEEDED", "FAILED", "SUCCEEDED"]
    assert [told[f"check[{at}]"] for at in range(3)] == ["SUCCEEDED", "SKIPPED", "SUCCEEDED"]
    assert {told[f"work_2[{a}][{b}]"] for a in range(3) for b in range(2)} == {"SUCCEEDED"}
    assert told["total"] == "SKIPPED" and state_of(run, "loop")["shards"] == "FAILED"
    assert run.reason == "work[1]: exit code 1" and exit_code_of(run) == 1


def test_an_iteration_that_waits_for_its_turn_is_pending_and_each_has_its_own_pod() -> None:
    fates = {("for-loop-1", 0, "work"): "running", ("for-loop-1", 1, "work"): "waiting"}
    run = shown("loops", counts={"for-loop-1": 3}, begun={"for-loop-1": 2}, fates=fates)
    told = states(run)
    assert [told[f"work[{at}]"] for at in range(3)] == ["RUNNING", "PENDING", "PENDING"]
    reasons = {task.label: task.reason for task in run.tasks if task.reason}
    assert reasons == {"work[1]": "Unschedulable: 0/1 nodes"}
    pods = [task.pod for task in run.tasks if task.name == "work"]
    assert pods[0] != pods[1] and pods[2] is None
    assert standstill(run) is None  # one waits for room that another still takes


def test_a_loop_over_nothing_has_nothing_left_to_do() -> None:
    run = shown("loops", counts={"for-loop-1": 0})
    assert run.state is RunState.SUCCEEDED and states(run)["work"] == "SKIPPED"
    assert state_of(run, "loop")["shards"] == "SKIPPED" and exit_code_of(run) == 0


@KNOWN
@RETRIED
def test_a_pipeline_that_is_used_twice_has_two_of_each_task(*, metadata: bool, retried: bool) -> None:
    fates = {("inner-2", "exit-handler-1", "train"): "killed", ("inner", "check"): "cached"}
    run = shown("twice", metadata=metadata, retried=retried, fates=fates)
    told = states(run)
    assert told["inner/exit_handler_1/train"] == "SUCCEEDED"
    assert told["inner_2/exit_handler_1/train"] == "FAILED"
    assert (told["inner/check"], told["inner_2/check"]) == ("CACHED", "SUCCEEDED")
    assert (told["inner/importer"], told["inner_2/cleanup"], told["total"]) == ("SUCCEEDED", "SUCCEEDED", "SKIPPED")
    assert run.reason is not None and run.reason.startswith("inner_2/exit_handler_1/train: killed for memory")


@KNOWN
def test_a_task_whose_driver_failed_has_failed(*, metadata: bool) -> None:
    run = shown("thrice", metadata=metadata, fates={("train-2",): "driver_failed"})
    assert states(run) == {
        "importer": "SUCCEEDED", "train": "SUCCEEDED", "train_2": "FAILED", "train_3": "SUCCEEDED",
    }  # fmt: skip
    assert run.reason == "train_2: its driver failed"
    pod = next(task.pod for task in run.tasks if task.name == "train_2")
    assert pod is not None and "container-driver" in pod


@KNOWN
def test_a_drivers_last_words_are_the_reason_of_its_task(*, metadata: bool) -> None:
    made = Synthesis(compiled("thrice"), fates={("train-2",): "driver_failed"})
    pod = next(task.pod for task in join(made.sources(metadata=metadata)).tasks if task.name == "train_2")
    assert pod is not None
    run = join(replace(made.sources(metadata=metadata, pods=False), logs={pod: "cannot resolve rate"}))
    assert run.reason == "train_2: its driver failed: cannot resolve rate"


@KNOWN
def test_a_gate_whose_driver_failed_has_not_refused(*, metadata: bool) -> None:
    run = shown("twice", metadata=metadata, fates={("condition-1",): "driver_failed"})
    assert run.reason == "condition_1: its driver failed" and run.gate.decision != "refused"
    assert states(run)["shell"] == "SKIPPED" and exit_code_of(run) == 1


@KNOWN
def test_each_exit_handler_has_its_own_end(*, metadata: bool) -> None:
    fates = {("exit-handler-1", "for-loop-3", 0, "check"): "cached", ("exit-handler-5", "tell-2"): "failed"}
    run = shown("handlers", metadata=metadata, fates=fates)
    assert states(run) == {
        "work": "SUCCEEDED", "check[0]": "CACHED", "check[1]": "SUCCEEDED", "cleanup": "SUCCEEDED", "tell_2": "FAILED",
        "cleanup_2": "SUCCEEDED", "tell[0]": "SUCCEEDED", "tell[1]": "SUCCEEDED",
    }  # fmt: skip
    assert state_of(run, "exit_handler") == {"exit_handler_1": "SUCCEEDED", "exit_handler_5": "FAILED"}


def test_a_run_that_is_being_terminated_shows_its_killed_task_as_cancelled_before_and_after_its_end() -> None:
    fates = {("exit-handler-5", "tell-2"): "killed"}
    for state in ("CANCELING", "FAILED"):
        run = shown("handlers", fates=fates, terminated=True, state=state)
        assert states(run)["tell_2"] == "CANCELED", state
    assert run.state is RunState.CANCELED


def test_without_spec_and_versions_what_ran_is_still_shown_with_its_iterations() -> None:
    made = Synthesis(compiled("loops"), fates={("for-loop-1", 1, "work"): "failed"})
    run = join(made.sources(spec=False))
    told = states(run)
    assert (told["work[0]"], told["work[1]"], told["numbers"]) == ("SUCCEEDED", "FAILED", "SUCCEEDED")
    assert any("spec is gone" in warning for warning in run.warnings)


def test_outputs_and_logs_of_loops_and_groups_are_named_as_status_names_them() -> None:
    for name, wanted in (
        ("loops", {("for-loop-1", 1, "work"): "work[1].Output"}),
        ("twice", {("inner-2", "check"): "inner_2/check.Output"}),
    ):
        made = Synthesis(compiled(name), outputs={path: {"Output": 7} for path in wanted})
        metadata = made.sources().metadata
        assert metadata is not None
        assert dict(outputs_of("r", metadata, tree(compiled(name))).parameters) == dict.fromkeys(wanted.values(), 7)
        label = next(iter(wanted.values())).removesuffix(".Output")
        task = next(task for task in join(made.sources()).tasks if task.label == label)
        execution = next(each for each in metadata.executions if each.outputs)
        logged = RunMetadata(
            metadata.executions,
            (Link(execution.id, 1, "executor-logs", True),),
            {1: StoredArtifact(1, "system.Artifact", "s3://b/executor-logs-0")},
        )
        assert [attempt for attempt, _ in log_artifacts(logged, task.name, task.path)] == [1]
        others = [each for each in join(made.sources()).tasks if each.name == task.name and each.label != label]
        assert others and all(log_artifacts(logged, each.name, each.path) == () for each in others)


def test_outputs_of_a_loop_come_in_the_order_of_the_flow() -> None:
    paths = [("numbers",), *(("for-loop-1", at, key) for at in range(2) for key in ("work", "check")), ("total",)]
    made = Synthesis(compiled("loops"), outputs={path: {"Output": 1} for path in paths})
    metadata = made.sources().metadata
    assert metadata is not None
    keys = list(outputs_of("r", metadata, tree(compiled("loops"))).parameters)
    assert keys[0] == "numbers.Output" and keys[-1] == "total.Output"
    assert keys[1:3] == ["work[0].Output", "work[1].Output"]


@pytest.mark.parametrize("name", ["branches", "loops", "twice", "thrice", "handlers"])
@pytest.mark.parametrize("fate", ["ok", "cached", "failed", "running", "killed", "driver_failed", "waiting"])
def test_each_task_is_at_most_once_what_befell_one_of_them(name: str, fate: str) -> None:
    leaves = [each.label for each in shown(name).tasks if each.kind == "task" and each.name not in ("importer",)]
    for path in paths_of(compiled(name), compiled(name)["root"]["dag"]):
        for metadata in (True, False):
            run = shown(name, metadata=metadata, fates={path: fate})
            told = states(run)
            word = {
                "ok": "SUCCEEDED", "cached": "CACHED", "failed": "FAILED", "running": "RUNNING", "killed": "FAILED",
                "driver_failed": "FAILED", "waiting": "PENDING",
            }[fate]  # fmt: skip
            assert leaves and (fate == "ok" or list(told.values()).count(word) >= 1), (path, told)
            if fate in ("failed", "killed", "driver_failed"):
                assert list(told.values()).count("FAILED") == 1 and exit_code_of(run) == 1
            if fate == "cached":
                assert list(told.values()).count("CACHED") == 1 and exit_code_of(run) == 0
            if fate == "running":
                assert list(told.values()).count("RUNNING") == 1 and exit_code_of(run) == 8


def paths_of(
    spec: dict[str, Any], dag: dict[str, Any], above: tuple[str | int, ...] = ()
) -> list[tuple[str | int, ...]]:
    found: list[tuple[str | int, ...]] = []
    for key, task in dag["tasks"].items():
        component = spec["components"][task["componentRef"]["name"]]
        executor = spec["deploymentSpec"]["executors"].get(component.get("executorLabel"), {})
        if "dag" in component:
            inside = (*above, key, 1) if "parameterIterator" in task else (*above, key)
            found += paths_of(spec, component["dag"], inside)
        elif "importer" not in executor:
            found.append((*above, key))
    return found


def test_a_task_of_the_tree_is_never_lost_to_another_of_its_title() -> None:
    run = shown("thrice")
    assert [task.state for task in run.tasks] == [TaskState.SUCCEEDED] * 4
    assert [task.name for task in run.tasks] == ["importer", "train", "train_2", "train_3"]


def test_a_gate_in_a_loop_has_refused_only_where_it_opened_for_no_iteration() -> None:
    made = Synthesis(compiled("handlers"), opens={"condition-4": False})
    assert join(made.sources()).gate.decision == "refused"
    sources = made.sources()
    assert sources.metadata is not None
    # the first iteration's opened
    at = next(at for at, each in enumerate(made.executions) if each.task == "condition-4")
    made.executions[at] = replace(made.executions[at], state="RUNNING")
    tell = replace(
        made.executions[at], id=999, task="tell", is_dag=False, state="COMPLETE", parent=made.executions[at].id
    )
    made.executions.append(tell)
    run = join(made.sources())
    assert states(run)["tell[0]"] == "SUCCEEDED" and states(run)["tell[1]"] == "SKIPPED"
    assert run.gate.decision == "passed"


@KNOWN
@RETRIED
@pytest.mark.parametrize(
    ("fate", "wanted"),
    [
        ("ok", ["SUCCEEDED", "SUCCEEDED", "SUCCEEDED"]),
        ("failed", ["FAILED", "SKIPPED", "SKIPPED"]),
        ("running", ["RUNNING", "PENDING", "PENDING"]),
    ],
)
def test_a_claim_that_the_driver_makes_by_itself_is_a_task_like_another(
    fate: str, wanted: list[str], *, metadata: bool, retried: bool
) -> None:
    run = shown("claims", metadata=metadata, retried=retried, fates={("createpvc",): fate})
    assert list(states(run).values()) == wanted
    claim = run.tasks[0]
    assert (claim.attempts, "system-container-driver" in (claim.pod or "")) == (1, True)
    assert (claim.reason is None) == (fate != "failed")
