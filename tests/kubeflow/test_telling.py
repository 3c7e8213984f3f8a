"""What evctl tells itself where a run's own message did not go out."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from evctl import telling
from evctl.notify.message import message_key
from tests.fakes.kfp_life import Plan
from tests.fakes.receiver import Receiver
from tests.kubeflow.conftest import Kubeflow

pytestmark = pytest.mark.kubeflow
Evctl = Callable[..., tuple[int, str, str]]
HOOK = {"channels": [{"name": "desk", "kind": "webhook", "url_env": "DESK_URL"}], "attempts": 1}


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("evctl.lifecycle.CLUSTER_POLL_S", 0.05)


def training(kubeflow: Kubeflow, evctl: Evctl, **changes: object) -> str:
    """Return a run that is in its training."""
    failing = frozenset(changes.pop("failing", ()))  # type: ignore[call-overload]
    kubeflow.world.plan = Plan(task_s=0.1, slow={"train-fault-classifier": 60.0}, failing=failing)
    kubeflow.profile(poll_s=0.05, **changes)
    run_id = evctl("run", "--env", "dev", "--data-version", "v1", "--detach", "-q")[1].strip()
    end = time.monotonic() + 20
    while True:
        tasks = json.loads(evctl("status", run_id, "-o", "json")[1])["tasks"]
        if ("train_fault_classifier", "RUNNING") in [(task["name"], task["state"]) for task in tasks]:
            return run_id
        assert time.monotonic() < end, tasks
        time.sleep(0.05)


def test_a_cancelled_run_whose_handler_did_not_run_is_told_of_from_here_with_the_handlers_own_key(
    kubeflow: Kubeflow, evctl: Evctl, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Receiver() as desk:
        monkeypatch.setenv("DESK_URL", desk.url)
        run_id = training(kubeflow, evctl, failing=("notify-pipeline-status",), notify=HOOK)
        code, _, err = evctl("cancel", run_id)
        assert code == 0, err
        headers, body = desk.requests[0]
    assert "notify_pipeline_status did not run to its end" in err
    assert "told from here: canceled; desk sent" in err
    assert len(desk.requests) == 1
    assert headers["Idempotency-Key"] == message_key(run_id, "canceled")
    assert (json.loads(body)["event"], json.loads(body)["run_id"]) == ("canceled", run_id)


def test_a_cancelled_run_whose_handler_told_is_not_told_of_again(
    kubeflow: Kubeflow, evctl: Evctl, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Receiver() as desk:
        monkeypatch.setenv("DESK_URL", desk.url)
        run_id = training(kubeflow, evctl, notify=HOOK)
        code, _, err = evctl("cancel", run_id)
    assert (code, desk.requests) == (0, []), err


def test_a_channel_that_is_dead_from_here_too_is_said_and_what_to_type(
    kubeflow: Kubeflow, evctl: Evctl, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Receiver(answers=(410,)) as desk:
        monkeypatch.setenv("DESK_URL", desk.url)
        run_id = training(kubeflow, evctl, failing=("notify-pipeline-status",), notify=HOOK)
        code, _, err = evctl("cancel", run_id)
    assert code == 0
    assert "could not be told from here either: desk after 1 attempt(s): answered HTTP 410" in err
    assert "next: evctl notify test --env dev" in err
    assert desk.url not in err


def test_a_secret_that_cannot_be_read_ends_no_cancel(
    kubeflow: Kubeflow, evctl: Evctl, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = {"name": "ev-notify", "keys": ["DESK_URL"], "tasks": ["notify_pipeline_status"]}
    hook = {"channels": [{"name": "desk", "kind": "webhook", "url_file": "/secrets/DESK_URL"}], "attempts": 1}
    run_id = training(kubeflow, evctl, failing=("notify-pipeline-status",), notify=hook, secrets=[secret])
    monkeypatch.setenv("KUBECONFIG", str(kubeflow.folder / "none"))
    code, _, err = evctl("cancel", run_id)
    assert code == 0
    assert "could not be told from here either: " in err
    assert "; next: " in err


def test_a_folder_that_is_named_is_used_whatever_the_backend(
    kubeflow: Kubeflow, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EV_SECRETS_DIR", str(tmp_path))
    with telling.credentials(kubeflow.profile(), print) as found:
        assert found == tmp_path
