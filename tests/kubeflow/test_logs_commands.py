"""`evctl logs` as a process whose stdout is a pipe: what came before an error, Ctrl-C or SIGTERM is in it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.kfp_server import Handler
from tests.kubeflow.conftest import Kubeflow

pytestmark = pytest.mark.kubeflow
Evctl = Callable[..., tuple[int, str, str]]
EVCTL = [sys.executable, "-m", "evctl"]


@dataclass
class Piped:
    """A run of five tasks, of which all but the last have a log."""

    kubeflow: Kubeflow
    run_id: str
    pods: dict[str, str]

    @property
    def first(self) -> list[str]:
        return [f"{task} | hello from {task}" for task in list(self.pods)[:-1]]

    def logs(self, *more: str, **streams: Any) -> subprocess.Popen[str]:
        line = [*EVCTL, "logs", self.run_id, "--env", "dev", *more]
        streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **streams}
        return subprocess.Popen(line, text=True, **streams)


@pytest.fixture
def piped(kubeflow: Kubeflow, evctl: Evctl, monkeypatch: pytest.MonkeyPatch) -> Piped:
    monkeypatch.delenv("KUBECONFIG")  # without it neither a pod's log nor the store's keys can be had
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)  # with it nothing waits to be written
    kubeflow.profile()
    run_id = kubeflow.world.recorded("succeeded")
    tasks = json.loads(evctl("status", run_id, "--env", "dev", "-o", "json")[1])["tasks"]
    pods = {task["name"]: task["pod"] for task in tasks if task["pod"]}
    for task in list(pods)[:-1]:
        kubeflow.world.logs[pods[task]] = f"hello from {task}\n"
    return Piped(kubeflow, run_id, pods)


@pytest.fixture
def stuck(piped: Piped) -> Iterator[threading.Event]:
    """Set once the last task's log has been asked for; the answer comes when the test is over."""
    asked, over = threading.Event(), threading.Event()

    def silent(handler: Handler, method: str, path: str) -> bool:
        if path.endswith(f"{list(piped.pods.values())[-1]}/log"):
            asked.set()
            over.wait(60)
        return False

    piped.kubeflow.api.faults.append(silent)
    yield asked
    over.set()


def test_the_lines_before_an_error_are_in_the_pipe_and_come_before_it(piped: Piped) -> None:
    ended = piped.logs()
    out, err = ended.communicate(timeout=60)
    assert (ended.returncode, out.splitlines()) == (4, piped.first)
    assert "no credentials" in err
    one = piped.logs(stderr=subprocess.STDOUT)
    said = one.communicate(timeout=60)[0].splitlines()
    assert said[: len(piped.first)] == piped.first
    assert said[len(piped.first)].startswith("error: ")


def test_the_lines_before_an_error_are_in_a_file(piped: Piped, tmp_path: Path) -> None:
    with (tmp_path / "out").open("w") as file:
        assert piped.logs(stdout=file).wait(60) == 4
    assert (tmp_path / "out").read_text().splitlines() == piped.first


@pytest.mark.parametrize("output", ["json", "yaml"])
def test_what_came_before_an_error_is_one_whole_document(piped: Piped, output: str) -> None:
    import yaml

    ended = piped.logs("-o", output)
    out, err = ended.communicate(timeout=60)
    document = yaml.safe_load(out) if output == "yaml" else json.loads(out)
    assert ended.returncode == 4
    assert document["run_id"] == piped.run_id
    assert [f"{line['task']} | {line['text']}" for line in document["lines"]] == piped.first
    assert "no credentials" in err
    if output == "json":
        assert json.loads(err.splitlines()[-1])["error"]["code"] == "not_allowed"


def test_a_failed_tasks_log_is_read_though_that_of_another_cannot_be(
    piped: Piped, evctl: Evctl, monkeypatch: pytest.MonkeyPatch
) -> None:
    several = [*reversed(piped.pods)]  # the first of them has none
    monkeypatch.setattr("evctl.lifecycle.failed_tasks", lambda _: several)
    code, out, err = evctl("logs", piped.run_id, "--failed", "--env", "dev")
    assert code == 4 and "no credentials" in err
    assert sorted(out.splitlines()) == sorted(piped.first)


def test_where_nothing_came_there_is_no_document(piped: Piped, evctl: Evctl) -> None:
    code, out, err = evctl("logs", piped.run_id, "no-such-task", "--env", "dev", "-o", "json")
    assert (code, out) == (3, "")
    assert json.loads(err.splitlines()[-1])["error"]["code"] == "not_found"


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_the_lines_before_a_signal_are_in_the_pipe(
    piped: Piped, stuck: threading.Event, number: signal.Signals, code: int
) -> None:
    running = piped.logs()
    assert stuck.wait(60)
    running.send_signal(number)
    out, _ = running.communicate(timeout=60)
    assert (running.returncode, out.splitlines()) == (code, piped.first)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_reader_that_the_same_signal_ended_changes_no_exit_code(
    piped: Piped, stuck: threading.Event, number: signal.Signals, code: int
) -> None:
    running = piped.logs()
    assert stuck.wait(60)
    assert running.stdout is not None
    running.stdout.close()
    running.send_signal(number)
    assert running.wait(60) == code
    assert running.stderr is not None
    assert "Broken pipe" not in running.stderr.read()


def test_a_reader_that_has_gone_is_told_nothing_of_an_error(piped: Piped) -> None:
    theirs, ours = os.pipe()
    os.close(theirs)
    ended = piped.logs(stdout=ours)
    os.close(ours)
    assert ended.communicate(timeout=60)[1] == ""
    assert ended.returncode == 141


def test_a_full_disk_is_told_although_there_was_another_error(piped: Piped) -> None:
    with open("/dev/full", "w") as full:
        ended = piped.logs(stdout=full)
    err = ended.communicate(timeout=60)[1]
    assert ended.returncode == 9
    assert "disk is full" in err and "Traceback" not in err
