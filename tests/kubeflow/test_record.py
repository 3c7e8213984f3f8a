"""What an exit handler in a pod tells: recorded runs, asked over real sockets as the pod asks, into a real message."""

from __future__ import annotations

from dataclasses import replace
from types import MappingProxyType

import pytest

from evctl.backends.metadata import outcome
from evctl.backends.metadata.outcome import _given, judge
from evctl.backends.metadata.record import record_of
from evctl.notify.sending import run_message
from tests.kubeflow.conftest import Kubeflow
from tests.kubeflow.recorded import situation

LOG = """Traceback (most recent call last):
  File "/tmp/x.py", line 3, in train
ValueError: asked to fail
I1123 12:00:00.1 launcher_v2.go:1] publishing
exit status 1
"""


@pytest.fixture
def told(kubeflow: Kubeflow, monkeypatch: pytest.MonkeyPatch):
    """Return the message about a recorded run, with the service's own task names."""
    monkeypatch.setenv("EVCTL_MLMD_HOST", kubeflow.mlmd.host)
    monkeypatch.setenv("EVCTL_KFP_HOST", kubeflow.api.url)
    real = outcome.outcome_of
    names = {"exit_task": "notify", "register_task": "register"}
    monkeypatch.setattr("evctl.backends.metadata.record.outcome_of", lambda run_id: real(run_id, **names))

    def tell(name: str, log: str | None = None):
        run_id = kubeflow.world.recorded(name)
        for execution in situation(name).metadata.executions:
            if log and execution.pod:
                kubeflow.world.logs[execution.pod] = log
        return run_message(record_of(run_id, "dev"))

    return tell


@pytest.mark.parametrize(
    ("name", "state", "words"),
    [
        ("succeeded", "registered", ["model registered", "data: v1"]),
        ("cached", "registered", ["model registered"]),
        ("gate_refused", "refused", ["refused by the gate", "accuracy_threshold = 0.99", "evaluate-Output = 0.92"]),
        ("task_failed", "failed", ["failed at train"]),
        ("retries_exhausted", "failed", ["failed at train"]),
        ("terminated", "canceled", ["cancelled"]),
        ("terminated_missing_secret", "canceled", ["cancelled"]),
        ("terminated_image_pull", "canceled", ["cancelled"]),
    ],
)
def test_each_end_is_told_truly(told, name: str, state: str, words: list[str]) -> None:
    message = told(name)
    assert message.state == state
    for word in words:
        assert word in message.title + "\n" + message.text
    # the recorded pipeline's evaluate calls its output otherwise, so no accuracy is made up
    assert "accuracy" not in message.facts


def test_a_failed_tasks_own_words_are_told(told) -> None:
    assert "why: ValueError: asked to fail" in told("task_failed", LOG).text


def test_a_registered_model_and_the_gates_figures_are_told_with_their_names() -> None:
    metadata = situation("succeeded").metadata
    outputs = {
        "evaluate": {"accuracy": 0.92},
        "register": {"model_uri": "s3://ev/models/m/v1-abc/", "model_version": "v1-abc", "model_digest": "d"},
    }
    executions = [replace(e, outputs=MappingProxyType(outputs.get(e.task, {}))) for e in metadata.executions]
    assert judge(executions, exit_task="notify", register_task="register").state == "registered"
    assert dict(_given(executions)) == {
        "data_version": "v1", "accuracy_threshold": 0.9, "accuracy": 0.92,
        "model_uri": "s3://ev/models/m/v1-abc/", "model_version": "v1-abc",
    }  # fmt: skip


def test_where_nobody_answers_no_end_is_made_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVCTL_MLMD_HOST", "127.0.0.1:1")
    message = run_message(record_of("r1", "dev"))
    assert message.state == "unknown"
    assert message.title.endswith("ended, how is not known")
    assert "could not be looked up" in message.text
