"""A watch over a bad line: resets, storms, half bodies, a login that runs out, ML Metadata that goes and comes back."""

from __future__ import annotations

import json
import random
import re
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest

from evctl import lifecycle
from evctl.backends.base import Backend, RunState, TaskState
from tests.fakes.kfp_life import Plan
from tests.fakes.mlmd_server import MlmdServer
from tests.kubeflow.conftest import Kubeflow
from tests.kubeflow.test_submit import OUTPUTS, until

pytestmark = pytest.mark.kubeflow
Evctl = Callable[..., tuple[int, str, str]]
QUICK = Plan(task_s=0.15, outputs=OUTPUTS)


@pytest.fixture
def dev(kubeflow: Kubeflow, monkeypatch: pytest.MonkeyPatch) -> Kubeflow:
    monkeypatch.setattr("evctl.lifecycle.CLUSTER_POLL_S", 0.05)
    monkeypatch.setattr("evctl.backends.kubeflow.reading.METADATA_PAUSE_S", 0.3)
    kubeflow.world.plan = QUICK
    kubeflow.profile(poll_s=0.05, accuracy_threshold=0.85)
    return kubeflow


def resets(handler: Any) -> None:
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    handler.close_connection = True


def halves(handler: Any) -> None:
    handler.send_response(200)
    handler.send_header("Content-Type", "application/json")
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    handler.wfile.write(b'{"run_id": "')
    handler.close_connection = True


