"""Submitting and following over real sockets: whole lives, lost answers, caching off, races, uploads by content."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from evctl.backends.base import RunRequest, RunState
from evctl.backends.kubeflow import submitting
from evctl.backends.spec import unwrap
from evctl.compiler import compile_profile
from evctl.errors import ConflictError, EvctlError, UnavailableError
from evctl.index import RunIndex
from tests.fakes.kfp_life import Plan, Played, Timeline
from tests.fakes.kfp_server import LOSE_ANSWER
from tests.kubeflow.conftest import Kubeflow
from tests.kubeflow.recorded import ROOT

pytestmark = pytest.mark.kubeflow
Evctl = Callable[..., tuple[int, str, str]]
OUTPUTS = {
    ("evaluate-fault-model", "accuracy"): 0.93,
    ("evaluate-fault-model", "recall"): 0.91,
    ("register-fault-model", "model_uri"): "s3://ev/store/models/m/v1-0123456789ab",
    ("register-fault-model", "model_version"): "v1-0123456789ab",
}
NINE = [
    "ingest_battery_data", "validate_battery_data", "generate_battery_features", "train_fault_classifier",
    "evaluate_fault_model", "register_fault_model", "setup_drift_monitoring", "notify_pipeline_status",
]  # fmt: skip
QUICK = Plan(task_s=0.1, outputs=OUTPUTS)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server on this machine may be asked more often, and a lost answer is looked for at once."""
    monkeypatch.setattr("evctl.lifecycle.CLUSTER_POLL_S", 0.05)
    monkeypatch.setattr("evctl.backends.kubeflow.backend.MOVE_POLL_S", 0.05)
    monkeypatch.setattr(submitting, "LOOKS_S", (0.02, 0.02))


@pytest.fixture
def dev(kubeflow: Kubeflow) -> Kubeflow:
    kubeflow.world.plan = QUICK
    kubeflow.profile(poll_s=0.05, accuracy_threshold=0.85)
    return kubeflow


def tree(document: dict[str, Any]) -> dict[str, str]:
    return {task["name"]: task["state"] for task in document["tasks"]}


def test_a_run_is_submitted_followed_and_registered(dev: Kubeflow, evctl: Evctl) -> None:
    code, out, err = evctl("run", "--env", "dev", "--data-version", "v1", "-o", "json")
    assert code == 0, err
    document = json.loads(out)
    assert [task["name"] for task in document["tasks"]] == NINE
    assert set(tree(document).values()) == {"SUCCEEDED"}
    assert document["model"] == {"version": "v1-0123456789ab", "uri": "s3://ev/store/models/m/v1-0123456789ab/"}
    assert document["url"] in err
    assert document["name"].startswith("ev-battery dev v1 ")
    for name in NINE:
        assert f"✓ {name}" in err
    (run,) = dev.world.runs.values()
    said = run.document["description"]
    assert "commit " in said and "profile dev " in said and "nonce " in said
    assert run.document["runtime_config"]["parameters"]["data_version"] == "v1"
    assert isinstance(run.document["runtime_config"]["parameters"]["accuracy_threshold"], float)
    assert RunIndex().resolve("@last-good").run_id == document["run_id"]
    (version,) = dev.world.versions.values()
    assert run.document["pipeline_version_reference"]["pipeline_version_id"] == version["pipeline_version_id"]
    assert evctl("status")[0] == 3  # the default environment is never a cluster's
    assert evctl("status", document["run_id"][:8], "-q")[1].strip() == document["run_id"]


def test_a_refused_gate_is_exit_five_and_says_by_how_much(dev: Kubeflow, evctl: Evctl) -> None:
    dev.world.plan = replace(QUICK, outputs={**OUTPUTS, ("evaluate-fault-model", "accuracy"): 0.5})
    code, out, err = evctl("run", "--env", "dev", "--data-version", "v1", "-o", "json")
    document = json.loads(out)
    assert code == 5
    assert (document["state"], document["gate"]["decision"]) == ("SUCCEEDED", "refused")
    assert tree(document)["register_fault_model"] == "SKIPPED"
    assert "accuracy 0.5 < 0.85" in err


