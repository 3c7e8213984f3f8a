"""Results as the JSON that scripts hold on to (design: "JSON, stable"). Pure; times are RFC 3339 UTC."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from evctl.backends.base import Experiment, Outputs, Run, RunSummary, TaskStatus


def stamp(moment: datetime | None) -> str | None:
    """Return a time as RFC 3339 in UTC, to the millisecond."""
    if moment is None:
        return None
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def seconds(value: float | None) -> float | None:
    """Return a duration to the millisecond."""
    return None if value is None else round(value, 3)


def run_document(run: Run) -> dict[str, Any]:
    """Return what `run` and `status` print."""
    gate = run.gate
    return {
        "run_id": run.run_id,
        "name": run.name,
        "env": run.env,
        "state": run.state.value,
        "created_at": stamp(run.created_at),
        "finished_at": stamp(run.finished_at),
        "duration_s": seconds(run.duration_s),
        "parameters": dict(run.parameters),
        "tasks": [_task(task) for task in run.tasks if task.kind == "task"],
        "gate": {
            "decision": gate.decision,
            "accuracy": gate.accuracy,
            "threshold": gate.threshold,
            "reasons": list(gate.reasons),
        },
        "model": {"version": run.model.version, "uri": run.model.uri} if run.model else None,
        "url": run.url,
        "reason": run.reason,
        "warnings": list(run.warnings),
        "blocked_since": stamp(run.blocked_since),
    }


def _task(task: TaskStatus) -> dict[str, Any]:
    return {
        "name": task.label,
        "state": task.state.value,
        "cached": task.cached,
        "attempts": task.attempts,
        "started_at": stamp(task.started_at),
        "finished_at": stamp(task.finished_at),
        "duration_s": seconds(task.duration_s),
        "reason": task.reason,
        "pod": task.pod,
    }


def runs_document(runs: Sequence[RunSummary]) -> dict[str, Any]:
    """Return what `runs` prints."""
    return {
        "runs": [
            {
                "run_id": run.run_id,
                "name": run.name,
                "env": run.env,
                "state": run.state.value,
                "created_at": stamp(run.created_at),
                "finished_at": stamp(run.finished_at),
                "data_version": run.data_version,
                "experiment": run.experiment,
                "accuracy": run.accuracy,
                "model_version": run.model_version,
            }
            for run in runs
        ]
    }


def outputs_document(outputs: Outputs) -> dict[str, Any]:
    """Return what `outputs` prints."""
    return {
        "run_id": outputs.run_id,
        "parameters": dict(outputs.parameters),
        "artifacts": [
            {
                "task": each.task,
                "name": each.name,
                "type": each.type,
                "uri": each.uri,
                "path": each.path,
                "size_bytes": each.size_bytes,
                "metadata": dict(each.metadata),
            }
            for each in outputs.artifacts
        ],
    }


def experiments_document(experiments: Sequence[Experiment]) -> dict[str, Any]:
    """Return what `experiments` prints."""
    return {
        "experiments": [
            {"experiment_id": each.experiment_id, "name": each.name, "created_at": stamp(each.created_at)}
            for each in experiments
        ]
    }