FAULTS: dict[str, Callable[[Any], None]] = {
    "reset": resets,
    "half a body": halves,
    "503": lambda handler: handler.reply(503, {"message": "no healthy upstream"}),
    "429": lambda handler: handler.reply(429, {"message": "slow down"}, {"Retry-After": "0"}),
    "null": lambda handler: handler.reply(200, None),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_watch_goes_on_through_a_bad_line(fault: str, dev: Kubeflow, evctl: Evctl) -> None:
    dice = random.Random(7)

    def sometimes(handler: Any, method: str, path: str) -> bool:
        if method != "GET" or not path.startswith("/apis/") or dice.random() > 0.12:
            return False
        FAULTS[fault](handler)
        return True

    dev.api.faults.append(sometimes)
    code, out, err = evctl("run", "--env", "dev", "--data-version", "v1", "-o", "json")
    assert code == 0, err
    assert {task["state"] for task in json.loads(out)["tasks"]} == {"SUCCEEDED"}
    assert len(dev.world.runs) == 1
    assert len(re.findall("✓ train_fault_classifier", err)) == 1


def test_a_login_that_runs_out_in_mid_watch_is_renewed_never_shown_and_never_kept(
    dev: Kubeflow, evctl: Evctl, tmp_path: Path, stranger: Path
) -> None:
    token = tmp_path / "token"
    token.write_text("SECRET-old\n")
    good = ["SECRET-old"]
    dev.profile(poll_s=0.05, accuracy_threshold=0.85, kubeflow={"auth": {"kind": "token", "token_file": str(token)}})

    def checks(handler: Any, method: str, path: str) -> bool:
        if handler.headers.get("Authorization") == f"Bearer {good[0]}" or path.startswith("/api/v1"):
            return False
        handler.reply(401, {"message": "token expired"})
        return True

    def expire() -> None:
        good[0] = "SECRET-new"
        token.write_text("SECRET-new\n")

    dev.api.faults.append(checks)
    timer = threading.Timer(0.8, expire)
    threading.Thread(target=lambda: (until(lambda: bool(dev.world.runs)), timer.start())).start()
    code, out, err = evctl("run", "--env", "dev", "--data-version", "v1", "-o", "json")
    assert code == 0, err
    assert good == ["SECRET-new"]
    assert "SECRET" not in out + err
    kept = [file for file in stranger.rglob("*") if file.is_file()]
    assert kept and not any(b"SECRET" in file.read_bytes() for file in kept)


def test_a_login_that_cannot_be_renewed_is_exit_four_and_the_run_is_left_alone(
    dev: Kubeflow, evctl: Evctl, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_TOKEN", "SECRET-old")
    dev.profile(poll_s=0.05, kubeflow={"auth": {"kind": "token", "token_env": "MY_TOKEN"}})

    def expires(handler: Any, method: str, path: str) -> bool:
        run = next(iter(dev.world.runs.values()), None)
        if run is None or run.age() < 0.5 or path.startswith("/api/v1"):
            return False
        handler.reply(401, {"message": "token expired"})
        return True

    dev.api.faults.append(expires)
    code, out, err = evctl("run", "--env", "dev", "--data-version", "v1")
    assert code == 4 and "MY_TOKEN" in err and "SECRET" not in out + err
    (run,) = dev.world.runs.values()
    until(lambda: run.shown()["state"] == "SUCCEEDED")


def test_ml_metadata_that_hangs_does_not_hold_up_the_watch_and_is_used_again_when_it_is_back(
    dev: Kubeflow, monkeypatch: pytest.MonkeyPatch
) -> None:
    dev.world.plan = replace(QUICK, task_s=0.3)
    backend: Backend = dev.backend(poll_s=0.05, accuracy_threshold=0.85)
    run_id = dev.world.create_run({"display_name": "x", "pipeline_spec": compiled(dev)})["run_id"]
    warned: list[bool] = []
    down, up = 0.5, 1.4
    for run in lifecycle.follow(backend, run_id, poll_s=0.05):
        age = dev.world.run(run_id).age()
        dev.mlmd.error = grpc.StatusCode.INTERNAL if down < age < up else None
        warned.append(any("ML Metadata" in warning for warning in run.warnings))
        last = run
    assert any(warned) and not warned[0] and not warned[-1]
    assert last.state is RunState.SUCCEEDED and last.model is not None


def compiled(dev: Kubeflow) -> dict[str, Any]:
    from evctl.compiler import compile_profile

    return dict(compile_profile(dev.profile(poll_s=0.05, accuracy_threshold=0.85)).spec)


def test_no_task_goes_back_while_ml_metadata_comes_and_goes(dev: Kubeflow) -> None:
    dev.world.plan = replace(QUICK, task_s=0.2)
    backend: Backend = dev.backend(poll_s=0.05, accuracy_threshold=0.85)
    run_id = dev.world.create_run({"display_name": "x", "pipeline_spec": compiled(dev)})["run_id"]
    ended: dict[str, TaskState] = {}
    for at, run in enumerate(lifecycle.follow(backend, run_id, poll_s=0.03)):
        dev.mlmd.error = grpc.StatusCode.INTERNAL if at % 4 == 2 else None
        for task in run.tasks:
            if task.kind == "task" and task.name in ended:
                assert task.state is ended[task.name], f"{task.name} went back at look {at}"
            if task.kind == "task" and task.finished_at is not None:
                ended[task.name] = task.state
    assert len(ended) == 8


def test_a_watch_asks_once_a_second_however_old_the_run_is(kubeflow: Kubeflow, evctl: Evctl) -> None:
    kubeflow.world.plan = Plan(task_s=0.35, outputs=OUTPUTS)
    kubeflow.profile(poll_s=0.01, accuracy_threshold=0.85)
    run_id = kubeflow.world.create_run({"display_name": "x", "pipeline_spec": compiled(kubeflow)})["run_id"]
    kubeflow.profile(poll_s=0.01)
    kubeflow.api.requests.clear()
    assert evctl("status", run_id, "--watch", "--env", "dev")[0] == 0
    looks = [seen.at for seen in kubeflow.api.requests if seen.path.endswith(run_id)]
    assert len(looks) >= 3
    # on average: a busy machine takes in one late and the next in time
    assert (len(looks) - 1) / (looks[-1] - looks[0]) < 1.1


def test_a_line_comes_within_two_seconds_of_its_change(kubeflow: Kubeflow) -> None:
    kubeflow.world.plan = Plan(task_s=0.4, outputs=OUTPUTS)
    profile = kubeflow.profile(accuracy_threshold=0.85)
    run_id = kubeflow.world.create_run({"display_name": "x", "pipeline_spec": compiled(kubeflow)})["run_id"]
    run = kubeflow.world.run(run_id)
    ends: dict[str, float] = {}
    for execution in (run.life.at(3600).metadata or {})["GetExecutionsByContext"]["executions"]:
        name = execution["custom_properties"]["task_name"]["string_value"].replace("-", "_")
        ends[name] = int(execution["last_update_time_since_epoch"]) / 1000 - run.life.began.timestamp()
    late: dict[str, float] = {}
    for snapshot in lifecycle.watch(profile, kubeflow.backend(accuracy_threshold=0.85), run_id):
        for task in snapshot.tasks:
            if task.kind == "task" and task.state is TaskState.SUCCEEDED:
                late.setdefault(task.name, run.age() - ends[task.name])
    assert len(late) == 8 and max(late.values()) <= 2


def test_a_store_that_never_answers_is_given_up_in_time(dev: Kubeflow, evctl: Evctl) -> None:
    run_id = dev.world.recorded("succeeded")
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        dev.profile(kubeflow={"metadata_host": f"127.0.0.1:{silent.getsockname()[1]}"})
        began = time.monotonic()
        code, out, _ = evctl("status", run_id, "--env", "dev", "-o", "json")
    assert time.monotonic() - began < 8
    assert code == 0 and any("ML Metadata" in warning for warning in json.loads(out)["warnings"])


def test_the_fake_store_can_go_and_come_back_on_its_port(dev: Kubeflow) -> None:
    backend = dev.backend(poll_s=0.05)
    run_id = dev.world.recorded("succeeded")
    assert backend.get(run_id).model is not None
    port = dev.mlmd.port
    dev.mlmd.close()
    assert any("ML Metadata" in warning for warning in backend.get(run_id).warnings)
    with MlmdServer(dev.world.metadata, lambda: list(dev.world.runs), port=port):
        until(lambda: backend.get(run_id).model is not None, 15)


def test_ctrl_c_leaves_the_run_going_and_says_how_to_find_it_again(dev: Kubeflow) -> None:
    dev.world.plan = replace(QUICK, slow={"train-fault-classifier": 60.0})
    dev.profile(accuracy_threshold=0.85)
    command = [sys.executable, "-m", "evctl", "run", "--env", "dev", "--data-version", "v1"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stderr is not None and child.stdout is not None
        for line in child.stderr:
            if "ingest_battery_data" in line:
                break
        child.send_signal(signal.SIGINT)
        rest, out = child.stderr.read(), child.stdout.read()
    (run_id,) = dev.world.runs
    assert child.returncode == 130
    assert f"run {run_id[:8]} goes on" in rest and f"evctl status {run_id[:8]}" in rest and out == ""
    assert "Traceback" not in rest
    assert dev.world.run(run_id).shown()["state"] == "RUNNING"


def test_a_store_that_nobody_listens_for_costs_status_two_seconds(dev: Kubeflow, evctl: Evctl) -> None:
    run_id = dev.world.recorded("succeeded")
    dev.mlmd.close()
    evctl("status", run_id, "--env", "dev")  # its imports are not measured
    began = time.monotonic()
    code, out, _ = evctl("status", run_id, "--env", "dev", "-o", "json")
    assert time.monotonic() - began < 4
    assert code == 0 and any("ML Metadata" in warning for warning in json.loads(out)["warnings"])