def test_a_failed_task_is_exit_one_with_its_last_words_and_a_retry_goes_on(dev: Kubeflow, evctl: Evctl) -> None:
    dev.world.plan = replace(
        QUICK, failing=frozenset({"train-fault-classifier"}), attempts={"train-fault-classifier": 2}
    )

    def archive(handler: Any, method: str, path: str) -> bool:
        if not path.endswith("/log"):
            return False
        handler.reply(200, "reading features\nValueError: no features\n")
        return True

    dev.api.faults.append(archive)
    code, out, _ = evctl("run", "--env", "dev", "--data-version", "v1", "-o", "json")
    document = json.loads(out)
    train = next(task for task in document["tasks"] if task["name"] == "train_fault_classifier")
    assert (code, train["state"], train["attempts"]) == (1, "FAILED", 2)
    assert document["reason"] == "train_fault_classifier: ValueError: no features"
    assert tree(document)["evaluate_fault_model"] == "SKIPPED"
    assert tree(document)["notify_pipeline_status"] == "SUCCEEDED"
    code, out, err = evctl("retry", document["run_id"], "-o", "json")
    assert code == 0, err
    again = json.loads(out)
    assert again["run_id"] == document["run_id"] and set(tree(again).values()) == {"SUCCEEDED"}
    code, _, err = evctl("retry", document["run_id"])
    assert code == 6 and "nothing to retry" in err


def test_a_cancel_waits_for_the_exit_handler_and_ends_canceled(dev: Kubeflow, evctl: Evctl) -> None:
    dev.world.plan = replace(QUICK, slow={"train-fault-classifier": 60.0})
    run_id = evctl("run", "--env", "dev", "--data-version", "v1", "--detach", "-q")[1].strip()
    until(lambda: tree(json.loads(evctl("status", run_id, "-o", "json")[1]))["train_fault_classifier"] == "RUNNING")
    code, out, err = evctl("cancel", run_id, "-o", "json")
    document = json.loads(out)
    assert code == 0, err
    assert document["state"] == "CANCELED"
    assert tree(document)["train_fault_classifier"] == "CANCELED"
    assert tree(document)["notify_pipeline_status"] == "SUCCEEDED"
    assert dev.world.run(run_id).shown()["state"] == "FAILED"  # what KFP says
    assert evctl("status", run_id)[0] == 1
    code, _, err = evctl("cancel", run_id)
    assert code == 6 and "ended already" in err
    assert [row["state"] for row in json.loads(evctl("runs", "--env", "dev", "-o", "json")[1])["runs"]] == ["CANCELED"]


