"""The compiled pipeline: what production relies on, read from the IR."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ev_pipeline.settings import NEVER_CACHED
from evctl.backends.kubeflow.spec import Node, tree
from evctl.compiler import CompiledPipeline, coerce, compile_profile, difference, require_image
from evctl.errors import RefusedError, UsageError
from evctl.plan import plan_of
from evctl.profile_files import load_profile

REPO = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def prod() -> CompiledPipeline:
    return compile_profile(load_profile("prod").profile)


def flat(nodes: tuple[Node, ...]) -> list[str]:
    return [name for node in nodes for name in ([node.name] if node.kind == "task" else flat(node.children))]


def test_the_versioned_file_is_current_and_two_compiles_are_the_same_bytes(prod: CompiledPipeline) -> None:
    assert difference(prod, REPO / "pipeline_src" / "ev_battery_fault_pipeline.yaml") == ""
    assert compile_profile(load_profile("prod").profile).text == prod.text


def test_the_tasks_are_in_the_order_of_the_flow(prod: CompiledPipeline) -> None:
    assert flat(tree(prod.spec)) == [
        "ingest_battery_data", "validate_battery_data", "generate_battery_features", "train_fault_classifier",
        "evaluate_fault_model", "register_fault_model", "setup_drift_monitoring", "notify_pipeline_status",
    ]  # fmt: skip


def test_registration_is_inside_both_gates(prod: CompiledPipeline) -> None:
    handler = next(node for node in tree(prod.spec) if node.kind == "exit_handler")
    gate = next(node for node in handler.children if node.kind == "gate")
    inner = next(node for node in gate.children if node.kind == "gate")
    assert "accuracy'] >=" in str(gate.condition)
    assert "recall'] >= 0.8" in str(inner.condition)
    assert flat(inner.children)[0] == "register_fault_model"


def test_training_has_the_products_limits_retries_timeout_environment_and_secret(prod: CompiledPipeline) -> None:
    task = next(t for t in plan_of(prod, load_profile("prod").profile).tasks if t.name == "train_fault_classifier")
    assert (task.cpu, task.memory, task.retries, task.timeout_s) == ("4", "8Gi", 3, 7200)
    assert task.secrets == ("ev-telemetry-secret",)
    executors = prod.platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    assert executors["exec-train-fault-classifier"]["secretAsVolume"][0]["mountPath"] == "/secrets"
    container: Any = prod.spec["deploymentSpec"]["executors"]["exec-train-fault-classifier"]["container"]
    assert {"name": "ENVIRONMENT", "value": "prod"} in container["env"]
    assert 'os.environ["ENVIRONMENT"] = environment' in container["command"][-1]


def test_tasks_with_side_effects_are_never_cached_and_the_others_are(prod: CompiledPipeline) -> None:
    for task in plan_of(prod, load_profile("prod").profile).tasks:
        assert task.cache is (task.name not in NEVER_CACHED)


def test_the_notification_always_runs(prod: CompiledPipeline) -> None:
    assert [node.name for node in tree(prod.spec) if node.always_runs] == ["notify_pipeline_status"]


def test_parameters_are_typed_as_the_spec_declares(prod: CompiledPipeline) -> None:
    assert coerce(prod.spec, {"data_version": "2024"})["data_version"] == "2024"
    assert coerce(prod.spec, {"accuracy_threshold": "0.5"})["accuracy_threshold"] == 0.5
    for raw, said in (
        ({"accuracy_threshold": "high"}, "a number"),
        ({"nope": "1"}, "no parameter nope"),
        ({"accuracy_threshold": "nan"}, "a number"),
    ):
        with pytest.raises(UsageError, match=said):
            coerce(prod.spec, raw)


def test_an_unset_image_compiles_and_is_refused_for_a_cluster(prod: CompiledPipeline) -> None:
    with pytest.raises(RefusedError) as refused:
        require_image(load_profile("prod").profile)
    assert "sha256" in str(refused.value.hint)
