"""The use cases over any engine: exit codes, following, cancelling, retrying."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import pytest

from evctl import lifecycle
from evctl.backends.base import Backend, Gate, RegisteredModel, Run, RunRequest, RunState, TaskState, TaskStatus
from evctl.errors import DeadlineError, FailedError, RefusedError, UnavailableError, UsageError
from evctl.profile_files import load_profile
from evctl.views import verdict_lines

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
RUN = Run("0123456789", "n", "local", RunState.RUNNING, NOW)


class Engine:
    """Answers with the states it is given, the last one for ever."""

    def __init__(self, *answers: RunState) -> None:
        self.answers = list(answers)
        self.asked: list[str] = []
        self.requests: list[RunRequest] = []

    def get(self, run_id: str) -> Run:
        state = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        return replace(RUN, run_id=run_id, state=state)

    def cancel(self, run_id: str) -> None:
        self.asked.append(f"cancel {run_id}")

    def retry(self, run_id: str) -> None:
        self.asked.append(f"retry {run_id}")

    def submit(self, request: RunRequest) -> str:
        self.requests.append(request)
        return "new"


def backend(*answers: RunState) -> Any:
    return cast(Backend, Engine(*answers))


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Time that passes only while somebody sleeps."""
    now = [0.0]
    monkeypatch.setattr(lifecycle.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(lifecycle.time, "sleep", lambda seconds: now.__setitem__(0, now[0] + seconds))
    return now


@pytest.mark.parametrize(
    ("state", "gate", "code"),
    [
        (RunState.SUCCEEDED, Gate("passed"), 0),
        (RunState.SUCCEEDED, Gate("refused"), 5),
        (RunState.FAILED, Gate("passed"), 1),
        (RunState.FAILED, Gate("refused"), 1),
        (RunState.CANCELED, Gate(), 1),
        (RunState.RUNNING, Gate("passed"), 8),
        (RunState.PENDING, Gate(), 8),
    ],
)
def test_a_run_s_exit_code_says_how_it_ended(state: RunState, gate: Gate, code: int) -> None:
    model = RegisteredModel("v1-0", "file:///m/") if gate.decision == "passed" else None
    assert lifecycle.exit_code_of(replace(RUN, state=state, gate=gate, model=model)) == code


@pytest.mark.usefixtures("clock")
def test_following_yields_each_look_and_ends_with_the_run() -> None:
    seen = list(lifecycle.follow(backend(RunState.PENDING, RunState.RUNNING, RunState.SUCCEEDED), "r"))
    assert [run.state for run in seen] == [RunState.PENDING, RunState.RUNNING, RunState.SUCCEEDED]


def test_following_stops_at_its_timeout_with_124_and_the_run_goes_on(clock: list[float]) -> None:
    engine = backend(RunState.RUNNING)
    with pytest.raises(DeadlineError) as told:
        looks(lifecycle.follow(engine, "0123456789", timeout_s=3))
    assert told.value.exit_code == 124
    assert "goes on" in told.value.message
    assert 3 <= clock[0] < 5
    assert engine.asked == []


def looks(runs: Iterator[Run]) -> Sequence[Run]:
    return list(runs)


@pytest.mark.usefixtures("clock")
def test_cancel_waits_until_it_is_so() -> None:
    engine = backend(RunState.RUNNING, RunState.RUNNING, RunState.CANCELED)
    assert lifecycle.cancel_and_wait(engine, "r").state is RunState.CANCELED
    assert engine.asked == ["cancel r"]


@pytest.mark.usefixtures("clock")
def test_a_long_cancel_says_every_half_minute_what_has_not_ended(clock: list[float]) -> None:
    said: list[str] = []

    class Slow(Engine):
        def get(self, run_id: str) -> Run:
            tasks = (
                TaskStatus("train", TaskState.RUNNING),
                TaskStatus("notify", TaskState.PENDING, reason="no room"),
                TaskStatus("register", TaskState.PENDING),
            )
            state = RunState.RUNNING if clock[0] < 95 else RunState.CANCELED
            return replace(RUN, run_id=run_id, state=state, tasks=tasks)

    lifecycle.cancel_and_wait(cast(Backend, Slow()), "0123456789", timeout_s=600.0, poll_s=1.0, tell=said.append)
    assert said == ["still waiting for run 01234567 to end: train, notify (no room)"] * 3


@pytest.mark.usefixtures("clock")
def test_a_cancel_that_waits_for_a_server_that_is_away_says_so() -> None:
    said: list[str] = []
    engine = Restarting(5, RunState.CANCELED)
    lifecycle.cancel_and_wait(cast(Backend, engine), "r", poll_s=10, outage_s=60, tell=said.append)
    assert said[0] == "still waiting for run r to end: the API does not answer; looking again"


def test_a_run_that_ended_by_itself_before_the_cancel_is_told() -> None:
    with pytest.raises(FailedError, match="SUCCEEDED before it could be cancelled"):
        lifecycle.cancel_and_wait(backend(RunState.SUCCEEDED), "r")


@pytest.mark.usefixtures("clock")
def test_retry_waits_until_the_run_moves_and_says_so_when_it_does_not() -> None:
    moving = backend(RunState.PENDING, RunState.PENDING, RunState.RUNNING)
    assert lifecycle.retry_and_check(moving, "r").state is RunState.RUNNING
    with pytest.raises(RefusedError, match="did not start again"):
        lifecycle.retry_and_check(backend(RunState.PENDING), "r")


def test_the_tasks_that_failed_are_named_without_gates_and_groups() -> None:
    tasks = (
        TaskStatus("good", TaskState.SUCCEEDED),
        TaskStatus("bad", TaskState.FAILED),
        TaskStatus("gate", TaskState.FAILED, kind="gate"),
    )
    assert lifecycle.failed_tasks(replace(RUN, tasks=tasks)) == ["bad"]


def test_a_run_s_name_says_what_where_on_what_and_when() -> None:
    assert lifecycle.run_name(load_profile("local").profile, "v2", NOW) == "ev-battery local v2 1123-120000"


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        ({"data_version": "v9"}, "'v9' is not known; known: v1, v2, v3"),
        ({"accuracy_threshold": "high"}, "must be a number"),
        ({"accuracy_threshold": "nan"}, "must be a number"),
        ({"accuracy_threshold": "1.5"}, "between 0 and 1"),
        ({"nope": "1"}, "no parameter nope; the pipeline has accuracy_threshold, data_version, environment"),
    ],
)
def test_a_wrong_parameter_is_2_before_anything_starts(raw: dict[str, str], said: str, tmp_path: Path) -> None:
    engine = backend(RunState.PENDING)
    with pytest.raises(UsageError) as told:
        lifecycle.submit(load_profile("local").profile, engine, raw, tmp_path)
    assert said in told.value.message
    assert told.value.exit_code == 2
    assert engine.requests == []