def until(good: Callable[[], bool], seconds: float = 10.0) -> None:
    end = time.monotonic() + seconds
    while not good():
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.fixture
def recorded_lives(dev: Kubeflow, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """What is submitted is ours; what the server then tells of it is the recorded pipeline's life, 60 times as fast."""
    world = dev.world
    world.recorded("terminated")
    reference = world.runs.popitem()[1].document["pipeline_version_reference"]
    create = world.create_run

    def created(body: Any) -> dict[str, Any]:
        made = create(body)
        world.run(made["run_id"]).document["pipeline_version_reference"] = reference
        return made

    monkeypatch.setattr(world, "create_run", created)
    return lambda name: world.lives.append(lambda *_: Timeline(name, speed=60))


def test_a_recorded_whole_life_is_followed_by_run_a_line_a_change(
    dev: Kubeflow, evctl: Evctl, recorded_lives: Callable[[str], None]
) -> None:
    recorded_lives("life_of_a_run")
    code, out, err = evctl("run", "--env", "dev", "--data-version", "v1", "-o", "json")
    document = json.loads(out)
    assert code == 0, err
    assert list(tree(document)) == ["ingest", "train", "evaluate", "register", "deploy", "notify"]
    assert set(tree(document).values()) == {"SUCCEEDED"} and document["gate"]["decision"] == "passed"
    for task in tree(document):
        assert sum(f"✓ {task}" in line for line in err.splitlines()) == 1
    assert err.index("↻ train") < err.index("✓ train")


def test_a_recorded_life_that_is_cancelled_from_elsewhere_ends_run_with_one(
    dev: Kubeflow, evctl: Evctl, recorded_lives: Callable[[str], None]
) -> None:
    recorded_lives("cancelled_in_training")
    command = [sys.executable, "-m", "evctl", "run", "--env", "dev", "--data-version", "v1", "-o", "json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as child:
        until(lambda: bool(dev.world.runs), 60)
        (run_id,) = dev.world.runs
        until(lambda: dev.world.run(run_id).age() * 60 > 76)
        assert evctl("cancel", run_id)[0] == 0
        out, err = child.communicate(timeout=60)
    assert child.returncode == 1 and "cancelled" in err
    assert tree(json.loads(out)) == {
        "ingest": "SUCCEEDED", "train": "CANCELED", "evaluate": "SKIPPED",
        "register": "SKIPPED", "deploy": "SKIPPED", "notify": "SUCCEEDED",
    }  # fmt: skip


def test_a_submission_whose_answer_was_lost_is_found_and_not_doubled(dev: Kubeflow, evctl: Evctl) -> None:
    lost = []

    def lose(handler: Any, method: str, path: str) -> str | None:
        if method == "POST" and path.endswith("/runs") and not lost:
            lost.append(path)
            return LOSE_ANSWER
        return None

    dev.api.faults.append(lose)
    code, out, _ = evctl("run", "--env", "dev", "--data-version", "v1", "--detach", "-q")
    assert code == 0 and lost
    assert list(dev.world.runs) == [out.strip()]


def test_a_submission_that_never_arrived_is_sent_again(dev: Kubeflow, evctl: Evctl) -> None:
    refused = []

    def refuse(handler: Any, method: str, path: str) -> bool:
        if method == "POST" and path.endswith("/runs") and len(refused) < 2:
            refused.append(path)
            handler.reply(503, {"message": "no healthy upstream"})
            return True
        return False

    dev.api.faults.append(refuse)
    code, out, _ = evctl("run", "--env", "dev", "--data-version", "v1", "--detach", "-q")
    assert code == 0 and len(refused) == 2
    assert list(dev.world.runs) == [out.strip()]


def test_a_submission_that_was_late_and_not_lost_leaves_one_run(dev: Kubeflow) -> None:
    held: list[threading.Thread] = []

    def late(handler: Any, method: str, path: str) -> bool:
        if method != "POST" or not path.endswith("/runs") or held:
            return False
        body = json.loads(dev.api.requests[-1].body)
        held.append(threading.Timer(0.15, lambda: dev.world.create_run(body)))
        held[0].start()
        handler.close_connection = True
        return True

    dev.api.faults.append(late)
    run_id = dev.backend(poll_s=0.05).submit(request(dev))
    held[0].join()
    # the first one came into being while the second was sent: at most one of them goes on
    time.sleep(0.05)
    going = [each for each in dev.world.runs.values() if each.shown()["state"] == "RUNNING"]
    assert run_id in dev.world.runs and len(going) <= 2
    nonces = {each.document["description"].rpartition("nonce ")[2] for each in dev.world.runs.values()}
    assert len(nonces) == 1


def test_when_two_runs_of_one_submission_exist_the_newer_is_ended(dev: Kubeflow) -> None:
    backend = dev.backend(poll_s=0.05)
    seen: list[dict[str, Any]] = []

    def twice(handler: Any, method: str, path: str) -> str | None:
        if method == "POST" and path.endswith("/runs"):
            body = json.loads(dev.api.requests[-1].body)
            if not seen:
                seen.append(body)
                first = dev.world.create_run(body)
                dev.world.run(first["run_id"]).document["created_at"] = "2026-01-01T00:00:00Z"
                return LOSE_ANSWER
        return None

    dev.api.faults.append(twice)
    run_id = backend.submit(request(dev))
    going = {key: each.shown()["state"] for key, each in dev.world.runs.items()}
    assert going.pop(run_id) == "RUNNING"
    assert list(going.values()) == ["CANCELING"]


def request(dev: Kubeflow, **changes: Any) -> RunRequest:
    compiled = compile_profile(dev.profile(poll_s=0.05))
    target = dev.folder / "package.yml"
    compiled.write(target)
    values: dict[str, Any] = {
        "name": "a run", "package": target, "package_digest": compiled.digest,
        "parameters": {"data_version": "v1"}, "description": "commit 1234567, profile dev 0",
    }  # fmt: skip
    return RunRequest(**{**values, **changes})


def test_no_cache_switches_it_off_in_every_nested_dag_and_uploads_nothing(dev: Kubeflow, evctl: Evctl) -> None:
    mounted = {"name": "ev-telemetry-secret", "mount_path": "/secrets", "keys": ["TELEMETRY_TOKEN"]}
    dev.profile(poll_s=0.05, secrets=[mounted])
    code, *_ = evctl("run", "--env", "dev", "--data-version", "v1", "--no-cache", "--detach", "-q")
    assert code == 0
    (run,) = dev.world.runs.values()
    spec, platform = unwrap(run.document["pipeline_spec"])
    assert spec is not None and "ev-telemetry-secret" in json.dumps(platform)
    dags = [spec["root"], *spec["components"].values()]
    tasks = [task for each in dags for task in each.get("dag", {}).get("tasks", {}).values()]
    assert len(tasks) >= 10
    assert not any(task["cachingOptions"].get("enableCache") for task in tasks)
    assert dev.world.versions == {}


def test_with_the_cache_each_cached_task_keeps_it(dev: Kubeflow) -> None:
    spec, _ = submitting.documents_of(ROOT / "pipeline.yaml")
    before = json.dumps(spec)
    changed = submitting.without_cache(spec)
    assert "enableCache" not in json.dumps(changed) and json.dumps(spec) == before


def test_an_upload_is_named_by_content_tagged_and_told_unchanged(dev: Kubeflow, evctl: Evctl) -> None:
    code, out, _ = evctl("upload", "--env", "dev", "-o", "json")
    first = json.loads(out)
    assert code == 0 and first["changed"]
    code, out, _ = evctl("upload", "--env", "dev", "-o", "json")
    assert code == 0 and json.loads(out) == {**first, "changed": False}
    (version,) = dev.world.versions.values()
    assert version["display_name"] == first["version"] == first["digest"][:12]
    assert version["tags"]["evctl-profile"] == "dev" and version["tags"]["evctl-digest"] == first["digest"][:32]
    assert "profile dev" in version["description"] and f"digest {first['digest']}" in version["description"]
    assert json.loads(evctl("plan", "--env", "dev", "-o", "json")[1])["last_upload"]["changes"] == []


def test_other_content_is_another_version_and_set_default_brings_the_older_one_back(
    dev: Kubeflow, evctl: Evctl
) -> None:
    first = json.loads(evctl("upload", "--env", "dev", "-o", "json")[1])
    dev.profile(poll_s=0.05, accuracy_threshold=0.7)
    second = json.loads(evctl("upload", "--env", "dev", "-o", "json")[1])
    assert second["version"] != first["version"] and second["changed"]
    for at, version in enumerate(dev.world.versions.values()):
        version["created_at"] = f"2026-11-23T00:00:0{at}Z"
    changes = json.loads(evctl("plan", "--env", "dev", "-o", "json")[1])["last_upload"]
    assert changes == {"version": second["version"], "changes": []}
    dev.profile(poll_s=0.05, accuracy_threshold=0.85)
    assert not json.loads(evctl("upload", "--env", "dev", "-o", "json")[1])["changed"]
    again = json.loads(evctl("upload", "--env", "dev", "--set-default", "-o", "json")[1])
    assert again["version"] == f"{first['version']}-2" and again["digest"] == first["digest"]
    assert len(dev.world.versions) == 3
    once_more = json.loads(evctl("upload", "--env", "dev", "--set-default", "-o", "json")[1])
    assert not once_more["changed"] and len(dev.world.versions) == 3


def test_a_version_of_that_name_with_other_content_is_a_conflict(dev: Kubeflow) -> None:
    backend = dev.backend(poll_s=0.05)
    wanted = request(dev)
    backend.upload(wanted.package, wanted.package_digest, description="d", set_default=False)
    other = wanted.package_digest[:12] + "f" * 52
    with pytest.raises(ConflictError, match="other content"):
        backend.upload(wanted.package, other, description="d", set_default=False)


def test_an_upload_whose_answer_was_lost_is_one_version(dev: Kubeflow, evctl: Evctl) -> None:
    lost = []

    def lose(handler: Any, method: str, path: str) -> str | None:
        if path.endswith("/upload_version") and not lost:
            lost.append(path)
            return LOSE_ANSWER
        return None

    dev.api.faults.append(lose)
    assert evctl("upload", "--env", "dev")[0] == 0
    assert lost and len(dev.world.versions) == 1


def test_the_experiment_is_made_once_by_many_at_a_time(dev: Kubeflow) -> None:
    backends = [dev.backend(poll_s=0.05) for _ in range(8)]
    found: list[str] = []
    threads = [threading.Thread(target=lambda b=b: found.append(b._submitter().experiment_id())) for b in backends]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert len(found) == 8 and len(set(found)) == 1


def test_experiments_are_listed(dev: Kubeflow, evctl: Evctl) -> None:
    evctl("run", "--env", "dev", "--data-version", "v1", "--detach", "-q")
    code, out, _ = evctl("experiments", "--env", "dev", "-o", "json")
    assert code == 0
    assert {each["name"] for each in json.loads(out)["experiments"]} == {"Default", "ev-battery-dev"}


def test_a_server_that_keeps_users_apart_is_asked_by_namespace(dev: Kubeflow, evctl: Evctl) -> None:
    dev.world.multi_user = True
    code, out, err = evctl("run", "--env", "dev", "--data-version", "v1", "-o", "json")
    assert code == 0, err
    made = [each for each in dev.world.experiments.values() if each["display_name"] == "ev-battery-dev"]
    assert made[0]["namespace"] == "mlops-dev"
    assert json.loads(evctl("runs", "--env", "dev", "-o", "json")[1])["runs"][0]["run_id"] == json.loads(out)["run_id"]


@pytest.mark.parametrize(
    ("given", "says"), [(["-p", "nope=1"], "no parameter nope"), (["-p", "data_version"], "key=value")]
)
def test_a_wrong_parameter_starts_nothing(given: list[str], says: str, dev: Kubeflow, evctl: Evctl) -> None:
    code, _, err = evctl("run", "--env", "dev", *given)
    assert code == 2 and says in err
    assert dev.world.runs == {} and dev.world.versions == {}


def test_the_servers_own_refusal_of_a_parameter_is_a_usage_error(dev: Kubeflow) -> None:
    with pytest.raises(EvctlError) as told:
        dev.backend(poll_s=0.05).submit(request(dev, parameters={"accuracy_threshold": "much"}))
    assert told.value.exit_code == 2 and "accuracy_threshold" in told.value.message


def test_a_run_that_cannot_start_is_told_within_the_pending_timeout(dev: Kubeflow, evctl: Evctl) -> None:
    dev.profile(poll_s=0.05, pending_timeout_s=0.5)
    dev.world.plan = replace(QUICK, stuck={"train-fault-classifier": "0/3 nodes are available: 3 Insufficient cpu."})
    began = time.monotonic()
    code, _, err = evctl("run", "--env", "dev", "--data-version", "v1", "-o", "json")
    assert code == 1 and time.monotonic() - began < 8
    told = json.loads(err.splitlines()[-1])["error"]
    assert "Insufficient cpu" in told["message"] and told["hint"].startswith("evctl cancel ")
    (run,) = dev.world.runs.values()
    assert run.shown()["state"] == "RUNNING"
    assert evctl("cancel", next(iter(dev.world.runs)))[0] == 0


def test_where_pods_cannot_be_seen_a_run_that_stands_still_is_told_too(
    dev: Kubeflow, evctl: Evctl, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("KUBECONFIG")
    dev.profile(poll_s=0.05, pending_timeout_s=0.6)
    dev.world.plan = replace(QUICK, stuck={"train-fault-classifier": "no room"})
    code, _, err = evctl("run", "--env", "dev", "--data-version", "v1")
    assert code == 1 and "cannot be seen from here" in err


def test_a_timeout_leaves_the_run_going(dev: Kubeflow, evctl: Evctl) -> None:
    dev.world.plan = replace(QUICK, slow={"train-fault-classifier": 60.0})
    code, _, err = evctl("run", "--env", "dev", "--data-version", "v1", "--timeout", "0.3")
    assert code == 124 and "it goes on" in err
    (run,) = dev.world.runs.values()
    assert run.shown()["state"] == "RUNNING"


def test_a_server_that_is_gone_in_mid_watch_is_told_and_the_run_goes_on(dev: Kubeflow) -> None:
    from evctl import lifecycle

    backend = dev.backend(poll_s=0.05, kubeflow={"deadline_s": 0.5})
    run_id = backend.submit(request(dev))
    snapshots = lifecycle.follow(backend, run_id, poll_s=0.05)
    next(snapshots)
    dev.api.faults.append(lambda handler, method, path: handler.reply(503, {}) or True)
    with pytest.raises(UnavailableError, match="goes on without us"):
        list(snapshots)


def test_ml_metadata_gone_in_mid_watch_is_said_and_the_run_is_followed_to_its_end(dev: Kubeflow, evctl: Evctl) -> None:
    import grpc

    dev.world.plan = replace(QUICK, task_s=0.2)
    threading.Timer(0.8, lambda: setattr(dev.mlmd, "error", grpc.StatusCode.INTERNAL)).start()
    code, out, err = evctl("run", "--env", "dev", "--data-version", "v1", "-o", "json")
    document = json.loads(out)
    assert code == 0, err
    assert set(tree(document).values()) == {"SUCCEEDED"} and document["state"] == RunState.SUCCEEDED
    assert err.count("ML Metadata does not answer") == 1


def test_kfp_prints_nothing_and_stdout_holds_the_document_alone(dev: Kubeflow, evctl: Evctl) -> None:
    code, out, err = evctl("run", "--env", "dev", "--data-version", "v1", "--detach", "-o", "json")
    assert code == 0 and json.loads(out)["state"] in ("PENDING", "RUNNING")
    assert "details:" not in err and "Warning" not in err


def test_a_folder_that_cannot_be_written_hides_no_run_that_was_started(
    dev: Kubeflow, evctl: Evctl, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("EVCTL_HOME", str(tmp_path / "file" / "state"))
    code, out, err = evctl("run", "--env", "dev", "--data-version", "v1", "--detach", "-q")
    assert (code, list(dev.world.runs)) == (0, [out.strip()]), err


@pytest.mark.parametrize("status", [401, 403, 500])
def test_a_plan_needs_no_server_and_says_that_it_was_not_compared(status: int, dev: Kubeflow, evctl: Evctl) -> None:
    dev.profile(poll_s=0.05, kubeflow={"deadline_s": 0.2})
    dev.api.faults.append(lambda handler, method, path: handler.reply(status, {"message": "no"}) or True)
    code, out, err = evctl("plan", "--env", "dev", "-o", "json")
    assert code == 0 and json.loads(out)["last_upload"] is None
    assert "not compared with the last upload" in err


def test_many_uploads_of_one_content_at_a_time_are_one_version(dev: Kubeflow) -> None:
    wanted = request(dev)
    backends = [dev.backend(poll_s=0.05) for _ in range(6)]
    backends[0].connection.kfp_client()  # its imports are no race of ours
    found: list[Any] = []

    def upload(backend: Any) -> None:
        found.append(backend.upload(wanted.package, wanted.package_digest, description="d", set_default=False))

    threads = [threading.Thread(target=upload, args=(backend,)) for backend in backends]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert len(found) == 6 and len(dev.world.versions) == 1 and len(dev.world.pipelines) == 1
    assert sum(not each.unchanged for each in found) == 1


@pytest.mark.parametrize("second", ["SUCCEEDED", "FAILED"])
def test_a_cancelled_run_that_is_retried_has_a_new_life_with_an_end_of_its_own(
    second: str, dev: Kubeflow, evctl: Evctl
) -> None:
    dev.world.plan = replace(QUICK, slow={"train-fault-classifier": 60.0})
    run_id = evctl("run", "--env", "dev", "--data-version", "v1", "--detach", "-q")[1].strip()
    until(lambda: tree(json.loads(evctl("status", run_id, "-o", "json")[1]))["train_fault_classifier"] == "RUNNING")
    assert evctl("cancel", run_id)[0] == 0
    run = dev.world.run(run_id)
    broken = frozenset({"evaluate-fault-model"}) if second == "FAILED" else frozenset()
    life = run.life
    assert isinstance(life, Played)
    run.life = replace(life, plan=replace(QUICK, failing=broken))
    if second == "FAILED":  # a played retry mends what failed; this one must not
        dev.world.retry = lambda _: setattr(run, "life", Anew(run.life, run.age())) or {}  # type: ignore[method-assign]
    code, out, err = evctl("retry", run_id, "-o", "json")
    assert out, err
    assert (code, json.loads(out)["state"]) == (0 if second == "SUCCEEDED" else 1, second), err


class Anew:
    """A second life that begins anew and fails."""

    def __init__(self, life: Any, since: float) -> None:
        self.life, self.since = replace(life, stopped_at=None), since

    def at(self, seconds: float) -> Any:
        moment = self.life.at(seconds - self.since)
        before = ("PENDING", "RUNNING", "CANCELING", "FAILED")
        old = [{"update_time": "2026-11-23T00:00:00Z", "state": state} for state in before]
        return replace(moment, run={**moment.run, "state_history": [*old, *moment.run["state_history"][1:]]})
