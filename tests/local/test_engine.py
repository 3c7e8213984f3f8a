"""Real kfp.local runs: states, attempts, the gate, the cache, cancel, retry, and what a kill leaves."""

from __future__ import annotations

import json
import os
import shutil
import signal
import threading
import time
from pathlib import Path

import pytest

from evctl.backends.base import Artifact, Run, RunQuery, RunState, TaskState
from evctl.backends.local.backend import _artifact
from evctl.backends.local.folder import RunFolder
from evctl.backends.local.kfp_local import Tracker
from evctl.backends.local.recorder import Recorder
from evctl.backends.local.steps import Step
from evctl.backends.local.worker import to_go_on_with
from evctl.errors import ConflictError, ElsewhereError, FailedError, NotFoundError, UnavailableError, UsageError
from evctl.index import IndexEntry, RunIndex
from evctl.secrets.local import LocalSecrets
from tests.local.conftest import Engine
from tests.local.product import until, worker_of

pytestmark = pytest.mark.local


def states(run: Run) -> dict[str, str]:
    return {task.name: task.state.value for task in run.tasks if task.kind == "task"}


def test_a_passed_gate_runs_what_is_inside_and_the_exit_handler(engine: Engine) -> None:
    run = engine.run("0.9")
    assert run.state is RunState.SUCCEEDED
    assert states(run) == {"step": "SUCCEEDED", "inner": "SUCCEEDED", "last": "SUCCEEDED"}
    assert run.gate.decision == "passed"


def test_a_refused_gate_skips_what_is_inside_and_says_why(engine: Engine) -> None:
    run = engine.run("0.1")
    assert states(run)["inner"] == "SKIPPED"
    assert run.gate.decision == "refused"
    assert "0.1000 < 0.5" in run.gate.reasons[0]


def test_retries_make_attempts_with_a_log_each(engine: Engine) -> None:
    run = engine.run("0.9 if count == 2 else 1 / 0", retries=3)
    step = next(task for task in run.tasks if task.name == "step")
    assert (step.state, step.attempts, step.max_attempts) == (TaskState.SUCCEEDED, 3, 4)
    lines = [line for line in engine.backend.logs(run.run_id, "step") if "attempt sees" in line.text]
    assert [(line.attempt, line.text[-1]) for line in lines] == [(1, "0"), (2, "1"), (3, "2")]


def test_a_failed_task_says_why_and_the_exit_handler_still_runs(engine: Engine) -> None:
    run = engine.run("1 / 0")
    assert run.state is RunState.FAILED
    assert "ZeroDivisionError" in str(run.reason)
    assert states(run) == {"step": "FAILED", "inner": "SKIPPED", "last": "SUCCEEDED"}


def test_a_timeout_ends_the_attempt_and_is_the_reason(engine: Engine) -> None:
    run = engine.run("time.sleep(60)", timeout=1)
    assert "timeout of 1 s" in str(run.reason)


def test_the_second_identical_run_is_cached_and_no_cache_runs_it_anew(engine: Engine) -> None:
    engine.run("0.9")
    again = engine.run("0.9")
    assert states(again) == {"step": "CACHED", "inner": "CACHED", "last": "SUCCEEDED"}
    assert states(engine.run("0.9", use_cache=False))["step"] == "SUCCEEDED"


def test_cancel_ends_the_step_runs_the_exit_handler_and_the_run_is_canceled(engine: Engine) -> None:
    run_id = engine.start("time.sleep(60)")
    engine.wait(run_id, lambda run: states(run)["step"] == "RUNNING")
    engine.backend.cancel(run_id)
    run = engine.wait(run_id)
    assert run.state is RunState.CANCELED
    assert states(run) == {"step": "CANCELED", "inner": "SKIPPED", "last": "SUCCEEDED"}
    assert (engine.marks / "notified").exists()
    with pytest.raises(ConflictError):
        engine.backend.cancel(run_id)


def test_retry_reruns_what_failed_under_the_same_id(engine: Engine) -> None:
    run = engine.run("0.9 if count else 1 / 0")
    assert run.state is RunState.FAILED
    engine.backend.retry(run.run_id)
    again = engine.wait(run.run_id, lambda r: r.finished and r.state is not RunState.FAILED)
    assert again.state is RunState.SUCCEEDED
    with pytest.raises(ConflictError):
        engine.backend.retry(run.run_id)


