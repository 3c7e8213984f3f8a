"""Runs of other pipelines than ours: loops, gates without a register task, groups in groups, many tasks."""

# no postponed annotations: kfp reads the components' own
import contextlib
import io
import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.fakes.kfp_life import Plan
from tests.kubeflow.conftest import Kubeflow
from tests.kubeflow.pipelines_of_others import compiled

pytestmark = pytest.mark.kubeflow
Evctl = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def looping(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A pipeline of somebody else's: a loop with two steps, a gate after it, an inner loop in the gate."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        from kfp import compiler, dsl

        def list_shards() -> int:
            return 3

        def work(shard: int) -> int:
            return shard

        def check(part: int) -> float:
            return 0.5

        lister, worker, checker = (
            dsl.component(each, base_image="python:3.11", install_kfp_package=False)
            for each in (list_shards, work, check)
        )

        @dsl.pipeline(name="somebody-elses")
        def pipeline(bound: float = 0.9) -> None:
            shards = lister()
            with dsl.ParallelFor([1, 2, 3], name="shards") as shard:
                done = worker(shard=shard).after(shards)
                checker(part=done.output)
            whole = checker(part=1).after(shards)
            whole.set_display_name("whole")
            with dsl.If(whole.output >= bound, name="good-enough"), dsl.ParallelFor([1, 2]) as part:
                worker(shard=part)

        target = tmp_path_factory.mktemp("other") / "p.yaml"
        compiler.Compiler().compile(pipeline, str(target))
    return dict(next(yaml.safe_load_all(target.read_text())))


def loop(spec: dict[str, Any]) -> str:
    return next(
        key for key in spec["root"]["dag"]["tasks"] if "for-loop" in key or ("shards" in key and "list" not in key)
    )


def start(kubeflow: Kubeflow, spec: dict[str, Any], plan: Plan, *, seconds: float = 3600) -> str:
    kubeflow.profile()
    kubeflow.world.plan = plan
    run_id = kubeflow.world.create_run({"display_name": "theirs", "pipeline_spec": spec})["run_id"]
    kubeflow.world.run(run_id).frozen = seconds
    return str(run_id)


def status(evctl: Evctl, run_id: str) -> tuple[int, dict[str, str], dict[str, Any]]:
    code, out, err = evctl("status", run_id, "--env", "dev", "-o", "json")
    assert err == ""
    document = json.loads(out)
    return code, {task["name"]: task["state"] for task in document["tasks"]}, document


def test_each_iteration_of_a_loop_is_its_own_line(kubeflow: Kubeflow, evctl: Evctl, looping: dict[str, Any]) -> None:
    outputs = {("check-2", "Output"): 0.95}
    run_id = start(kubeflow, looping, Plan(loops={loop(looping): 3}, outputs=outputs))
    code, told, _ = status(evctl, run_id)
    assert code == 0
    assert set(told.values()) == {"SUCCEEDED"}
    assert [name for name in told if name.startswith("work[")] == ["work[0]", "work[1]", "work[2]"]
    assert {name for name in told if name.startswith("work_2")} == {"work_2[0]", "work_2[1]"}
    table = evctl("status", run_id, "--env", "dev")[1]
    assert "work[2]" in table and "↻" not in table


def test_a_running_loop_shows_which_iterations_are_where(
    kubeflow: Kubeflow, evctl: Evctl, looping: dict[str, Any]
) -> None:
    run_id = start(kubeflow, looping, Plan(task_s=1.0, loops={loop(looping): 3}), seconds=1.3)
    code, told, _ = status(evctl, run_id)
    assert code == 8
    assert told["list_shards"] == "SUCCEEDED"
    assert [told[f"work[{at}]"] for at in range(3)] == ["RUNNING"] * 3
    assert [told[f"check[{at}]"] for at in range(3)] == ["PENDING"] * 3


def test_another_pipelines_closed_gate_is_no_refusal_of_ours(
    kubeflow: Kubeflow, evctl: Evctl, looping: dict[str, Any]
) -> None:
    run_id = start(kubeflow, looping, Plan(outputs={("check-2", "Output"): 0.1}))
    code, told, document = status(evctl, run_id)
    assert code == 0 and document["state"] == "SUCCEEDED"
    assert told["work_2"] == "SKIPPED"


def test_a_failed_iteration_fails_the_run_and_is_named(
    kubeflow: Kubeflow, evctl: Evctl, looping: dict[str, Any]
) -> None:
    run_id = start(kubeflow, looping, Plan(failing=frozenset({"work"})))
    code, told, document = status(evctl, run_id)
    assert code == 1
    assert {told["work[0]"], told["work[1]"]} == {"FAILED"}
    assert document["reason"].startswith("work[0]: ")


def test_of_several_failures_the_one_that_is_the_runs_reason_is_explained_and_the_others_are_named(
    kubeflow: Kubeflow, evctl: Evctl, looping: dict[str, Any]
) -> None:
    run_id = start(kubeflow, looping, Plan(failing=frozenset({"work"}), loops={loop(looping): 3}))
    for pod in kubeflow.world.run(run_id).moment().pods:
        kubeflow.world.logs[pod["metadata"]["name"]] = "RuntimeError: boom\n"
    kubeflow.api.requests.clear()
    kubeflow.mlmd.calls.clear()
    _, _, document = status(evctl, run_id)
    assert document["reason"] == "work[0]: RuntimeError: boom"
    [said] = document["warnings"]
    assert said.startswith("not read here, why work[")
    read = [path for path in kubeflow.api.paths() if path.endswith("/log")]
    assert len(read) + said.partition(" failed:")[0].count("work[") == 3
    assert len(kubeflow.api.paths()) + len(kubeflow.mlmd.calls) <= 6
    _, log, _ = evctl(*said.rpartition("evctl ")[2].split())
    assert log.count("RuntimeError: boom") == 3


def test_without_ml_metadata_a_loops_tasks_are_still_shown(
    kubeflow: Kubeflow, evctl: Evctl, looping: dict[str, Any]
) -> None:
    import grpc

    kubeflow.mlmd.error = grpc.StatusCode.INTERNAL
    run_id = start(kubeflow, looping, Plan(outputs={("check-2", "Output"): 0.95}))
    code, told, document = status(evctl, run_id)
    assert code == 0 and document["state"] == "SUCCEEDED"
    assert {"list_shards", "work", "check"} <= set(told)


def test_a_pipeline_of_two_hundred_tasks_is_read_in_pages_and_in_six_requests_still(
    kubeflow: Kubeflow, evctl: Evctl
) -> None:
    component = {"componentRef": {"name": "comp-step"}, "cachingOptions": {}}
    tasks: dict[str, Any] = {f"step-{at:03}": {**component, "taskInfo": {"name": f"step-{at:03}"}} for at in range(200)}
    spec = {
        "pipelineInfo": {"name": "wide"}, "root": {"dag": {"tasks": tasks}},
        "components": {"comp-step": {"executorLabel": "exec-step"}}, "schemaVersion": "2.1.0",
    }  # fmt: skip
    run_id = start(kubeflow, spec, Plan())
    kubeflow.api.requests.clear()
    kubeflow.mlmd.calls.clear()
    code, told, _ = status(evctl, run_id)
    assert code == 0 and len(told) == 200 and set(told.values()) == {"SUCCEEDED"}
    assert len(kubeflow.api.paths()) + len(kubeflow.mlmd.calls) <= 6


def test_names_with_control_characters_do_not_reach_the_terminal(
    kubeflow: Kubeflow, evctl: Evctl, looping: dict[str, Any], tmp_path: Path
) -> None:
    run_id = start(kubeflow, looping, Plan())
    kubeflow.world.run(run_id).document["display_name"] = "evil\x1b[2Jname"
    for verb in (["status", run_id], ["status", run_id, "--watch"]):
        _, out, err = evctl(*verb, "--env", "dev")
        assert "\x1b" not in out + err


def test_a_task_of_a_pipeline_that_is_used_twice_is_named_with_its_group_everywhere(
    kubeflow: Kubeflow, evctl: Evctl
) -> None:
    outputs = {("check", "Output"): 0.25}
    run_id = start(kubeflow, compiled("twice"), Plan(outputs=outputs, failing=frozenset({"shell"})))
    code, told, document = status(evctl, run_id)
    assert code == 1 and {"inner/check", "inner_2/check", "inner_2/exit_handler_1/train"} <= set(told)
    assert document["reason"].startswith("shell: ")
    found = json.loads(evctl("outputs", run_id, "--env", "dev", "-o", "json")[1])["parameters"]
    assert found["inner/check.Output"] == found["inner_2/check.Output"] == 0.25
    for each in kubeflow.world.run(run_id).moment().pods:
        kubeflow.world.logs[each["metadata"]["name"]] = f"said by {each['metadata']['name']}\n"
    said = [evctl("logs", run_id, label, "--env", "dev") for label in ("inner/check", "inner_2/check")]
    assert [code for code, *_ in said] == [0, 0]
    assert said[0][1] != said[1][1] and all(len(out.splitlines()) == 1 for _, out, _ in said)
    code, _, err = evctl("logs", run_id, "inner_3/check", "--env", "dev")
    assert code == 3 and "has no task inner_3/check" in err


def test_a_loop_with_a_name_of_its_own_is_found_under_it(kubeflow: Kubeflow, evctl: Evctl) -> None:
    run_id = start(kubeflow, compiled("loops"), Plan(loops={"for-loop-1": 3}))
    code, told, _ = status(evctl, run_id)
    assert code == 0 and [name for name in told if name.startswith("work[")] == ["work[0]", "work[1]", "work[2]"]
    assert "shards" in evctl("status", run_id, "--env", "dev")[1]
