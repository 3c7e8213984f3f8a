"""The documents about pipelines and runs. Times are RFC 3339 in UTC, durations seconds."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from evctl.backends.base import GateDecision, RunState, TaskState
from evctl.schemas.base import Fixed


class Task(Fixed):
    """One task of a run, in the order of the flow."""

    name: str
    state: TaskState
    cached: bool
    attempts: int
    started_at: str | None
    finished_at: str | None
    duration_s: float | None
    reason: str | None
    pod: str | None


class Gate(Fixed):
    """What the accuracy gate decided."""

    decision: GateDecision
    accuracy: float | None
    threshold: float | None
    reasons: list[str]


class ModelRef(Fixed):
    """The model a run registered."""

    version: str
    uri: str


class Run(Fixed):
    """`run`, `status`, `cancel`, `retry`."""

    run_id: str
    name: str
    env: str
    state: RunState
    created_at: str
    finished_at: str | None
    duration_s: float | None
    parameters: dict[str, Any]
    tasks: list[Task]
    gate: Gate
    model: ModelRef | None
    url: str | None
    reason: str | None = None
    warnings: list[str] = Field(default_factory=list)
    blocked_since: str | None = None


class RunRow(Fixed):
    """One run of a list."""

    run_id: str
    name: str
    env: str
    state: RunState
    created_at: str
    finished_at: str | None
    data_version: str | None
    experiment: str | None
    accuracy: float | None
    model_version: str | None


class Runs(Fixed):
    """`runs`, newest first."""

    runs: list[RunRow]


class LogLine(Fixed):
    """One line of a task's log; with `logs -f` each line of the output is one of these."""

    task: str
    attempt: int
    text: str


class Logs(Fixed):
    """`logs`."""

    run_id: str
    lines: list[LogLine]


class Artifact(Fixed):
    """A file or folder a task wrote; `path` where it is readable here."""

    task: str
    name: str
    type: str
    uri: str
    path: str | None
    size_bytes: int | None
    metadata: dict[str, Any]


class Outputs(Fixed):
    """`outputs`; parameters are keyed `task.output`."""

    run_id: str
    parameters: dict[str, Any]
    artifacts: list[Artifact]


class PlannedTask(Fixed):
    """What a run would do in one task."""

    name: str
    image: str | None
    cpu: str | None
    memory: str | None
    accelerator: Any = None
    retries: int
    timeout_s: int | None
    cache: bool
    secrets: list[str]


class LastUpload(Fixed):
    """The newest uploaded version, and how this plan differs from it."""

    version: str
    changes: list[str]


class Plan(Fixed):
    """`plan`."""

    env: str
    digest: str
    tasks: list[PlannedTask]
    parameters: dict[str, Any]
    warnings: list[str]
    last_upload: LastUpload | None


class Upload(Fixed):
    """`upload`."""

    pipeline: str
    version: str
    digest: str
    changed: bool
    default: bool | None = None
    tags: dict[str, str] | None = None
    url: str | None = None


class Experiment(Fixed):
    """A named group of runs."""

    experiment_id: str
    name: str
    created_at: str | None


class Experiments(Fixed):
    """`experiments`."""

    experiments: list[Experiment]


class ReportFile(Fixed):
    """`report`."""

    run_id: str
    path: str
    size_bytes: int


class Pair(Fixed):
    """A value in both runs."""

    first: Any
    second: Any
    changed: bool


class Difference(Fixed):
    """A number in both runs; `difference` is second minus first."""

    first: float | None
    second: float | None
    difference: float | None


class ComparedRun(Fixed):
    """A side of a comparison."""

    run_id: str
    name: str
    env: str
    state: RunState
    model: str | None


class ComparedTask(Fixed):
    """A task in both runs, first and second."""

    name: str
    changed: bool
    states: list[TaskState | None]
    attempts: list[int | None]
    reasons: list[str | None]


class Comparison(Fixed):
    """`compare`."""

    runs: list[ComparedRun]
    parameters: dict[str, Pair]
    data: dict[str, Pair]
    metrics: dict[str, Difference]
    gate: dict[Literal["decision", "threshold", "reasons"], Pair]
    durations: dict[str, Difference]
    tasks: list[ComparedTask]


class ScheduleRow(Fixed):
    """A recurring run or drift check. `change` is of `apply`, `state` of `list`."""

    name: str
    verb: str
    cron: str
    parameters: dict[str, Any]
    enabled: bool
    where: str | None
    next_at: str | None
    change: Literal["created", "updated", "unchanged", "deleted"] | None = None
    state: Literal["applied", "not applied", "differs", "not declared"] | None = None


class SchedulesApplied(Fixed):
    """`schedule apply`."""

    changed: bool
    schedules: list[ScheduleRow]


class Schedules(Fixed):
    """`schedule list`."""

    schedules: list[ScheduleRow]


class SchedulesDeleted(Fixed):
    """`schedule delete`: their names."""

    deleted: list[str]
