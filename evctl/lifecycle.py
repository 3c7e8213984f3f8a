"""Use cases over a backend: submit, follow, wait, cancel, retry, and what a run's exit code is."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from evctl.backends.base import GOOD_TASK_STATES, Backend, Run, RunRequest, RunState, TaskState
from evctl.errors import DeadlineError, FailedError, RefusedError, UnavailableError, UsageError

if TYPE_CHECKING:
    from evctl.profile import Profile

OK, FAILED, REFUSED, NOT_FINISHED = 0, 1, 5, 8
CANCEL_TIMEOUT_S = 60.0
STILL_S = 30.0
"""How long a wait goes on without a word."""
CLUSTER_CANCEL_TIMEOUT_S = 600.0
"""A pod's grace, and then the exit handler's own pods, which may have to be pulled first."""
LOCAL_POLL_S, CLUSTER_POLL_S = 0.3, 1.0
AGAIN = "; looking again"
OUTAGE_S = 120.0
"""What the KFP API's pod takes to come up again elsewhere, image and all."""
REGISTER_TASKS = frozenset({"register_fault_model", "register"})
REFUSAL = f"{RefusedError.__module__}.{RefusedError.__name__}: "
"""How Python ends the traceback of a step that was refused."""
COMMIT_VARIABLES = ("EV_GIT_COMMIT", "GITHUB_SHA", "CI_COMMIT_SHA")


def exit_code_of(run: Run) -> int:
    """Return 0 registered, 5 the gate or a policy refused, 1 failed or cancelled, 8 not finished.

    The register task decides, since a refused run succeeds too; a pipeline without one is fine when it succeeded.
    """
    if not run.finished:
        return NOT_FINISHED
    if run.state is not RunState.SUCCEEDED:
        return REFUSED if run.state is RunState.FAILED and refused_by_policy(run) else FAILED
    registering = {task.state for task in run.tasks if task.kind == "task" and task.name in REGISTER_TASKS}
    if registering & GOOD_TASK_STATES or (run.tasks and not registering):
        return OK
    if run.gate.decision == "refused" or TaskState.SKIPPED in registering:
        return REFUSED
    return FAILED if registering else OK


def refused_by_policy(run: Run) -> bool:
    """Whether all that failed is a step that was not allowed: the deploy step, by the policy `evctl promote` keeps too."""
    reasons = [task.reason or "" for task in run.tasks if task.kind == "task" and task.state is TaskState.FAILED]
    return bool(reasons) and all(REFUSAL in reason for reason in reasons)


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
    from evctl.compiler import coerce, compile_profile

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
        raise UsageError(
            f"accuracy_threshold is a share between 0 and 1, not {threshold:g}",
            hint="evctl run --accuracy-threshold 0.9",
        )
    package = folder / "pipeline.yaml"
    compiled.write(package)
    described = describe(profile) if profile.backend == "kubeflow" else ""
    wanted = name or run_name(profile, version)
    return backend.submit(RunRequest(wanted, package, compiled.digest, parameters, use_cache, described))


def describe(profile: Profile) -> str:
    """Return where a run or an upload comes from: a Kubeflow run has no labels, only a description."""
    from evctl.backends.local.content import source_commit

    commit = source_commit() or next((os.environ[name] for name in COMMIT_VARIABLES if os.environ.get(name)), "unknown")
    digest = hashlib.sha256(profile.model_dump_json().encode()).hexdigest()[:12]
    return f"commit {commit}, profile {profile.name} {digest}"


def watch(profile: Profile, backend: Backend, run_id: str, *, timeout_s: float | None = None) -> Iterator[Run]:
    """Follow a run at its engine's pace; one that cannot start is given up after the profile's `pending_timeout_s`."""
    return follow(
        backend,
        run_id,
        poll_s=poll_of(profile),
        timeout_s=timeout_s,
        patience_s=profile.pending_timeout_s,
        outage_s=outage_of(profile),
    )


def outage_of(profile: Profile) -> float:
    """Return how long a profile's server may be away without an end to what waits for a run."""
    return 0.0 if profile.backend == "local" else OUTAGE_S


def poll_of(profile: Profile) -> float:
    """Return the seconds between two looks: a server is asked at most once a second."""
    return LOCAL_POLL_S if profile.backend == "local" else max(CLUSTER_POLL_S, profile.poll_s)


