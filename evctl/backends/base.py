"""What every engine must answer, and the frozen values it answers with.

Nothing here knows kfp, Kubernetes or SQLite. Times are timezone-aware UTC; durations are seconds.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable


class RunState(StrEnum):
    """How far a run is. `TERMINAL_RUN_STATES` are final until a retry."""

    PENDING = "PENDING"
    RUNNING = "RUNNING"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    SKIPPED = "SKIPPED"
    CANCELED = "CANCELED"


TERMINAL_RUN_STATES = frozenset({RunState.SUCCEEDED, RunState.FAILED, RunState.SKIPPED, RunState.CANCELED})


class TaskState(StrEnum):
    """How far a task is; CACHED is a success that did not run."""

    PENDING = "PENDING"
    RUNNING = "RUNNING"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    SKIPPED = "SKIPPED"
    CANCELED = "CANCELED"
    CACHED = "CACHED"


TERMINAL_TASK_STATES = frozenset(TaskState) - {TaskState.PENDING, TaskState.RUNNING}
GOOD_TASK_STATES = frozenset({TaskState.SUCCEEDED, TaskState.CACHED})

NodeKind = Literal["task", "gate", "loop", "group", "exit_handler"]


@dataclass(frozen=True, slots=True)
class TaskStatus:
    """One line of the task tree, in the order of the flow.

    Only `kind == "task"` goes into the JSON `tasks`; gates, loops and groups are there to draw the tree.
    `path` is the chain of enclosing nodes' names (outermost first), so a loop's iterations stay apart.
    """

    name: str
    state: TaskState
    kind: NodeKind = "task"
    path: tuple[str, ...] = ()
    cached: bool = False
    attempts: int = 0
    max_attempts: int = 1
    started_at: datetime | None = None
    finished_at: datetime | None = None
    reason: str | None = None
    pod: str | None = None
    note: str | None = None
    """What the task says of its result ("1,036,800 rows, 320 vehicles"), a gate's condition in words."""
    always_runs: bool = False
    expected_s: float | None = None
    """How long this task took in the last good run, for the progress bar."""
    group: str = ""
    """Its groups' names, where another task of the run has its name: a pipeline that is used twice."""

    @property
    def label(self) -> str:
        """Its name, and `[i]` for each loop around it: what outputs and logs call it too."""
        if self.group:
            return f"{self.group}/{self.name}"
        return self.name + "".join(f"[{part}]" for part in self.path if part.isdigit())

    @property
    def duration_s(self) -> float | None:
        """Seconds from start to finish; None until it is finished."""
        if self.started_at is None or self.finished_at is None:
            return None
        return max(0.0, (self.finished_at - self.started_at).total_seconds())


GateDecision = Literal["passed", "refused", "not_reached"]


@dataclass(frozen=True, slots=True)
class Gate:
    """What the accuracy gate decided; `reasons` is empty unless it refused."""

    decision: GateDecision = "not_reached"
    accuracy: float | None = None
    threshold: float | None = None
    reasons: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class RegisteredModel:
    """The model a run registered. `uri` ends with a slash."""

    version: str
    uri: str


@dataclass(frozen=True, slots=True)
class Run:
    """A run with its task tree."""

    run_id: str
    name: str
    env: str
    state: RunState
    created_at: datetime
    finished_at: datetime | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict)
    tasks: tuple[TaskStatus, ...] = ()
    gate: Gate = field(default_factory=Gate)
    model: RegisteredModel | None = None
    url: str | None = None
    reason: str | None = None
    """Why the run failed, one line; None otherwise."""
    warnings: tuple[str, ...] = ()
    """What could not be learnt ("ML Metadata does not answer"), and what cannot start."""
    blocked_since: datetime | None = None
    """Since when a task has been unable to start (unschedulable, missing secret, image pull)."""

    @property
    def duration_s(self) -> float | None:
        """Seconds from creation to the end; None until it has ended."""
        return None if self.finished_at is None else (self.finished_at - self.created_at).total_seconds()

    @property
    def finished(self) -> bool:
        """Whether the run has ended."""
        return self.state in TERMINAL_RUN_STATES


