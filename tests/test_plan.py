"""The plan: read from what was compiled, and held against what was uploaded last."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ev_pipeline.settings import AcceleratorSettings, ImageSettings, SecretMount
from evctl.cli import run
from evctl.compiler import CompiledPipeline, compile_profile
from evctl.plan import changes, plan_of
from evctl.profile import Profile
from evctl.profile_files import load_profile


@pytest.fixture(scope="module")
def local() -> Profile:
    return load_profile("local").profile


@pytest.fixture(scope="module")
def compiled(local: Profile) -> CompiledPipeline:
    return compile_profile(local)


def with_training(profile: Profile, **step: Any) -> Profile:
    training = profile.steps["train_fault_classifier"].model_copy(update=step)
    return profile.model_copy(update={"steps": {**profile.steps, "train_fault_classifier": training}})


def test_a_plan_lists_the_tasks_in_the_order_of_the_flow(compiled: CompiledPipeline, local: Profile) -> None:
    names = [task.name for task in plan_of(compiled, local).tasks]
    assert (names[0], names[3], names[-1]) == (
        "ingest_battery_data",
        "train_fault_classifier",
        "notify_pipeline_status",
    )


def test_a_plan_warns_of_limits_this_machine_does_not_enforce(compiled: CompiledPipeline, local: Profile) -> None:
    assert any("CPU and memory limits of train_fault_classifier" in said for said in plan_of(compiled, local).warnings)


def test_a_plan_says_of_each_thing_this_machine_cannot_give_that_it_does_not(local: Profile) -> None:
    plain = " ".join(plan_of(compile_profile(local), local).warnings)
    assert "image" not in plain
    assert "accelerator" not in plain
    asking = with_training(local, accelerator=AcceleratorSettings(type="nvidia.com/gpu")).model_copy(
        update={
            "image": ImageSettings(mode="embedded", name="python:3.11"),
            "data": local.data.model_copy(update={"shards": 4}),
            "secrets": (SecretMount(name="telemetry"),),
        }
    )
    compiled = compile_profile(asking)
    said = " ".join(plan_of(compiled, asking).warnings)
    for what in ("whatever image says", "data.shards", "CPU and memory", "no accelerator", "secret telemetry"):
        assert what in said
    assert "pip install" not in compiled.text


def test_a_plan_for_a_cluster_warns_of_an_unset_image_and_of_retries() -> None:
    prod = load_profile("prod").profile
    said = " ".join(plan_of(compile_profile(prod), prod).warnings)
    assert "image is unset" in said
    assert "infrastructure errors only" in said


def test_nothing_changes_against_the_same_pipeline(compiled: CompiledPipeline) -> None:
    assert changes(compiled.spec, compiled.spec) == []


def test_a_change_of_policy_threshold_or_graph_is_named(compiled: CompiledPipeline, local: Profile) -> None:
    other = with_training(local, cpu="2", retries=1).model_copy(
        update={"accuracy_threshold": 0.5, "gates": local.gates.model_copy(update={"min_recall": 0.7})}
    )
    said = changes(compiled.spec, compile_profile(other).spec)
    assert any(line.startswith("train_fault_classifier cpu:") for line in said)
    assert "train_fault_classifier retries: 3 -> 1" in said
    assert "parameter accuracy_threshold: 0.9 -> 0.5" in said
    assert not any(line.startswith("ingest_battery_data") for line in said)


def test_tasks_that_come_and_go_are_named(compiled: CompiledPipeline, local: Profile) -> None:
    data = local.data.model_copy(update={"shards": 2})
    sharded = compile_profile(local.model_copy(update={"backend": "kubeflow", "data": data}))
    assert "task generate_feature_shard: new" in changes(compiled.spec, sharded.spec)
    assert "task generate_feature_shard: removed" in changes(sharded.spec, compiled.spec)


def test_the_verb_compares_with_the_last_upload(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["plan", "-o", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["last_upload"] is None
    assert run(["upload", "-o", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["changed"] is True
    assert run(["upload", "-o", "json"]) == 0
    kept = json.loads(capsys.readouterr().out)
    assert kept["changed"] is False
    assert run(["plan", "-o", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["last_upload"] == {"version": kept["version"], "changes": []}


def test_planning_for_a_cluster_needs_none(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["plan", "--env", "prod", "-o", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["env"] == "prod"
