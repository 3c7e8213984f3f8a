"""`evctl status` over real sockets: every recorded situation, with the API, ML Metadata and Kubernetes answering."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import grpc
import pytest

from evctl.backends.base import TaskState
from evctl.errors import UnavailableError
from evctl.index import IndexEntry, RunIndex
from tests.fakes.faults import Answer, FaultServer
from tests.fakes.kfp_life import Plan
from tests.kubeflow.conftest import Kubeflow
from tests.kubeflow.recorded import SITUATIONS
from tests.kubeflow.test_join import ORDER, TABLE

pytestmark = pytest.mark.kubeflow
Evctl = Callable[..., tuple[int, str, str]]
EXIT = {
    "succeeded": 0, "cached": 0, "gate_refused": 5, "task_failed": 1, "retry_after_failure": 1, "terminated": 1,
    "terminated_missing_secret": 1, "terminated_image_pull": 1, "running_unschedulable": 8, "missing_secret": 8,
    "image_pull_error": 8, "retries_exhausted": 1,
}  # fmt: skip
BOOM = 'Traceback (most recent call last):\n  File "x.py", line 1\nRuntimeError: boom\n'


def put(kubeflow: Kubeflow, name: str) -> str:
    """Put a recorded situation on the server, with a log for each of its pods."""
    kubeflow.profile()
    run_id = kubeflow.world.recorded(name)
    for pod in kubeflow.world.run(run_id).moment().pods:
        kubeflow.world.logs[pod["metadata"]["name"]] = BOOM
    return run_id


@pytest.mark.parametrize("name", SITUATIONS)
def test_a_recorded_situation_gives_the_right_tree_exit_code_and_reason(
    name: str, kubeflow: Kubeflow, evctl: Evctl
) -> None:
    state, states, attempts, gate, model, says = TABLE[name]
    run_id = put(kubeflow, name)
    code, out, err = evctl("status", run_id, "--env", "dev", "-o", "json")
    document = json.loads(out)
    order = ORDER if name != "retries_exhausted" else "train notify"
    assert err == ""
    assert code == EXIT[name]
    assert document["state"] == state
    assert [(t["name"], t["state"]) for t in document["tasks"]] == list(zip(order.split(), states, strict=True))
    assert [t["attempts"] for t in document["tasks"]] == attempts
    assert document["gate"]["decision"] == gate
    assert (document["model"] or {}).get("uri") == model
    reason = " ".join([document["reason"] or "", *document["warnings"]])
    assert says.partition(": exit")[0] in reason
    if state == "FAILED":
        assert document["reason"].startswith("train: ") and "RuntimeError: boom" in document["reason"]
        assert next(t for t in document["tasks"] if t["name"] == "train")["reason"] in document["reason"]
    assert (document["blocked_since"] is not None) == (state == "RUNNING")
    assert document["url"] == f"{kubeflow.api.url}/#/runs/details/{run_id}"
    assert document["env"] == "dev"


def requests_of(kubeflow: Kubeflow, evctl: Evctl, run_id: str) -> tuple[list[str], dict[str, Any]]:
    """Return what `status` asks, of the API, Kubernetes and ML Metadata, and what it says."""
    kubeflow.api.requests.clear()
    kubeflow.mlmd.calls.clear()
    _, out, _ = evctl("status", run_id, "--env", "dev", "-o", "json")
    return [*kubeflow.api.paths(), *map(str, kubeflow.mlmd.calls)], json.loads(out)


@pytest.mark.parametrize("name", sorted(name for name in SITUATIONS if EXIT[name] != 8))
@pytest.mark.parametrize("lost", ["nothing", "logs", "pods", "logs and pods", "ML Metadata", "everything", "rights"])
def test_a_finished_run_costs_at_most_six_requests_whatever_is_lost_and_the_version_is_asked_for_once(
    name: str, lost: str, kubeflow: Kubeflow, evctl: Evctl
) -> None:
    run_id = put(kubeflow, name)
    if "logs" in lost or lost == "everything":
        kubeflow.world.logs.clear()
    if lost in ("ML Metadata", "everything"):
        kubeflow.mlmd.error = grpc.StatusCode.INTERNAL

    def gone(handler: Any, method: str, path: str) -> bool:
        if path.startswith("/api/v1/namespaces") and ("pods" in lost or lost in ("everything", "rights")):
            handler.reply(*((403, {"reason": "Forbidden"}) if lost == "rights" else (200, {"items": []})))
            return True
        return False

    kubeflow.api.faults.append(gone)
    for _ in range(2):
        asked, _ = requests_of(kubeflow, evctl, run_id)
        assert 2 <= len(asked) <= 6, asked
    assert not any("/versions/" in path for path in kubeflow.api.paths())


@pytest.mark.parametrize("name", sorted(set(SITUATIONS) - {"running_unschedulable"}))
def test_without_ml_metadata_the_tree_is_told_and_that_it_is_missing(
    name: str, kubeflow: Kubeflow, evctl: Evctl
) -> None:
    run_id = put(kubeflow, name)
    kubeflow.mlmd.error = grpc.StatusCode.INTERNAL
    code, out, _ = evctl("status", run_id, "--env", "dev", "-o", "json")
    document = json.loads(out)
    assert code == EXIT[name]
    assert document["state"] == TABLE[name][0]
    assert any("ML Metadata does not answer" in warning for warning in document["warnings"])
    assert document["gate"]["decision"] == TABLE[name][3]
    if TABLE[name][0] != "RUNNING":
        order = ORDER if name != "retries_exhausted" else "train notify"
        told = {t["name"]: t["state"] for t in document["tasks"]}
        assert told == dict(zip(order.split(), TABLE[name][1], strict=True))


@pytest.mark.parametrize("name", ["missing_secret", "image_pull_error", "running_unschedulable", "task_failed"])
def test_without_kubernetes_the_rest_is_still_told(
    name: str, kubeflow: Kubeflow, evctl: Evctl, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = put(kubeflow, name)
    monkeypatch.delenv("KUBECONFIG")
    code, out, _ = evctl("status", run_id, "--env", "dev", "-o", "json")
    document = json.loads(out)
    assert (code, document["state"]) == (EXIT[name], TABLE[name][0])
    if name == "task_failed":
        assert document["reason"] == "train: RuntimeError: boom"


def test_a_cluster_that_is_named_and_cannot_be_asked_is_said(
    kubeflow: Kubeflow, evctl: Evctl, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = put(kubeflow, "task_failed")
    kubeflow.kubeconfig.write_text("clusters: [")
    code, out, err = evctl("status", run_id, "--env", "dev", "-o", "json")
    document = json.loads(out)
    assert (code, err, document["reason"]) == (1, "", "train: RuntimeError: boom")
    [said] = document["warnings"]
    assert said.startswith("pods cannot be read, so why one does not start is not known: the kubeconfig cannot be read")


def test_a_run_that_was_not_started_from_here_is_found_by_beginning_name_and_latest(
    kubeflow: Kubeflow, evctl: Evctl
) -> None:
    kubeflow.profile(experiment="recorded")
    experiment = kubeflow.world.experiment("recorded")["experiment_id"]
    kubeflow.world.recorded("task_failed", experiment=experiment)
    run_id = kubeflow.world.recorded("succeeded", experiment=experiment)
    for reference in (run_id, run_id[:8], "ok-1", "@last-good"):
        code, out, err = evctl("status", reference, "--env", "dev", "-q")
        assert (code, out.strip(), err) == (0, run_id, "")
    assert evctl("status", "--env", "dev", "-q")[1].strip() == kubeflow.world.recorded("task_failed")
    code, _, err = evctl("status", "nothing-of-the-sort", "--env", "dev")
    assert code == 3 and "dev's server" in err


def test_a_beginning_of_several_runs_is_refused_and_they_are_listed(kubeflow: Kubeflow, evctl: Evctl) -> None:
    kubeflow.profile()
    for at in (1, 2):
        kubeflow.world.recorded("succeeded", run_id=f"abcdef00-0000-4000-8000-00000000000{at}")
    code, _, err = evctl("status", "abcdef", "--env", "dev")
    assert code == 2 and "beginning of 2 runs" in err


def test_a_run_of_a_deleted_version_is_shown_by_what_ran(kubeflow: Kubeflow, evctl: Evctl) -> None:
    run_id = put(kubeflow, "terminated")
    kubeflow.world.versions.clear()
    code, out, _ = evctl("status", run_id, "--env", "dev", "-o", "json")
    document = json.loads(out)
    told = {task["name"]: task["state"] for task in document["tasks"]}
    assert code == 1 and document["state"] == "CANCELED"
    assert told["ingest"] == TaskState.SUCCEEDED and told["train"] == TaskState.CANCELED
    assert any("spec is gone" in warning for warning in document["warnings"])


@pytest.mark.parametrize("path", ["../../etc/passwd", "a/b", "..", "a?b"])
def test_a_reference_that_is_no_id_never_becomes_a_path(path: str, kubeflow: Kubeflow, evctl: Evctl) -> None:
    kubeflow.profile()
    code, _, _ = evctl("status", path, "--env", "dev")
    assert code == 3
    assert all(seen.path.startswith("/apis/v2beta1/") for seen in kubeflow.api.requests)


def the_api_says(kubeflow: Kubeflow, run_id: str, document: dict[str, Any]) -> None:
    """Answer for a run with this document."""

    def answers(handler: Any, method: str, path: str) -> bool:
        if path.endswith(run_id):
            handler.reply(200, document)
            return True
        return False

    kubeflow.api.faults.append(answers)


def test_an_answer_with_holes_in_it_is_still_a_run(kubeflow: Kubeflow, evctl: Evctl) -> None:
    run_id = put(kubeflow, "succeeded")
    holes: dict[str, Any] = {"run_id": run_id, "state": None, "run_details": None, "runtime_config": None}

    the_api_says(kubeflow, run_id, holes)
    code, out, _ = evctl("status", run_id, "--env", "dev", "-o", "json")
    assert code == 8 and json.loads(out)["state"] == "PENDING"


def test_a_run_that_succeeded_but_for_its_exit_handler_says_why_that_failed(kubeflow: Kubeflow, evctl: Evctl) -> None:
    run_id = put(kubeflow, "succeeded")
    answers = deepcopy(kubeflow.world.metadata(run_id) or {})
    handler = next(
        each
        for each in answers["GetExecutionsByContext"]["executions"]
        if each["custom_properties"]["task_name"]["string_value"] == "notify"
    )
    handler["last_known_state"] = "FAILED"
    kubeflow.mlmd.lookup = lambda _: answers
    asked, document = requests_of(kubeflow, evctl, run_id)
    told = next(task for task in document["tasks"] if task["name"] == "notify")
    assert (document["state"], told["state"], told["reason"]) == ("SUCCEEDED", "FAILED", "RuntimeError: boom")
    assert document["warnings"] == [] and len(asked) == 6


def test_items_that_are_null_are_passed_over(kubeflow: Kubeflow, evctl: Evctl) -> None:
    run_id = put(kubeflow, "task_failed")
    document = {**kubeflow.world.run(run_id).moment().run, "run_id": run_id}
    details = [
        {**each, "child_tasks": [None, *each.get("child_tasks", ())]}
        for each in document["run_details"]["task_details"]
    ]
    holes = {
        **document,
        "run_details": {"task_details": [None, *details]},
        "state_history": [None, {"state": "FAILED"}],
    }

    the_api_says(kubeflow, run_id, holes)
    code, out, _ = evctl("status", run_id, "--env", "dev", "-o", "json")
    assert code == 1 and json.loads(out)["reason"] == "train: RuntimeError: boom"


@pytest.mark.parametrize("verb", [("status", "4cf46e58-eccf-487b-ac11-908ecc324084"), ("runs",)])
def test_an_error_that_is_answered_as_a_success_is_no_answer(
    verb: tuple[str, ...], kubeflow: Kubeflow, evctl: Evctl
) -> None:
    kubeflow.profile(experiment="recorded", kubeflow={"deadline_s": 1})
    kubeflow.world.experiment("recorded")

    def answers(handler: Any, method: str, path: str) -> bool:
        if "/runs" in path:
            handler.reply(200, {"error": {"code": 14, "message": "the database is away"}})
            return True
        return False

    kubeflow.api.faults.append(answers)
    code, out, err = evctl(*verb, "--env", "dev")
    assert (code, out) == (9, "") and "the database is away" in err


def the_store_has(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Give the object store a log; returns what was read of it."""
    asked: list[str] = []

    def read(self: Any, artifact: Any) -> bytes:
        asked.append(artifact.uri)
        return BOOM.encode()

    monkeypatch.setattr("evctl.backends.kubeflow.objects.Objects.read", read)
    return asked


