"""Every recorded situation of a real Kubeflow, and every instant of two whole lives, as a task tree."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from evctl.backends.base import TERMINAL_TASK_STATES, Run, RunState, TaskState
from evctl.backends.kubeflow.join import METADATA_DOWN, Sources, join
from evctl.backends.kubeflow.pods import Pod
from evctl.backends.metadata.values import Execution, RunMetadata
from evctl.views import task_line
from tests.kubeflow.recorded import SITUATIONS, situation, timeline

ORDER = "ingest train evaluate register deploy notify"
S, C, F, P, K, X, R = "SUCCEEDED", "CACHED", "FAILED", "PENDING", "SKIPPED", "CANCELED", "RUNNING"

# situation: run state, states in ORDER, attempts in ORDER, gate, model, what the reason or a warning must say
TABLE = {
    "succeeded": (S, [C, S, S, S, S, S], [0, 1, 1, 1, 1, 1], "passed", "s3://x/", ""),
    "cached": (S, [C, C, C, C, C, S], [0, 0, 0, 0, 0, 1], "passed", "s3://x/", ""),
    "gate_refused": (S, [C, C, C, K, K, S], [0, 0, 0, 0, 0, 1], "refused", None, ""),
    "task_failed": (F, [C, F, K, K, K, S], [0, 1, 0, 0, 0, 1], "not_reached", None, "train: exit code 1"),
    "retry_after_failure": (F, [C, F, K, K, K, S], [0, 1, 0, 0, 0, 1], "not_reached", None, "train: exit"),
    "terminated": (X, [S, X, K, K, K, S], [1, 1, 0, 0, 0, 1], "not_reached", None, "cancelled"),
    "terminated_missing_secret": (X, [S, X, K, K, K, S], [1, 1, 0, 0, 0, 1], "not_reached", None, "cancelled"),
    "terminated_image_pull": (X, [X, K, K, K, K, X], [1, 0, 0, 0, 0, 1], "not_reached", None, "cancelled"),
    "running_unschedulable": (R, [S, P, P, P, P, P], [1, 1, 0, 0, 0, 0], "not_reached", None, "Insufficient cpu"),
    "missing_secret": (R, [S, P, P, P, P, P], [1, 1, 0, 0, 0, 0], "not_reached", None, "does-not-exist"),
    "image_pull_error": (R, [P, P, P, P, P, P], [1, 0, 0, 0, 0, 0], "not_reached", None, "ImagePullBackOff"),
    "retries_exhausted": (F, [F, S], [4, 1], "not_reached", None, "train: exit code 1"),
}


def tasks(run: Run) -> dict[str, TaskState]:
    return {task.name: task.state for task in run.tasks if task.kind == "task"}


def test_the_table_holds_every_recorded_situation() -> None:
    assert set(TABLE) == set(SITUATIONS)


@pytest.mark.parametrize("name", SITUATIONS)
def test_a_recorded_situation_gives_the_right_tree(name: str) -> None:
    state, states, attempts, gate, model, says = TABLE[name]
    run = join(situation(name))
    order = ORDER if name != "retries_exhausted" else "train notify"
    assert run.state == state
    assert [(t.name, t.state) for t in run.tasks if t.kind == "task"] == list(zip(order.split(), states, strict=True))
    assert [t.attempts for t in run.tasks if t.kind == "task"] == attempts
    assert run.gate.decision == gate
    assert (run.model.uri if run.model else None) == model
    assert says in " ".join([run.reason or "", *run.warnings])
    assert (run.blocked_since is not None) == (state == R)
    assert run.finished == (state != R) and (run.finished_at is not None) == run.finished
    assert [t.cached for t in run.tasks] == [t.state is TaskState.CACHED for t in run.tasks]


def test_a_refused_gate_says_by_how_much() -> None:
    gate = join(situation("gate_refused")).gate
    assert (gate.accuracy, gate.threshold) == (0.92, 0.99)
    assert gate.reasons == ("evaluate 0.92 < 0.99",)


def test_gates_and_handlers_are_drawn_but_are_no_tasks() -> None:
    run = join(situation("succeeded"))
    assert [t.name for t in run.tasks if t.kind == "gate"] == ["promotion_gate"]
    register = next(t for t in run.tasks if t.name == "register")
    assert register.path == ("exit_handler_1", "promotion_gate")
    notify = next(t for t in run.tasks if t.name == "notify")
    assert notify.always_runs and notify.path == ()


def test_parameters_hold_the_defaults_too() -> None:
    assert join(situation("cached")).parameters == {
        "accuracy_threshold": 0.9, "data_version": "v1", "environment": "dev", "fail": False,
    }  # fmt: skip


@pytest.mark.parametrize("name", sorted(set(SITUATIONS) - {"running_unschedulable"}))
def test_without_ml_metadata_the_states_are_the_same_and_it_is_said(name: str) -> None:
    whole, alone = join(situation(name)), join(situation(name, mlmd=False, pods=False))
    assert METADATA_DOWN in alone.warnings
    assert alone.state is whole.state and alone.gate.decision == whole.gate.decision
    loose = {TaskState.PENDING: TaskState.RUNNING}  # the API calls a task that waits for its pod running
    assert [loose.get(s, s) if t != "train" and t != "ingest" else s for t, s in tasks(alone).items()] == [
        loose.get(s, s) if t != "train" and t != "ingest" else s for t, s in tasks(whole).items()
    ] or not whole.finished


def test_without_ml_metadata_the_pods_still_say_what_blocks() -> None:
    run = join(situation("missing_secret", mlmd=False))
    assert tasks(run)["train"] is TaskState.PENDING
    assert any("does-not-exist" in warning for warning in run.warnings)


def test_a_log_line_is_the_reason_of_a_failure() -> None:
    sources = situation("task_failed")
    pod = next(t.pod for t in join(sources).tasks if t.name == "train")
    run = join(replace(sources, logs={pod: "RuntimeError: boom"}))
    assert run.reason == "train: RuntimeError: boom"


RANK = {P: 0, R: 1, S: 2, C: 2, F: 2, K: 2, X: 2}


@pytest.mark.parametrize("name", ["life_of_a_run", "cancelled_in_training"])
def test_at_each_instant_of_a_life_no_task_goes_back(name: str) -> None:
    last: dict[str, TaskState] = {}
    for at, sources in timeline(name):
        run = join(sources)
        for task, state in tasks(run).items():
            before = last.get(task, TaskState.PENDING)
            assert RANK[state] >= RANK[before], f"{task} went from {before} to {state} at {at}"
            if before in TERMINAL_TASK_STATES:
                assert state is before
            last[task] = state
        if not run.finished:
            assert (run.finished_at is None and run.model is None) or last["register"] == S
    wanted = {
        "life_of_a_run": dict.fromkeys(ORDER.split(), S),
        "cancelled_in_training": dict(zip(ORDER.split(), [S, X, K, K, K, S], strict=True)),
    }[name]
    assert last == wanted


def test_a_cancelled_life_is_running_until_its_handler_has_ended() -> None:
    states = [join(sources).state for _, sources in timeline("cancelled_in_training")]
    assert states[-1] is RunState.CANCELED
    assert RunState.FAILED not in states


def loop_spec(leaf: str = "work") -> dict[str, object]:
    return {
        "root": {"dag": {"tasks": {"for-loop-1": {
            "componentRef": {"name": "comp-for-loop-1"},
            "parameterIterator": {"itemInput": "x", "items": {"raw": "[1,2]"}},
        }}}},
        "components": {
            "comp-for-loop-1": {"dag": {"tasks": {leaf: {"componentRef": {"name": "comp-work"}}}}},
            "comp-work": {"executorLabel": "exec-work"},
        },
    }  # fmt: skip


def loop_sources(spec: dict[str, object] | None) -> Sources:
    at = datetime(2026, 11, 23, 7, 0, tzinfo=UTC)

    def made(**fields: object) -> Execution:
        return Execution(created_at=at, updated_at=at, **fields)  # type: ignore[arg-type]

    executions = (
        made(id=1, task="", state="RUNNING", is_dag=True),
        made(id=2, task="for-loop-1", state="RUNNING", is_dag=True, parent=1, iterations=2),
        made(id=3, task="for-loop-1", state="RUNNING", is_dag=True, parent=2, iteration=0),
        made(id=4, task="for-loop-1", state="RUNNING", is_dag=True, parent=2, iteration=1),
        made(id=5, task="work", state="COMPLETE", is_dag=False, parent=3, pod="w-1"),
        made(id=6, task="work", state="RUNNING", is_dag=False, parent=4, pod="w-2"),
    )
    run = {"run_id": "r", "state": "RUNNING", "created_at": "2026-11-23T07:00:00Z"}
    return Sources(run=run, spec=spec, metadata=RunMetadata(executions))


@pytest.mark.parametrize("spec", [loop_spec(), None])
def test_a_loops_iterations_stay_apart_with_or_without_the_spec(spec: dict[str, object] | None) -> None:
    run = join(loop_sources(spec))
    work = [(t.path, t.state) for t in run.tasks if t.kind == "task"]
    assert work == [
        (("for_loop_1", "0"), TaskState.SUCCEEDED),
        (("for_loop_1", "1"), TaskState.RUNNING),
    ]
    assert next(t for t in run.tasks if t.kind == "loop").state is TaskState.RUNNING


def test_a_run_of_which_nothing_is_known_but_the_api_is_shown_by_its_nodes() -> None:
    run = join(replace(situation("task_failed", mlmd=False, pods=False), spec=None))
    assert tasks(run)["train"] is TaskState.FAILED and tasks(run)["ingest"] is TaskState.CACHED


def test_an_empty_answer_is_a_pending_run() -> None:
    run = join(Sources(run={"run_id": "r", "run_details": None, "runtime_config": None}))
    assert run.state is RunState.PENDING and run.tasks == ()


@pytest.mark.parametrize("running", ["work-2", None])
def test_a_task_that_is_tried_again_says_which_attempt_it_is_and_why(running: str | None) -> None:
    spec = {
        "root": {"dag": {"tasks": {"work": {
            "componentRef": {"name": "comp-work"}, "retryPolicy": {"maxRetryCount": 3},
        }}}},
        "components": {"comp-work": {"executorLabel": "exec-work"}},
    }  # fmt: skip
    executions = (
        Execution(id=1, task="", state="RUNNING", is_dag=True),
        Execution(id=2, task="work", state="RUNNING", is_dag=False, parent=1, pod=running),
    )

    def pod(name: str, phase: str, code: int | None = None) -> Pod:
        at = datetime(2026, 11, 23, 7, 0, int(name[-1]), tzinfo=UTC)
        running = phase == "Running"
        return Pod(name, "ns", "work", False, phase, at, exit_code=code, running=running, place="root.work.executor")

    sources = Sources(
        run={"run_id": "r", "state": "RUNNING", "created_at": "2026-11-23T07:00:00Z"},
        spec=spec,
        metadata=RunMetadata(executions),
        pods=(pod("work-1", "Failed", 1), pod("work-2", "Running")),
    )
    (work,) = join(sources).tasks
    assert (work.state, work.attempts, work.reason) == (TaskState.RUNNING, 2, "attempt 2 of 4: exit code 1")
    (work,) = join(replace(sources, logs={"work-1": "OSError: reading features"})).tasks
    assert work.reason == "attempt 2 of 4: OSError: reading features"
    assert "attempt 2 of 4: OSError" in task_line(work) and task_line(work).count("attempt") == 1


def test_a_task_that_a_retry_ran_took_what_it_took_in_that_life() -> None:
    def at(minute: int) -> datetime:
        return datetime(2026, 11, 23, 7, minute, tzinfo=UTC)

    spec = {
        "root": {"dag": {"tasks": {key: {"componentRef": {"name": "comp"}} for key in ("before", "again")}}},
        "components": {"comp": {"executorLabel": "exec"}},
    }
    done = {"state": "COMPLETE", "is_dag": False, "parent": 1}
    executions = (
        Execution(id=1, task="", state="RUNNING", is_dag=True),
        Execution(id=2, task="before", created_at=at(1), updated_at=at(2), **done),  # type: ignore[arg-type]
        Execution(id=3, task="again", created_at=at(2), updated_at=at(21), **done),  # type: ignore[arg-type]
    )
    history = [(0, "RUNNING"), (5, "FAILED"), (20, "RUNNING"), (22, "SUCCEEDED")]
    run = {
        "run_id": "r", "state": "SUCCEEDED", "created_at": at(0).isoformat(), "finished_at": at(22).isoformat(),
        "state_history": [{"update_time": at(minute).isoformat(), "state": state} for minute, state in history],
    }  # fmt: skip
    tasks_of = {t.name: t.duration_s for t in join(Sources(run=run, spec=spec, metadata=RunMetadata(executions))).tasks}
    assert tasks_of == {"before": 60.0, "again": 60.0}
