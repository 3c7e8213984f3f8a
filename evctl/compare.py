"""Two runs side by side: what went in, what came out, and what that took."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from evctl.backends.base import Backend, Outputs, Run
from evctl.errors import EvctlError

METRICS = ("accuracy", "recall", "pr_auc", "roc_auc", "false_alarms_per_1000", "brier", "ece")
"""In this order; whatever else is a number in a Metrics artifact follows."""


def compare_runs(first: tuple[Backend, str], second: tuple[Backend, str]) -> dict[str, Any]:
    """Return the comparison of two runs, each with its own engine. NotFoundError when one does not exist."""
    sides = [(backend.get(run_id), _outputs(backend, run_id)) for backend, run_id in (first, second)]
    return comparison(*sides[0], *sides[1])


def comparison(a: Run, outputs_a: Outputs | None, b: Run, outputs_b: Outputs | None) -> dict[str, Any]:
    """Return `evctl compare -o json`'s document; `difference` is second minus first."""
    return {
        "runs": [_head(a), _head(b)],
        "parameters": _pairs(a.parameters, b.parameters),
        "data": _pairs(data_of(outputs_a), data_of(outputs_b)),
        "metrics": _differences(metrics_of(a, outputs_a), metrics_of(b, outputs_b)),
        "gate": _pairs(_gate(a), _gate(b)),
        "durations": _differences(_durations(a), _durations(b)),
        "tasks": [entry for entry in _tasks(a, b) if entry["changed"]],
    }


def metrics_of(run: Run, outputs: Outputs | None) -> dict[str, float]:
    """Return a run's metrics: Metrics artifacts, output parameters, the gate's accuracy."""
    found: dict[str, float] = {}
    if run.gate.accuracy is not None:
        found["accuracy"] = run.gate.accuracy
    if outputs is not None:
        for key, value in outputs.parameters.items():
            name = key.rsplit(".", 1)[-1]
            if name in METRICS and _number(value):
                found[name] = float(value)
        for artifact in outputs.artifacts:
            if artifact.type.endswith("Metrics"):
                found |= {k: float(v) for k, v in artifact.metadata.items() if _number(v)}
    order = [*(name for name in METRICS if name in found), *(name for name in found if name not in METRICS)]
    return {name: found[name] for name in order}


def data_of(outputs: Outputs | None) -> dict[str, Any]:
    """Return what the data was: rows, vehicles, digest, rows set aside, sessions."""
    found: dict[str, Any] = {}
    wanted = {
        "raw_data": ("rows", "vehicles", "digest"),
        "clean_data": ("quarantined",),
        "features": ("sessions",),
    }
    for artifact in outputs.artifacts if outputs else ():
        for key in wanted.get(artifact.name, ()):
            if key in artifact.metadata:
                found.setdefault(key, artifact.metadata[key])
    return found


def _head(run: Run) -> dict[str, Any]:
    return {
        "run_id": run.run_id,
        "name": run.name,
        "env": run.env,
        "state": run.state.value,
        "model": run.model.version if run.model else None,
    }


def _gate(run: Run) -> dict[str, Any]:
    return {
        "decision": run.gate.decision,
        "threshold": run.gate.threshold,
        "reasons": list(run.gate.reasons),
    }


def _durations(run: Run) -> dict[str, float]:
    found = {} if run.duration_s is None else {"run": run.duration_s}
    for task in run.tasks:
        if task.kind == "task" and task.duration_s is not None:
            found[task.label] = task.duration_s
    return found


def _tasks(a: Run, b: Run) -> list[dict[str, Any]]:
    sides = [{t.label: t for t in run.tasks if t.kind == "task"} for run in (a, b)]
    entries = []
    for name in [*sides[0], *(name for name in sides[1] if name not in sides[0])]:
        states = [side[name].state.value if name in side else None for side in sides]
        attempts = [side[name].attempts if name in side else None for side in sides]
        reasons = [side[name].reason if name in side else None for side in sides]
        changed = states[0] != states[1] or attempts[0] != attempts[1] or reasons[0] != reasons[1]
        entries.append({"name": name, "changed": changed, "states": states, "attempts": attempts, "reasons": reasons})
    return entries


def _pairs(a: Mapping[str, Any], b: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    names = [*a, *(name for name in b if name not in a)]
    return {
        name: {"first": a.get(name), "second": b.get(name), "changed": a.get(name) != b.get(name)} for name in names
    }


def _differences(a: Mapping[str, float], b: Mapping[str, float]) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for name in [*a, *(name for name in b if name not in a)]:
        first, second = a.get(name), b.get(name)
        difference = None if first is None or second is None else round(second - first, 6)
        found[name] = {"first": first, "second": second, "difference": difference}
    return found


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _outputs(backend: Backend, run_id: str) -> Outputs | None:
    try:
        return backend.outputs(run_id)
    except EvctlError:
        return None