def test_a_killed_worker_leaves_no_process_and_a_failed_run_and_the_next_run_works(engine: Engine) -> None:
    run_id = engine.start("[time.sleep(3), Path(marks, 'late').touch()][0] or 0.9")
    engine.wait(run_id, lambda run: any(engine.marks.glob("ran-*")))
    os.kill(until(lambda: worker_of(run_id)), signal.SIGKILL)
    run = engine.wait(run_id)
    assert run.state is RunState.FAILED
    assert "worker died" in str(run.reason)
    time.sleep(3.5)
    assert not (engine.marks / "late").exists()
    assert engine.run("0.8").state is RunState.SUCCEEDED


def test_two_runs_at_once_both_end_well(engine: Engine) -> None:
    ids = [engine.start("0.9", use_cache=False), engine.start("0.7", use_cache=False)]
    assert [engine.wait(each).state for each in ids] == [RunState.SUCCEEDED] * 2


def test_an_unknown_run_and_an_ambiguous_prefix_are_told(stranger: Path) -> None:
    index = RunIndex()
    for run_id in ("aa11", "aa22"):
        index.add(IndexEntry(run_id, "local", "local", run_id, time.time()))
    with pytest.raises(NotFoundError):
        index.resolve("bb")
    with pytest.raises(UsageError, match="aa11"):
        index.resolve("aa")
    assert index.resolve("aa2").run_id == "aa22"
    assert index.resolve("@latest").run_id == "aa22"


def test_a_corrupt_ledger_is_set_aside_and_rebuilt(engine: Engine, capsys: pytest.CaptureFixture[str]) -> None:
    run = engine.run("0.9")
    # the worker's own last word to the ledger comes after the record's
    while RunFolder(engine.backend.home / "runs" / run.run_id).alive():
        time.sleep(0.05)
    index = RunIndex()
    index.path.write_bytes(b"this is no database" * 100)
    assert index.resolve(run.run_id).state == "SUCCEEDED"
    assert "corrupt" in capsys.readouterr().err
    assert list(index.folder.glob("state.db.corrupt-*"))


