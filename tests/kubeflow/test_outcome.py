"""What the exit handler learns by run id, where KFP's own word is RUNNING."""

from __future__ import annotations

import pytest

from evctl.backends.metadata.outcome import judge
from tests.kubeflow.recorded import situation


@pytest.mark.parametrize(
    ("name", "state", "task"),
    [
        ("succeeded", "registered", None),
        ("cached", "registered", None),
        ("gate_refused", "refused", "promotion_gate"),
        ("task_failed", "failed", "train"),
        ("retries_exhausted", "failed", "train"),
        ("terminated", None, None),
        ("terminated_missing_secret", None, None),
    ],
)
def test_ml_metadata_alone_proves_what_it_can(name: str, state: str | None, task: str | None) -> None:
    metadata = situation(name).metadata
    assert metadata is not None
    found = judge(metadata.executions, exit_task="notify", register_task="register")
    assert (found.state if found else None, found.task if found else None) == (state, task)


def test_a_refusal_carries_its_figures() -> None:
    metadata = situation("gate_refused").metadata
    assert metadata is not None
    found = judge(metadata.executions, exit_task="notify", register_task="register")
    assert found is not None and ("accuracy_threshold", 0.99) in found.gate