def test_what_is_submitted_is_typed_as_the_spec_declares_and_named_by_its_content(tmp_path: Path) -> None:
    engine = backend(RunState.PENDING)
    profile = load_profile("local").profile
    raw = {"accuracy_threshold": "1"}
    assert lifecycle.submit(profile, engine, raw, tmp_path, use_cache=False, name="mine") == "new"
    request = engine.requests[0]
    assert request.parameters == {"data_version": "v1", "accuracy_threshold": 1.0, "environment": "local"}
    assert isinstance(request.parameters["accuracy_threshold"], float)
    assert (request.use_cache, request.name) == (False, "mine")
    assert request.package_digest in request.package.read_text()


def test_a_version_that_looks_like_a_number_stays_the_text_it_is(tmp_path: Path) -> None:
    profile = load_profile("local").profile
    data = profile.data.model_copy(update={"versions": {"2024": profile.data.versions["v1"]}})
    engine = backend(RunState.PENDING)
    lifecycle.submit(profile.model_copy(update={"data": data}), engine, {"data_version": "2024"}, tmp_path)
    assert engine.requests[0].parameters["data_version"] == "2024"


class Restarting(Engine):
    """Answers once, is away for some looks, and answers again."""

    def __init__(self, away: int, end: RunState = RunState.SUCCEEDED) -> None:
        super().__init__(RunState.RUNNING, end)
        self.away, self.looks = away, 0

    def get(self, run_id: str) -> Run:
        self.looks += 1
        if 1 < self.looks <= 1 + self.away:
            raise UnavailableError("the API does not answer")
        return super().get(run_id)