def test_a_state_folder_that_cannot_be_made_is_a_clear_error(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("EVCTL_HOME", str(tmp_path / "file" / "state"))
    with pytest.raises(UnavailableError, match="cannot be written"):
        Engine(engine.package, engine.marks).start("0.9")


def test_a_killed_workers_step_leaves_no_child_that_writes_on(engine: Engine) -> None:
    child = "import time, pathlib; time.sleep(3); pathlib.Path({!r}).touch()".format(str(engine.marks / "grandchild"))
    run_id = engine.start(f"__import__('subprocess').run(['python3', '-c', {child!r}]).returncode + 0.9")
    engine.wait(run_id, lambda run: any(engine.marks.glob("ran-*")))
    time.sleep(0.5)
    os.kill(until(lambda: worker_of(run_id)), signal.SIGKILL)
    assert engine.wait(run_id).state is RunState.FAILED
    time.sleep(3.5)
    assert not (engine.marks / "grandchild").exists()


def test_a_killed_worker_leaves_no_secret_on_disk_once_the_run_is_looked_at(engine: Engine) -> None:
    run_id = engine.start("time.sleep(60)")
    engine.wait(run_id, lambda run: any(engine.marks.glob("ran-*")))
    folder = engine.backend.home / "runs" / run_id
    (next(folder.glob("secrets-*")) / "KEY").write_text("s3cr3t")
    os.kill(until(lambda: worker_of(run_id)), signal.SIGKILL)
    assert engine.wait(run_id).state is RunState.FAILED
    assert not list(folder.glob("secrets-*"))


def test_a_terminated_worker_says_so_and_cleans_up(engine: Engine) -> None:
    run_id = engine.start("time.sleep(60)")
    engine.wait(run_id, lambda run: any(engine.marks.glob("ran-*")))
    os.kill(until(lambda: worker_of(run_id)), signal.SIGTERM)
    run = engine.wait(run_id)
    assert run.state is RunState.FAILED
    assert "SIGTERM" in str(run.reason)
    assert [(t.state.value, t.reason) for t in run.tasks if t.name == "step"] == [("FAILED", run.reason)]
    assert not list((engine.backend.home / "runs" / run_id).glob("secrets-*"))


def test_cancel_does_not_wait_out_the_pause_between_attempts(engine: Engine) -> None:
    run_id = engine.start("1 / 0", retries=2, backoff="60s")
    engine.wait(run_id, lambda run: any(t.reason and "attempt 1" in t.reason for t in run.tasks))
    started = time.monotonic()
    engine.backend.cancel(run_id)
    assert engine.wait(run_id).state is RunState.CANCELED
    assert time.monotonic() - started < 10


def test_a_damaged_cached_artifact_is_made_anew_and_its_copy_is_refused(engine: Engine) -> None:
    def written(run: Run) -> Path:
        return Path(str(next(a for a in engine.backend.outputs(run.run_id).artifacts).path))

    first = engine.run("0.9")
    written(first).write_text("damaged")
    artifact = engine.backend.outputs(first.run_id).artifacts[0]
    with pytest.raises(FailedError, match="not what the task wrote"):
        engine.backend.fetch(artifact, engine.marks / "copy")
    again = engine.run("0.9")
    assert states(again)["step"] == "SUCCEEDED"
    assert written(again).read_text() != "damaged"
    assert states(engine.run("0.9"))["step"] == "CACHED"


def test_a_retry_whose_kept_artifact_is_gone_runs_that_task_again(engine: Engine) -> None:
    run = engine.run("0.9", last="1 / 0")
    assert states(run)["inner"] == "FAILED"
    Path(str(engine.backend.outputs(run.run_id).artifacts[0].path)).unlink()
    engine.backend.retry(run.run_id)
    again = engine.wait(run.run_id, lambda r: r.finished and "attempt" not in str(r.reason) and len(r.tasks) > 0)
    assert "worker failed" not in str(again.reason)
    assert len(list(engine.marks.glob("ran-*"))) == 2


def test_one_failed_iteration_of_a_loop_fails_the_run(engine: Engine) -> None:
    run = engine.run("0.9", loop=True)
    assert run.state is RunState.FAILED
    assert "ZeroDivisionError" in str(run.reason)


def test_a_damaged_record_is_read_back_from_the_runs_events(engine: Engine) -> None:
    run = engine.run("0.9")
    before = states(run)
    (engine.backend.home / "runs" / run.run_id / "record.json").write_text('{"run_id": "')
    again = engine.backend.get(run.run_id)
    assert (again.state, states(again)) == (RunState.SUCCEEDED, before)
    assert "damaged" in again.warnings[0]
    assert [each.run_id for each in engine.backend.list(RunQuery())] == [run.run_id]


def test_a_run_whose_request_is_damaged_too_is_left_out_of_the_list_and_told(
    engine: Engine, capsys: pytest.CaptureFixture[str]
) -> None:
    good, bad = engine.run("0.9"), engine.run("0.8")
    for name in ("record.json", "request.json"):
        (engine.backend.home / "runs" / bad.run_id / name).write_text("{")
    assert [run.run_id for run in engine.backend.list(RunQuery())] == [good.run_id]
    assert bad.run_id[:8] in capsys.readouterr().err


def test_a_tail_of_nothing_is_nothing(engine: Engine) -> None:
    run = engine.run("0.9")
    assert list(engine.backend.logs(run.run_id, "step", tail=0)) == []
    assert len(list(engine.backend.logs(run.run_id, "step", tail=1))) == 1


def test_a_task_of_a_full_disk_says_so_whatever_its_log_could_still_hold(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = tmp_path / "log"
    step = Step(["sh", "-c", "echo half a li; exit 3"], {}, log, None)
    code = step.wait(lambda: False)
    assert step.reason(code) == "half a li"
    monkeypatch.setattr("evctl.backends.local.steps._free", lambda folder: 0)
    assert step.reason(code) == f"no space left on the disk of {tmp_path}: half a li"
    log.write_text("Traceback (most recent")
    assert step.reason(code) == f"no space left on the disk of {tmp_path}"


def test_the_exit_handler_of_a_cancelled_run_has_a_deadline_for_all_its_attempts(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    folder = RunFolder(tmp_path / "run")
    recorder = Recorder(folder, {"tasks": {}})
    tracker = Tracker(
        recorder,
        run_id="r",
        new_log=folder.new_log,
        timeouts={},
        step_env=lambda task: {},
        exit_tasks=frozenset({"last"}),
        use_cache=False,
        exit_patience_s=0.5,
    )
    tracker._here.task = "last"
    threading.Timer(0.2, tracker.cancel).start()
    started = time.monotonic()
    assert tracker.run_attempt(["sh", "-c", "sleep 60"]) != 0
    assert 0.6 < time.monotonic() - started < 8
    assert "0.5 s it has in a cancelled run" in tracker._here.failed
    # kfp would pause and try again: both are over at once
    tracker.pause(60)
    assert tracker.run_attempt(["sh", "-c", "sleep 60"]) == 1
    assert recorder.attempts("last") == 1
    assert time.monotonic() - started < 8


def test_a_step_has_its_environment_and_its_secrets_as_in_a_pod_and_they_are_gone_after_the_run(engine: Engine) -> None:
    LocalSecrets().apply("telemetry", {"KEY": "s3cr3t"})
    look = (
        "[Path(marks, 'seen').write_text('|'.join([os.environ['ENVIRONMENT'], os.environ['FROM_SECRET'],"
        " os.environ['EV_SECRETS_DIR'], Path(os.environ['EV_SECRETS_DIR'], 'KEY').read_text(),"
        " oct(Path(os.environ['EV_SECRETS_DIR'], 'KEY').stat().st_mode)])), 0.9][1]"
    )
    run = engine.run(look)
    assert run.state is RunState.SUCCEEDED, run.reason
    environment, variable, folder, content, mode = (engine.marks / "seen").read_text().split("|")
    (engine.marks / "seen").unlink()  # it is the step that wrote the value down
    assert (environment, variable, content, mode) == ("small", "s3cr3t", "s3cr3t", "0o100600")
    assert not Path(folder).exists()
    run_folder = engine.backend.home / "runs" / run.run_id
    assert not any(b"s3cr3t" in path.read_bytes() for path in run_folder.rglob("*") if path.is_file())


def test_a_users_own_secrets_folder_is_used_as_it_is(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "KEY").write_text("own")
    monkeypatch.setenv("EV_SECRETS_DIR", str(tmp_path / "mine"))
    run = engine.run("[Path(marks, 'seen').write_text(Path(os.environ['EV_SECRETS_DIR'], 'KEY').read_text()), 0.9][1]")
    assert run.state is RunState.SUCCEEDED, run.reason
    assert (engine.marks / "seen").read_text() == "own"
    assert (tmp_path / "mine" / "KEY").exists()


def test_looking_at_a_run_that_is_being_retried_takes_nothing_from_its_new_worker(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    secret = folder.new_scratch("secrets-")
    with folder.lock():
        folder.sweep_when_dead()
        assert secret.exists()
    folder.sweep_when_dead()
    assert not secret.exists()


def test_a_copy_replaces_what_was_there_and_nothing_is_there_when_it_cannot_be_whole(
    engine: Engine, tmp_path: Path
) -> None:
    run = engine.run("0.9")
    artifact = engine.backend.outputs(run.run_id).artifacts[0]
    target = tmp_path / "copies" / "trace"
    target.parent.mkdir()
    target.write_text("older")
    assert engine.backend.fetch(artifact, target).read_text() == "as the task wrote it"
    Path(str(artifact.path)).write_text("damaged")
    with pytest.raises(FailedError):
        engine.backend.fetch(artifact, tmp_path / "copies" / "other")
    assert [path.name for path in target.parent.iterdir()] == ["trace"]
    with pytest.raises(UnavailableError, match="cannot be written"):
        engine.backend.fetch(artifact, target / "below-a-file")


def test_what_was_never_a_file_of_this_machine_is_not_told_as_gone(engine: Engine, tmp_path: Path) -> None:
    for uri in ("https://example.org/x", "gs://a/b", "huggingface://a/b", ""):
        with pytest.raises(ElsewhereError, match="does not copy from"):
            engine.backend.fetch(Artifact("importer", "artifact", "system.Dataset", uri), tmp_path / "copy")
    found = _artifact("importer", "artifact", {"uri": "", "schema_title": "system.Dataset"}, None)
    assert (found.path, found.size_bytes) == (None, None)  # not the folder that evctl was called in
    with pytest.raises(NotFoundError, match="no longer at") as caught:
        engine.backend.fetch(Artifact("step", "trace", "system.Artifact", "file:///gone"), tmp_path / "copy")
    assert not isinstance(caught.value, ElsewhereError)


def test_an_upload_is_named_by_content_and_one_that_cannot_be_kept_is_told(engine: Engine) -> None:
    package = engine.package()
    kept = engine.backend.upload(package, "0123456789abcdef", description="", set_default=False)
    assert (kept.version, kept.unchanged) == ("0123456789ab", False)
    assert engine.backend.upload(package, "0123456789abcdef", description="", set_default=False).unchanged
    latest = engine.backend.latest_version()
    assert latest is not None
    assert latest[1]["pipelineInfo"]["name"] == "small"
    shutil.rmtree(engine.backend.home / "uploads")
    (engine.backend.home / "uploads").write_text("in the way")
    with pytest.raises(UnavailableError, match="cannot be written"):
        engine.backend.upload(package, "f" * 64, description="", set_default=False)


def test_a_retry_starts_from_what_succeeded_and_nothing_else(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    tasks = {"a": {"state": "SUCCEEDED", "outputs": {}}, "b": {"state": "CANCELED"}, "c": {"state": "FAILED"}}
    folder.record_file.write_text(json.dumps({"run_id": "r", "state": "CANCELED", "tasks": tasks, "warnings": ["w"]}))
    # what a task was in an earlier life would judge this one
    assert to_go_on_with(folder) == {"run_id": "r", "state": "CANCELED", "tasks": {"a": tasks["a"]}}