def test_a_failure_in_a_run_that_goes_on_is_explained_by_the_stored_log_where_the_archive_has_none(
    kubeflow: Kubeflow, evctl: Evctl, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = put(kubeflow, "task_failed")
    kubeflow.world.logs.clear()
    asked = the_store_has(monkeypatch)

    document = {**kubeflow.world.run(run_id).moment().run, "run_id": run_id, "state": "RUNNING"}
    the_api_says(kubeflow, run_id, document)
    _, out, _ = evctl("status", run_id, "--env", "dev", "-o", "json")
    train = next(task for task in json.loads(out)["tasks"] if task["name"] == "train")
    assert train["reason"] == "RuntimeError: boom"
    assert len(asked) == 1 and "/train/" in asked[0]


def test_a_finished_runs_log_that_six_requests_do_not_reach_is_named_with_the_command_that_reads_it(
    kubeflow: Kubeflow, evctl: Evctl, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = put(kubeflow, "task_failed")
    kubeflow.world.logs.clear()
    the_store_has(monkeypatch)
    _, out, _ = evctl("status", run_id, "--env", "dev", "-o", "json")
    assert json.loads(out)["reason"] == "train: exit code 1"
    [said] = json.loads(out)["warnings"]
    assert "why train failed" in said
    _, log, _ = evctl(*said.rpartition("evctl ")[2].split())
    assert "RuntimeError: boom" in log


@pytest.mark.parametrize("verb", [("status",), ("logs", "--failed"), ("outputs",)])
def test_a_cluster_that_hangs_is_waited_for_once(
    verb: tuple[str, ...], kubeflow: Kubeflow, evctl: Evctl, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    run_id = put(kubeflow, "task_failed")
    kubeflow.profile(kubeflow={"request_timeout_s": 1})
    with FaultServer(Answer(wait_s=30)) as server:
        changed = kubeflow.kubeconfig.read_text().replace(kubeflow.api.url, server.url)
        (tmp_path / "hangs").write_text(changed)
        monkeypatch.setenv("KUBECONFIG", str(tmp_path / "hangs"))
        start = time.monotonic()
        evctl(*verb, run_id, "--env", "dev")
        assert time.monotonic() - start < 4
        assert len(server.seen) == 1


def test_a_cluster_that_does_not_answer_is_asked_once_a_while_and_it_is_said(
    kubeflow: Kubeflow, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = put(kubeflow, "missing_secret")
    backend = kubeflow.backend()
    asked = []

    class Dead:
        def get(self, path: str, **_: Any) -> dict[str, Any]:
            asked.append(path)
            raise UnavailableError("the cluster does not answer")

    monkeypatch.setattr(backend.connection, "kubernetes", lambda: Dead())
    for _ in range(3):
        run = backend.get(run_id)
        assert any("the cluster does not answer" in warning for warning in run.warnings)
    assert len(asked) == 1


def test_a_cancel_that_is_not_allowed_is_not_remembered_as_one(kubeflow: Kubeflow, evctl: Evctl) -> None:
    run_id = put(kubeflow, "missing_secret")

    def denies(handler: Any, method: str, path: str) -> bool:
        if path.endswith(":terminate"):
            handler.reply(403, {"code": 7, "message": "not yours"})
            return True
        return False

    kubeflow.api.faults.append(denies)
    assert evctl("cancel", run_id, "--env", "dev")[0] == 4
    assert [entry.cancel_requested for entry in RunIndex().all()] == [False]


def test_a_cancel_from_another_terminal_is_seen_by_a_watch_at_the_end(kubeflow: Kubeflow) -> None:
    run_id = put(kubeflow, "task_failed")
    backend = kubeflow.backend()
    assert backend.get(run_id).state == "FAILED"
    RunIndex().add(IndexEntry(run_id, "dev", "kubeflow", "n", 1.0))
    RunIndex().mark_cancel_requested(run_id)
    assert backend.get(run_id).state == "CANCELED"


@pytest.mark.parametrize("name", ["image_pull_error", "missing_secret"])
def test_a_run_that_cannot_start_is_cancelled_and_what_it_leaves_behind_is_named(
    name: str, kubeflow: Kubeflow, evctl: Evctl
) -> None:
    run_id = put(kubeflow, name)
    code, out, err = evctl("cancel", run_id, "--env", "dev", "-o", "json")
    document = json.loads(out)
    assert code == 0, err
    assert document["state"] == "CANCELED"
    left = [pod for pod in kubeflow.world.run(run_id).moment().pods if pod["status"]["phase"] == "Pending"]
    told = [warning for warning in document["warnings"] if "left behind" in warning]
    assert bool(left) == (name == "image_pull_error")
    assert [pod["metadata"]["name"] in warning for pod, warning in zip(left, told, strict=True)] == [True] * len(left)
    assert evctl("status", run_id, "--env", "dev", "-o", "json")[0] == 1


def test_a_recorded_failure_is_retried_and_its_second_life_is_told(kubeflow: Kubeflow, evctl: Evctl) -> None:
    run_id = put(kubeflow, "task_failed")
    code, out, err = evctl("retry", run_id, "--env", "dev", "-o", "json")
    assert code == 1, err  # it failed again, as recorded
    assert json.loads(out)["state"] == "FAILED"


def test_logs_that_are_nowhere_do_not_hold_up_why_a_run_failed(kubeflow: Kubeflow, evctl: Evctl) -> None:
    kubeflow.profile(kubeflow={"deadline_s": 60})
    failing = frozenset({"train-fault-classifier", "notify-pipeline-status"})
    kubeflow.world.plan = Plan(task_s=0.1, failing=failing)
    run_id = evctl("run", "--env", "dev", "--data-version", "v1", "--detach", "-q")[1].strip()
    kubeflow.world.run(run_id).frozen = 3600
    asked: list[str] = []

    def nowhere(handler: Any, method: str, path: str) -> bool:
        if not path.endswith("/log"):
            return False
        asked.append(path)
        handler.reply(500, {"code": 13, "message": "failed to get logs"})
        return True

    kubeflow.api.faults.append(nowhere)
    began = time.monotonic()
    code, out, _ = evctl("status", run_id, "--env", "dev", "-o", "json")
    assert code == 1 and json.loads(out)["reason"] == "train_fault_classifier: exit code 1"
    assert time.monotonic() - began < 20 and 1 <= len(asked) <= 12
