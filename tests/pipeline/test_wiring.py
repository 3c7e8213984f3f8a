"""The compiled pipeline: what production relies on, read from the IR."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ev_pipeline.settings import NEVER_CACHED, TASKS
from evctl.backends.spec import Node, tree
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
    assert flat(tree(prod.spec)) == list(TASKS)


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


def sharded(**changes: Any) -> tuple[CompiledPipeline, Any]:
    base = load_profile("prod").profile
    profile = base.model_copy(update={"data": base.data.model_copy(update={"shards": 3}), **changes})
    return compile_profile(profile), profile


def test_features_are_sharded_over_vehicles_when_asked_and_joined_under_the_products_name() -> None:
    compiled, profile = sharded()
    loop = next(node for node in tree(compiled.spec)[0].children if node.kind == "loop")
    assert flat(loop.children) == ["generate_feature_shard"]
    names = flat(tree(compiled.spec))
    assert names.index("generate_feature_shard") < names.index("generate_battery_features")
    assert names.index("generate_battery_features") < names.index("train_fault_classifier")
    assert "generate_battery_features" in [task.name for task in plan_of(compiled, profile).tasks]


def test_one_machine_does_not_shard_and_plan_says_so() -> None:
    compiled, profile = sharded(backend="local")
    assert "generate_feature_shard" not in flat(tree(compiled.spec))
    assert any("data.shards" in warning for warning in plan_of(compiled, profile).warnings)


def test_shards_joined_give_the_features_of_one_task(tmp_path: Path) -> None:
    from types import SimpleNamespace

    from ev_ml.ingest import ingest
    from ev_ml.validate import validate
    from ev_pipeline import components

    def artifact(name: str) -> Any:
        return SimpleNamespace(path=str(tmp_path / name), metadata={})

    ingest("v1", tmp_path / "raw", data={"versions": {"v1": {"fleet": "v1", "vehicles": 7}}})
    validate(tmp_path / "raw", tmp_path / "clean", max_quarantined_share=0.5, min_vehicles=1)
    parts = [artifact(f"part{shard}") for shard in range(3)]
    for shard, part in enumerate(parts):
        components.generate_feature_shard(artifact("clean"), shard, 3, part)
    components.merge_feature_shards(parts, artifact("merged"))
    components.generate_battery_features(artifact("clean"), artifact("whole"))
    import pandas as pd

    keys = ["vehicle_id", "session_id"]
    merged, whole = (pd.read_parquet(tmp_path / n).sort_values(keys, ignore_index=True) for n in ("merged", "whole"))
    pd.testing.assert_frame_equal(merged, whole)


def test_every_gate_asked_for_is_a_condition_of_its_own() -> None:
    base = load_profile("prod").profile
    without = compile_profile(base.model_copy(update={"gates": type(base.gates)()}))
    gate = next(node for node in tree(without.spec)[0].children if node.kind == "gate")
    assert flat(gate.children)[0] == "register_fault_model"


@pytest.mark.parametrize("name", ["local", "dev", "qa", "prod"])
def test_each_shipped_profile_compiles_with_its_environment_as_default(name: str) -> None:
    compiled = compile_profile(load_profile(name).profile)
    assert coerce(compiled.spec, {})["environment"] == name
    assert compiled.spec["pipelineInfo"]["name"] == "ev-battery-health-fault-pipeline"
    assert (
        compiled.spec["pipelineInfo"]["description"]
        == "Production-grade Kubeflow pipeline for EV Battery Health Fault Classification"
    )


def test_a_parameter_without_default_must_be_given_and_structures_are_json() -> None:
    definitions = {
        "needed": {"parameterType": "STRING"},
        "flag": {"parameterType": "BOOLEAN", "defaultValue": False},
        "many": {"parameterType": "LIST", "isOptional": True},
        "count": {"parameterType": "NUMBER_INTEGER", "isOptional": True},
    }
    spec = {"root": {"inputDefinitions": {"parameters": definitions}}}
    assert coerce(spec, {"needed": "1", "flag": "TRUE", "many": "[1]", "count": "4"}) == {
        "needed": "1", "flag": True, "many": [1], "count": 4,
    }  # fmt: skip
    for raw, said in (
        ({}, "needed is missing"),
        ({"needed": "1", "flag": "maybe"}, "true or false"),
        ({"needed": "1", "many": "{}"}, "JSON of type LIST"),
        ({"needed": "1", "count": "4.5"}, "a whole number"),
    ):
        with pytest.raises(UsageError, match=said):
            coerce(spec, raw)


def test_a_stale_file_is_told_by_a_diff(prod: CompiledPipeline, tmp_path: Path) -> None:
    kept = tmp_path / "pipeline.yaml"
    prod.write(kept)
    assert difference(prod, kept) == ""
    kept.write_text(kept.read_text().replace("8Gi", "1Gi"))
    assert "8Gi" in difference(prod, kept)
    assert difference(prod, tmp_path / "absent") != ""


def test_a_prebuilt_image_must_be_named_by_digest() -> None:
    base = load_profile("prod").profile
    named = base.image.model_copy(update={"name": "registry.example/ev:latest"})
    with pytest.raises(RefusedError, match="not named by digest"):
        require_image(base.model_copy(update={"image": named}))
    pinned = named.model_copy(update={"name": "registry.example/ev@sha256:" + "0" * 64})
    require_image(base.model_copy(update={"image": pinned}))


def test_the_tasks_that_use_the_store_get_its_credentials_from_the_secret() -> None:
    base = load_profile("prod").profile
    store = base.store.model_copy(update={"secret": "store-keys"})
    compiled = compile_profile(base.model_copy(update={"store": store}))
    executors = compiled.platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    using = {label for label, executor in executors.items() if "secretAsEnv" in executor}
    assert using == {"exec-register-fault-model", "exec-deploy-model-kserve", "exec-setup-drift-monitoring"}
    mapped = executors["exec-register-fault-model"]["secretAsEnv"][0]
    assert mapped["secretName"] == "store-keys"
    assert [each["envVar"] for each in mapped["keyToEnv"]] == ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"]


@pytest.mark.parametrize("name", ["local", "dev", "qa", "prod"])
def test_the_pipeline_has_all_nine_tasks_and_watches_what_serves(name: str) -> None:
    local = compile_profile(load_profile(name).profile)
    names = flat(tree(local.spec))
    assert names == list(TASKS)
    gate = next(
        c["dag"]["tasks"]
        for c in local.spec["components"].values()
        if "register-fault-model" in c.get("dag", {}).get("tasks", {})
    )
    assert "deploy-model-kserve" in gate["setup-drift-monitoring"]["dependentTasks"]