@pytest.mark.usefixtures("clock")
def test_a_server_that_is_restarted_ends_no_watch() -> None:
    seen = list(lifecycle.follow(cast(Backend, Restarting(5)), "r", poll_s=10, outage_s=60))
    assert [run.state for run in seen] == [*[RunState.RUNNING] * 6, RunState.SUCCEEDED]
    assert seen[1].warnings == ("the API does not answer; looking again",) and seen[-1].warnings == ()


@pytest.mark.usefixtures("clock")
def test_a_server_that_stays_away_or_never_was_there_is_told() -> None:
    with pytest.raises(UnavailableError, match="goes on without us"):
        list(lifecycle.follow(cast(Backend, Restarting(50)), "r", poll_s=10, outage_s=60))
    never = Restarting(50)
    never.looks = 1
    with pytest.raises(UnavailableError, match="goes on without us"):
        next(lifecycle.follow(cast(Backend, never), "r", outage_s=60))


@pytest.mark.usefixtures("clock")
def test_a_server_that_is_restarted_ends_no_cancel_and_one_that_stays_away_leaves_a_run_that_was_told_to_end() -> None:
    engine = Restarting(5, RunState.CANCELED)
    assert lifecycle.cancel_and_wait(cast(Backend, engine), "r", poll_s=10, outage_s=60).state is RunState.CANCELED
    assert engine.asked == ["cancel r"]
    with pytest.raises(UnavailableError, match="does not answer; run r was told to end"):
        lifecycle.cancel_and_wait(cast(Backend, Restarting(50)), "r", timeout_s=900, poll_s=10, outage_s=60)


def test_a_run_that_nobody_has_begun_stands_still() -> None:
    assert lifecycle.standstill(replace(RUN, state=RunState.PENDING)) is not None


def failed_at(*reasons: str) -> Run:
    tasks = [TaskStatus(f"t{at}", TaskState.FAILED, reason=reason) for at, reason in enumerate(reasons)]
    done = TaskStatus("register_fault_model", TaskState.SUCCEEDED)
    return replace(RUN, state=RunState.FAILED, tasks=(done, *tasks), reason=f"t0: {reasons[0]}")


def test_a_step_that_policy_refused_is_a_refusal_and_any_other_failure_beside_it_is_a_failure() -> None:
    policy = "evctl.errors.RefusedError: recall is 0.80, 0.10 below the champion's"
    assert lifecycle.exit_code_of(failed_at(policy)) == 5
    assert lifecycle.exit_code_of(failed_at(policy, "OSError: disk")) == 1
    assert lifecycle.exit_code_of(replace(failed_at(policy), state=RunState.CANCELED)) == 1
    told = list(verdict_lines(failed_at(policy)))
    assert told[0] == "refused: t0: recall is 0.80, 0.10 below the champion's"
    assert next(verdict_lines(failed_at("OSError: disk"))) == "failed: t0: OSError: disk"


@pytest.mark.parametrize(
    ("state", "told"), [(TaskState.SUCCEEDED, True), (TaskState.SKIPPED, False), (TaskState.FAILED, False)]
)
def test_an_exit_handler_that_did_not_run_is_told_of(state: TaskState, told: bool) -> None:
    tasks = (TaskStatus("train", TaskState.CANCELED), TaskStatus("notify", state, always_runs=True))
    ended = replace(RUN, state=RunState.CANCELED, tasks=tasks)
    assert lifecycle.untold(ended) == (
        None if told else "notify did not run to its end, so nobody may have been told of this"
    )
    assert lifecycle.untold(replace(ended, state=RunState.RUNNING)) is None
    assert lifecycle.untold(replace(ended, tasks=tasks[:1])) is None
