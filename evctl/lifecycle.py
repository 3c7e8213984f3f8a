"""Use cases over a backend: submit, follow, wait, cancel, retry, and what a run's exit code is."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from evctl.backends.base import Backend, Run, RunRequest, RunState, TaskState
from evctl.compiler import coerce, compile_profile
from evctl.errors import DeadlineError, FailedError, RefusedError, UsageError
from evctl.profile import Profile

OK, FAILED, REFUSED, NOT_FINISHED = 0, 1, 5, 8
CANCEL_TIMEOUT_S = 60.0


def exit_code_of(run: Run) -> int:
    """Return 0 registered, 5 the gate refused, 1 failed or cancelled, 8 not finished."""
    if not run.finished:
        return NOT_FINISHED
    if run.state is not RunState.SUCCEEDED:
        return FAILED
    return REFUSED if run.gate.decision == "refused" else OK


def run_name(profile: Profile, data_version: str, now: datetime | None = None) -> str:
    """Return a run's name: what, where, on what, when."""
    return f"ev-battery {profile.name} {data_version} {now or datetime.now(UTC):%m%d-%H%M%S}"


def submit(
    profile: Profile,
    backend: Backend,
    raw: dict[str, str],
    folder: Path,
    *,
    use_cache: bool = True,
    name: str | None = None,
) -> str:
    """Compile for the profile, type the parameters, and start a run; nothing is started when one is wrong.

    Args:
        raw: parameters as typed. folder: where the package may be written meanwhile.
    """
    compiled = compile_profile(profile)
    parameters = coerce(compiled.spec, raw)
    version = str(parameters.get("data_version", ""))
    if version not in profile.data.versions:
        raise UsageError(
            f"data version {version!r} is not known; known: {', '.join(sorted(profile.data.versions))}",
            hint="add it to the profile's data.versions, or use one of these",
        )
    threshold = parameters.get("accuracy_threshold")
    if isinstance(threshold, float) and not 0 <= threshold <= 1:
        raise UsageError(f"accuracy_threshold is a share between 0 and 1, not {threshold:g}")
    package = folder / "pipeline.yaml"
    compiled.write(package)
    request = RunRequest(name or run_name(profile, version), package, compiled.digest, parameters, use_cache)
    return backend.submit(request)


def follow(backend: Backend, run_id: str, *, poll_s: float = 0.3, timeout_s: float | None = None) -> Iterator[Run]:
    """Yield the run now and at each poll until it has ended.

    Raises:
        DeadlineError: it has not ended in time; it goes on.
    """
    deadline = None if timeout_s is None else time.monotonic() + timeout_s
    while True:
        run = backend.get(run_id)
        yield run
        if run.finished:
            return
        if deadline is not None and time.monotonic() > deadline:
            raise DeadlineError(
                f"run {run_id[:8]} has not ended after {timeout_s:g} s; it goes on",
                hint=f"evctl status {run_id[:8]} --watch",
            )
        time.sleep(poll_s)


def cancel_and_wait(backend: Backend, run_id: str, *, timeout_s: float = CANCEL_TIMEOUT_S) -> Run:
    """Ask for a run's end and wait until it is CANCELED."""
    backend.cancel(run_id)
    run = _last(follow(backend, run_id, timeout_s=timeout_s))
    if run.state is not RunState.CANCELED:
        raise FailedError(f"run {run_id[:8]} ended {run.state.value} before it could be cancelled")
    return run


def retry_and_check(backend: Backend, run_id: str, *, timeout_s: float = 20.0) -> Run:
    """Retry a run and wait until it moves."""
    backend.retry(run_id)
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        run = backend.get(run_id)
        if run.state is RunState.RUNNING or run.finished:
            return run
        time.sleep(0.1)
    raise RefusedError(f"run {run_id[:8]} did not start again in {timeout_s:g} s", hint="evctl run")


def failed_tasks(run: Run) -> list[str]:
    """Return the names of the tasks that failed."""
    return [task.name for task in run.tasks if task.kind == "task" and task.state is TaskState.FAILED]


def _last(snapshots: Iterator[Run]) -> Run:
    return deque(snapshots, maxlen=1)[0]