@dataclass(frozen=True, slots=True)
class RunSummary:
    """One row of `evctl runs`."""

    run_id: str
    name: str
    env: str
    state: RunState
    created_at: datetime
    finished_at: datetime | None = None
    data_version: str | None = None
    experiment: str | None = None
    accuracy: float | None = None
    model_version: str | None = None


@dataclass(frozen=True, slots=True)
class RunQuery:
    """What `evctl runs` asks for."""

    limit: int = 20
    states: frozenset[RunState] = frozenset()
    since: timedelta | None = None
    experiment: str | None = None


@dataclass(frozen=True, slots=True)
class Artifact:
    """A file (or folder) a task wrote. `path` is set when it is readable on this machine."""

    task: str
    name: str
    type: str
    uri: str
    path: str | None = None
    size_bytes: int | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    digest: str | None = None
    """What the engine knows the content to be; `fetch` compares with it."""
    store: str | None = None
    """How the engine says to reach it: KFP's session info (provider, endpoint, the secret's name), JSON."""


@dataclass(frozen=True, slots=True)
class Outputs:
    """A run's output parameters, keyed `task.output`, and its artifacts."""

    run_id: str
    parameters: Mapping[str, Any]
    artifacts: tuple[Artifact, ...]


@dataclass(frozen=True, slots=True)
class RunRequest:
    """What to submit: a compiled package and its parameters, already coerced to the spec's types."""

    name: str
    package: Path
    package_digest: str
    parameters: Mapping[str, Any]
    use_cache: bool = True
    description: str = ""


@dataclass(frozen=True, slots=True)
class LogLine:
    """One line of a task's log."""

    task: str
    text: str
    attempt: int = 1


@dataclass(frozen=True, slots=True)
class Experiment:
    """A named group of runs."""

    experiment_id: str
    name: str
    created_at: datetime | None = None
    description: str = ""


@dataclass(frozen=True, slots=True)
class PipelineVersion:
    """An uploaded pipeline, named by its content."""

    pipeline: str
    version: str
    digest: str
    created_at: datetime | None = None
    unchanged: bool = False
    description: str = ""
    url: str | None = None


@runtime_checkable
class Backend(Protocol):
    """An engine. Every method raises only `evctl.errors`; ids are full ids, never prefixes."""

    def submit(self, request: RunRequest) -> str:
        """Start a run and return its id. Never starts two for one request."""
        ...

    def get(self, run_id: str) -> Run:
        """Return the run with its task tree. NotFoundError if there is none."""
        ...

    def list(self, query: RunQuery) -> Sequence[RunSummary]:
        """Return the newest runs of this environment first."""
        ...

    def outputs(self, run_id: str) -> Outputs:
        """Return output parameters and artifacts of every task, cached ones included."""
        ...

    def fetch(self, artifact: Artifact, target: Path) -> Path:
        """Copy an artifact to `target` (verified where a digest is known) and return where it is."""
        ...

    def logs(
        self, run_id: str, task: str | None, *, follow: bool = False, tail: int | None = None
    ) -> Iterator[LogLine]:
        """Yield log lines of one task, or of all in the order of the flow."""
        ...

    def cancel(self, run_id: str) -> None:
        """Ask for the end of a run; the caller waits for CANCELED."""
        ...

    def retry(self, run_id: str) -> None:
        """Rerun what failed under the same id, keeping what succeeded."""
        ...

    def upload(self, package: Path, digest: str, *, description: str, set_default: bool) -> PipelineVersion:
        """Keep a pipeline version named by content; the same content again is `unchanged`."""
        ...

    def latest_version(self) -> tuple[PipelineVersion, Mapping[str, Any]] | None:
        """Return the newest uploaded version and its pipeline spec (for `plan`'s difference), if any."""
        ...

    def experiments(self) -> Sequence[Experiment]:
        """Return the experiments."""
        ...


@runtime_checkable
class Finder(Protocol):
    """An engine that others use too: it knows runs that were not started from here."""

    def find(self, reference: str) -> Sequence[RunSummary]:
        """Return the runs of a name, or whose id begins so, newest first."""
        ...