def follow(
    backend: Backend,
    run_id: str,
    *,
    poll_s: float = LOCAL_POLL_S,
    timeout_s: float | None = None,
    patience_s: float | None = None,
    outage_s: float = 0.0,
    meanwhile: str = "goes on without us",
) -> Iterator[Run]:
    """Yield the run now and at each poll until it has ended.

    Args:
        patience_s: how long nothing may be able to start; None waits for ever.
        outage_s: how long nobody may answer once somebody has: an API server that is restarted ends no watch.
        meanwhile: what becomes of the run when nobody answers.

    Raises:
        DeadlineError: it has not ended in time; it goes on. FailedError: it cannot start. UnavailableError: nobody answers.
    """
    short = run_id[:8]
    deadline = None if timeout_s is None else time.monotonic() + timeout_s
    waiting: tuple[object, float] = (None, 0.0)
    answered: tuple[Run | None, float] = (None, 0.0)
    while True:
        looked = time.monotonic()
        try:
            run = backend.get(run_id)
            answered = (run, time.monotonic())
        except UnavailableError as error:
            if answered[0] is None or time.monotonic() - answered[1] >= outage_s:
                raise UnavailableError(
                    f"{error.message}; run {short} {meanwhile}", hint=f"evctl status {short} --watch"
                ) from error
            run = replace(answered[0], warnings=(*answered[0].warnings, f"{error.message}{AGAIN}"))
        yield run
        if run.finished:
            return
        if deadline is not None and time.monotonic() > deadline:
            raise DeadlineError(
                f"run {short} has not ended after {timeout_s:g} s; it goes on", hint=f"evctl status {short} --watch"
            )
        # measured here: the cluster's clock may be an hour off
        standing = standstill(run)
        if standing != waiting[0]:
            waiting = (standing, looked)
        if standing is not None and patience_s is not None and time.monotonic() - waiting[1] >= patience_s:
            raise FailedError(_why_stuck(run, patience_s), hint=f"evctl cancel {short}")
        time.sleep(max(0.0, looked + poll_s - time.monotonic()))


def standstill(run: Run) -> object | None:
    """Return what a run is stuck at, None while it can move.

    It is stuck while a pod cannot start, except for want of room that tasks of its own still take; and, where pods cannot be
    seen, while tasks wait and none runs. It is another standstill once any task has moved.
    """
    tasks = [task for task in run.tasks if task.kind == "task"]
    if not tasks and run.blocked_since is None:
        return ("waiting", ())  # nobody has begun with it
    states = tuple((task.path, task.name, task.state) for task in tasks)
    running = any(task.state is TaskState.RUNNING for task in tasks)
    if run.blocked_since is not None:
        reasons = [task.reason or "" for task in tasks if task.state is TaskState.PENDING and task.reason]
        crowded = bool(reasons) and all(reason.startswith("Unschedulable") for reason in reasons)
        return None if running and crowded else ("blocked", states)
    waiting = any(task.state is TaskState.PENDING for task in tasks)
    return ("waiting", states) if waiting and not running else None


def _why_stuck(run: Run, patience_s: float) -> str:
    signs = ("cannot start", "nothing can start", "is being taken away")
    blocked = next((warning for warning in run.warnings if any(sign in warning for sign in signs)), None)
    why = blocked or "no task of it runs, and its pods are not yet made or cannot be seen from here to say why"
    return f"run {run.run_id[:8]} has been stuck for {patience_s:g} s: {why}; it goes on waiting"


def cancel_and_wait(
    backend: Backend,
    run_id: str,
    *,
    timeout_s: float = CANCEL_TIMEOUT_S,
    poll_s: float = LOCAL_POLL_S,
    outage_s: float = 0.0,
    tell: Callable[[str], None] = lambda _: None,
) -> Run:
    """Ask for a run's end and wait until it is CANCELED.

    Args:
        outage_s: as in `follow`. tell: hears from time to time what has not ended yet.
    """
    backend.cancel(run_id)
    told = time.monotonic()
    ending = follow(backend, run_id, timeout_s=timeout_s, poll_s=poll_s, outage_s=outage_s, meanwhile="was told to end")
    for run in ending:
        if not run.finished and time.monotonic() - told >= STILL_S:
            told = time.monotonic()
            tell(_still(run))
    if run.state is not RunState.CANCELED:
        raise FailedError(
            f"run {run_id[:8]} ended {run.state.value} before it could be cancelled", hint=f"evctl status {run_id[:8]}"
        )
    return run


def _still(run: Run) -> str:
    """Name what is at work or cannot start; a task that nobody has begun does not come any more."""
    if away := next((each for each in run.warnings if each.endswith(AGAIN)), None):
        return f"still waiting for run {run.run_id[:8]} to end: {away}"
    tasks = [task for task in run.tasks if task.kind == "task"]
    open_ones = [
        task for task in tasks
        if task.state is TaskState.RUNNING or (task.state is TaskState.PENDING and task.reason)
    ]  # fmt: skip
    what = ", ".join(task.label + (f" ({task.reason})" if task.reason else "") for task in open_ones)
    return f"still waiting for run {run.run_id[:8]} to end: {what or 'no task of it is at work'}"


def untold(run: Run) -> str | None:
    """Return, of a run that has ended, that its exit handler did not run; None when it did, or there is none.

    Argo ends an exit handler whose pod has no place yet some ten seconds after a run's end was asked for.
    """
    names = [task.label for task in run.tasks if task.always_runs and task.state not in GOOD_TASK_STATES]
    if not run.finished or not names:
        return None
    return f"{', '.join(names)} did not run to its end, so nobody may have been told of this"


def retry_and_check(backend: Backend, run_id: str, *, timeout_s: float = 20.0, poll_s: float = 0.1) -> Run:
    """Retry a run and wait until it moves."""
    backend.retry(run_id)
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        run = backend.get(run_id)
        if run.state is RunState.RUNNING or run.finished:
            return run
        time.sleep(poll_s)
    raise RefusedError(f"run {run_id[:8]} did not start again in {timeout_s:g} s", hint="evctl run")


def failed_tasks(run: Run) -> list[str]:
    """Return the labels of the tasks that failed: in a loop, of the iterations that did."""
    tasks = [task for task in run.tasks if task.kind == "task" or task.pod]
    return [task.label for task in tasks if task.state is TaskState.FAILED]
