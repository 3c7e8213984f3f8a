"""Results as lines a person reads; one function a result, no I/O."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime

from evctl import lifecycle
from evctl.backends.base import (
    TERMINAL_TASK_STATES,
    Artifact,
    Experiment,
    Outputs,
    Run,
    RunState,
    RunSummary,
    TaskState,
    TaskStatus,
)
from evctl.output import columns

SIGNS = {
    TaskState.PENDING: "·",
    TaskState.RUNNING: "↻",
    TaskState.SUCCEEDED: "✓",
    TaskState.CACHED: "≡",
    TaskState.FAILED: "✗",
    TaskState.SKIPPED: "–",
    TaskState.CANCELED: "■",
}
STYLES = {
    TaskState.RUNNING: "cyan",
    TaskState.SUCCEEDED: "green",
    TaskState.CACHED: "blue",
    TaskState.FAILED: "red",
    TaskState.CANCELED: "yellow",
    TaskState.SKIPPED: "dim",
    TaskState.PENDING: "dim",
}


def clock(seconds: float) -> str:
    """Return 0:41 or 1:02:03."""
    whole = int(seconds)
    hours, minutes = whole // 3600, whole % 3600 // 60
    return f"{hours}:{minutes:02}:{whole % 60:02}" if hours else f"{minutes}:{whole % 60:02}"


def header(run: Run) -> str:
    """Return the tree's first line."""
    until = run.finished_at or datetime.now(UTC)
    elapsed = clock(max(0.0, (until - run.created_at).total_seconds()))
    return f"run {run.run_id}  {run.name}  {run.state.value}  {elapsed}"


def task_lines(run: Run) -> Iterator[tuple[TaskStatus, str]]:
    """Yield each line of the tree with what it is of; a gate that has decided says so."""
    gates = [task for task in run.tasks if task.kind == "gate"]
    # of several gates the run knows one decision only
    decision = run.gate.decision if len(gates) == 1 and run.gate.decision != "not_reached" else ""
    for task in run.tasks:
        line = task_line(task)
        yield task, f"{line:<44} {decision}" if task.kind == "gate" and decision else line


def task_line(task: TaskStatus) -> str:
    """Return one line of the tree."""
    indent = "  " * (1 + len(task.path))
    sign = "◇" if task.kind == "gate" else SIGNS[task.state]
    name = f"gate {task.note or task.name}" if task.kind == "gate" else task.label
    return f"{indent}{sign} {name:<30}{_took(task):>9}   {_says(task)}".rstrip()


def _took(task: TaskStatus) -> str:
    if task.kind != "task" or task.started_at is None:
        return ""
    if task.state is TaskState.CACHED:
        return "cached"
    if task.finished_at is None:
        return clock((datetime.now(UTC) - task.started_at).total_seconds())
    return f"{task.duration_s:.1f}s"


def _says(task: TaskStatus) -> str:
    if task.kind != "task":
        return task.reason or ""
    if task.reason:
        many = f"attempt {task.attempts} of {task.max_attempts}: " if task.max_attempts > 1 and task.attempts else ""
        return task.reason if task.reason.startswith("attempt") else many + task.reason
    if task.note:
        return task.note
    if task.state is TaskState.RUNNING and task.attempts > 1:
        return f"attempt {task.attempts} of {task.max_attempts}"
    return "always runs" if task.always_runs and task.state is TaskState.PENDING else ""


def progress(run: Run, now: datetime) -> tuple[float, str]:
    """Return how far a run is, 0 to 1, and that in words: by what tasks took before, else by their number.

    A running task counts for at most 95 % of what it took before: it may be slower this time.
    """
    tasks = [task for task in run.tasks if task.kind == "task"]
    done = [task for task in tasks if task.state in TERMINAL_TASK_STATES]
    count = f"{len(done)} of {len(tasks)}"
    known = [task.expected_s for task in tasks if task.expected_s is not None]
    if not known or not any(known):
        return len(done) / max(1, len(tasks)), count
    usual = sum(known) / len(known)
    weights = {id(task): task.expected_s if task.expected_s is not None else usual for task in tasks}
    reached = sum(weights[id(task)] for task in done)
    for task in tasks:
        if task.state is TaskState.RUNNING and task.started_at is not None:
            elapsed = (now - task.started_at).total_seconds()
            reached += min(max(0.0, elapsed), 0.95 * weights[id(task)])
    total = sum(weights.values())
    return min(1.0, reached / total), f"{count}, about {clock(max(1.0, total - reached))} left"


