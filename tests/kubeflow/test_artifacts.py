"""Outputs as ML Metadata tells them: by events, loops apart, logs left out."""

from __future__ import annotations

import json
from typing import Any

import pytest

from evctl.backends.base import Outputs
from evctl.backends.kubeflow.artifacts import label, log_artifacts, outputs_of
from evctl.backends.metadata.values import Execution, Link, RunMetadata, StoredArtifact
from evctl.backends.spec import tree
from tests.kubeflow.recorded import situation

pytestmark = pytest.mark.kubeflow


def recorded(name: str) -> Outputs:
    sources = situation(name)
    assert sources.metadata is not None
    return outputs_of("r", sources.metadata, tree(sources.spec or {}))


@pytest.mark.parametrize(
    ("name", "parameters", "artifacts"),
    [
        (
            "succeeded",
            {"ingest.Output": "ok", "evaluate.Output": 0.92, "register.Output": "s3://x"},
            ["ingest.raw", "train.model", "evaluate.metrics"],
        ),
        (
            "cached",
            {"ingest.Output": "ok", "evaluate.Output": 0.92, "register.Output": "s3://x"},
            ["ingest.raw", "train.model", "evaluate.metrics"],
        ),
        (
            "gate_refused",
            {"ingest.Output": "ok", "evaluate.Output": 0.92},
            ["ingest.raw", "train.model", "evaluate.metrics"],
        ),
        ("task_failed", {"ingest.Output": "ok"}, ["ingest.raw"]),
        ("retry_after_failure", {"ingest.Output": "ok"}, ["ingest.raw"]),
    ],
)
def test_recorded_runs_give_their_outputs_in_the_order_of_the_flow(
    name: str, parameters: dict[str, Any], artifacts: list[str]
) -> None:
    found = recorded(name)
    assert dict(found.parameters) == parameters
    assert [f"{each.task}.{each.name}" for each in found.artifacts] == artifacts


def test_a_cached_tasks_artifacts_lie_in_the_older_run_and_metrics_keep_their_values() -> None:
    own, cached = recorded("succeeded"), recorded("cached")
    assert [each.uri for each in cached.artifacts] == [each.uri for each in own.artifacts]
    metrics = next(each for each in cached.artifacts if each.name == "metrics")
    assert (metrics.type, dict(metrics.metadata)) == ("system.Metrics", {"recall": 0.9})
    assert metrics.store is not None
    assert json.loads(metrics.store)["Params"]["secretName"] == "mlpipeline-minio-artifact"


def test_each_attempts_stored_log_is_found_by_its_number() -> None:
    metadata = situation("retries_exhausted").metadata
    assert metadata is not None
    logs = log_artifacts(metadata, "train")
    assert [attempt for attempt, _ in logs] == [1, 2, 3, 4]
    assert logs[3][1].uri.endswith("/executor-logs-3")
    assert log_artifacts(metadata, "nope") == ()


def made(id: int, task: str, parent: int | None, **fields: Any) -> Execution:
    return Execution(id=id, task=task, state="COMPLETE", is_dag=fields.pop("is_dag", False), parent=parent, **fields)


def test_a_loops_iterations_stay_apart_and_nested_loops_too() -> None:
    metadata = RunMetadata(
        executions=(
            made(1, "", None, is_dag=True),
            made(2, "for-loop-1", 1, is_dag=True, iterations=2),
            made(3, "for-loop-1", 2, is_dag=True, iteration=0),
            made(4, "for-loop-1", 2, is_dag=True, iteration=1),
            made(6, "each", 4, outputs={"Output": 20}),
            made(5, "each", 3, outputs={"Output": 10}),
            made(7, "for-loop-2", 4, is_dag=True, iterations=1),
            made(8, "for-loop-2", 7, is_dag=True, iteration=0),
            made(9, "inner", 8, outputs={"Output": 30}),
        ),
        links=(Link(5, 1, "part", True), Link(6, 2, "part", True), Link(6, 1, "part", False)),
        artifacts={
            1: StoredArtifact(1, "system.Dataset", "s3://b/1"),
            2: StoredArtifact(2, "system.Dataset", "s3://b/2"),
        },
    )
    found = outputs_of("r", metadata)
    assert dict(found.parameters) == {"each[0].Output": 10, "each[1].Output": 20, "inner[1][0].Output": 30}
    assert [(each.task, each.uri) for each in found.artifacts] == [("each[0]", "s3://b/1"), ("each[1]", "s3://b/2")]
    assert label("inner", ("for_loop_1", "1", "for_loop_2", "0")) == "inner[1][0]"


def test_tasks_of_one_name_in_two_groups_are_told_apart_and_a_retry_counts_once() -> None:
    metadata = RunMetadata(
        executions=(
            made(1, "", None, is_dag=True),
            made(2, "group-a", 1, is_dag=True),
            made(3, "group-b", 1, is_dag=True),
            made(4, "step", 2, outputs={"Output": "old"}),
            made(5, "step", 3, outputs={"Output": "b"}),
            made(6, "group-a", 1, is_dag=True),
            made(7, "step", 6, outputs={"Output": "a"}),
        )
    )
    assert dict(outputs_of("r", metadata).parameters) == {"group_a/step.Output": "a", "group_b/step.Output": "b"}


def test_a_list_of_artifacts_is_numbered() -> None:
    metadata = RunMetadata(
        executions=(made(1, "", None, is_dag=True), made(2, "many", 1)),
        links=(Link(2, 1, "parts", True), Link(2, 2, "parts", True), Link(2, 2, "parts", True)),
        artifacts={n: StoredArtifact(n, "system.Dataset", f"s3://b/{n}") for n in (1, 2)},
    )
    assert [each.name for each in outputs_of("r", metadata).artifacts] == ["parts[0]", "parts[1]"]