def run_lines(run: Run) -> Iterator[str]:
    """Yield a run's tree, its verdict, and what to type next."""
    yield header(run)
    yield from (line for _, line in task_lines(run))
    for warning in run.warnings:
        yield f"  warning: {warning}"
    yield from verdict_lines(run)


def verdict_lines(run: Run) -> Iterator[str]:
    """Yield how a finished run ended and the next commands."""
    short = run.run_id[:8]
    if not run.finished:
        return
    if run.state is RunState.CANCELED:
        yield f"cancelled; evctl retry {short} goes on from what succeeded"
    elif run.state is RunState.FAILED:
        shown = f"; the model {run.model.version} was registered all the same" if run.model else ""
        refused = lifecycle.refused_by_policy(run)
        why = (run.reason or "no reason recorded").replace(lifecycle.REFUSAL, "" if refused else lifecycle.REFUSAL)
        yield f"{'refused' if refused else 'failed'}: {why}{shown}"
        again = f"evctl promote {short}" if run.model else f"evctl retry {short}"
        yield f"next: evctl logs {short} --failed   then: {again}"
    elif run.gate.decision == "refused" and lifecycle.exit_code_of(run) == lifecycle.OK:
        yield f"succeeded; what is behind a gate was left out: {'; '.join(run.gate.reasons)}"
        yield f"next: evctl outputs {short}"
    elif run.gate.decision == "refused":
        yield f"refused by the gate: {'; '.join(run.gate.reasons)}; no model was registered"
        yield f"next: evctl outputs {short}"
    elif run.model:
        yield f"registered model {run.model.version} at {run.model.uri}"
        if any(task.name == "deploy_model_kserve" and task.state is TaskState.SUCCEEDED for task in run.tasks):
            yield f"it serves; next: evctl predict examples/session.csv   evctl serving   evctl outputs {short}"
        else:
            yield f"next: evctl outputs {short}   evctl promote {short}   evctl runs"
    elif run.state is RunState.SUCCEEDED:
        yield f"succeeded; next: evctl outputs {short}"


def runs_lines(runs: Sequence[RunSummary]) -> list[str]:
    """Return the table of runs."""
    if not runs:
        return ["no runs here; start one with: evctl run"]
    rows = [("RUN", "STATE", "CREATED", "TOOK", "DATA", "ACCURACY", "MODEL", "NAME")]
    for run in runs:
        took = clock((run.finished_at - run.created_at).total_seconds()) if run.finished_at else ""
        rows.append(
            (
                run.run_id,
                run.state.value,
                f"{run.created_at:%Y-%m-%d %H:%M:%SZ}",
                took,
                run.data_version or "",
                f"{run.accuracy:.4f}" if run.accuracy is not None else "",
                run.model_version or "",
                run.name,
            )
        )
    return columns(rows)


def outputs_lines(outputs: Outputs) -> Iterator[str]:
    """Yield parameters, metrics and artifacts, apart."""
    yield "parameters"
    yield from columns([("  " + key, str(value)) for key, value in outputs.parameters.items()])
    metrics = [
        ("  " + f"{each.task}.{key}", f"{value:.4f}" if isinstance(value, float) else str(value))
        for each in outputs.artifacts
        if each.type == "system.Metrics"
        for key, value in sorted(each.metadata.items())
    ]
    if metrics:
        yield from ("", "metrics", *columns(metrics))
    yield from ("", "artifacts")
    yield from columns(
        [
            (
                f"  {each.task}.{each.name}",
                each.type,
                _size(each),
                each.uri,
            )
            for each in outputs.artifacts
        ]
    )


def _size(artifact: Artifact) -> str:
    if artifact.size_bytes is not None:
        return f"{artifact.size_bytes:,} B"
    # a remote store may not have told, and KFP writes no file for metrics
    return "-" if "://" in artifact.uri and not artifact.uri.startswith("file://") else "gone"


def experiments_lines(experiments: Sequence[Experiment]) -> list[str]:
    """Return the table of experiments."""
    if not experiments:
        return ["no experiments yet; a run's is made when missing"]
    return columns([("NAME", "ID"), *((each.name, each.experiment_id) for each in experiments)])
