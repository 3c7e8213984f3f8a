"""`evctl outputs`, `logs` and `schedule` on a Kubeflow, over real sockets: API, ML Metadata and object store."""

from __future__ import annotations

import copy
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.fakes.kfp_life import Moment
from tests.fakes.kfp_state import World
from tests.kubeflow.conftest import Kubeflow
from tests.kubeflow.objectstore import Door, silent
from tests.kubeflow.recorded import load
from tests.kubeflow.test_objects import s3
from tests.local.product import until

__all__ = ["s3"]
pytestmark = pytest.mark.kubeflow
Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def store(s3: tuple[str, int], monkeypatch: pytest.MonkeyPatch) -> Iterator[Door]:
    """The object store with what the recorded runs wrote."""
    import boto3

    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "KEY")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hidden")
    client = boto3.client("s3", endpoint_url=f"http://{s3[0]}:{s3[1]}", region_name="us-east-1")
    for situation in ("succeeded", "task_failed", "retries_exhausted"):
        for each in load(f"runs/{situation}/mlmd.json")["GetArtifactsByID"]["artifacts"]:
            key = each["uri"].removeprefix("minio://mlpipeline/")
            if not key.endswith("/metrics"):  # KFP writes no file for metrics
                client.put_object(Bucket="mlpipeline", Key=key, Body=f"kept {key.rsplit('/', 1)[1]}\n".encode())
    door = Door(s3)
    yield door
    door.shutdown()


def profile(kubeflow: Kubeflow, store: Door) -> None:
    kubeflow.profile(kubeflow={"object_store_endpoint": store.url})


def document(evctl: Call, *line: str, code: int = 0) -> Any:
    got, out, err = evctl(*line, "--env", "dev", "-o", "json")
    assert got == code, err
    return json.loads(out or err.splitlines()[-1])


def test_a_cached_runs_outputs_are_shown_whole_and_downloaded(
    kubeflow: Kubeflow, store: Door, evctl: Call, tmp_path: Path
) -> None:
    run = kubeflow.world.recorded("cached")
    profile(kubeflow, store)
    found = document(evctl, "outputs", run, "--download", str(tmp_path / "out"))
    assert found["parameters"] == {"ingest.Output": "ok", "evaluate.Output": 0.92, "register.Output": "s3://x"}
    assert [(each["task"], each["name"], each["size_bytes"]) for each in found["artifacts"]] == [
        ("ingest", "raw", len("kept raw\n")),
        ("train", "model", len("kept model\n")),
        ("evaluate", "metrics", None),
    ]
    assert found["artifacts"][2]["metadata"] == {"recall": 0.9}
    assert (tmp_path / "out" / "train" / "model").read_text() == "kept model\n"
    assert not (tmp_path / "out" / "evaluate").exists()
    _, table, _ = evctl("outputs", run, "--env", "dev", "--task", "evaluate")
    assert "evaluate.recall  0.9000" in table
    assert "gone" not in table


def test_outputs_of_a_run_whose_store_is_away_are_still_listed(kubeflow: Kubeflow, evctl: Call, tmp_path: Path) -> None:
    run = kubeflow.world.recorded("succeeded")
    kubeflow.profile(kubeflow={"object_store_endpoint": "http://127.0.0.1:1"})
    found = document(evctl, "outputs", run)
    assert [each["size_bytes"] for each in found["artifacts"]] == [None, None, None]
    error = document(evctl, "outputs", run, "--download", str(tmp_path / "out"), code=4)["error"]
    assert "AWS_ACCESS_KEY_ID" in error["hint"]


def changed(world: World, change: Callable[[dict[str, Any], list[dict[str, Any]]], None]) -> str:
    """A run like the recorded one, whose artifact `raw` and the events of it were written by somebody else."""
    run_id, new = world.recorded("succeeded"), "0b5e0000-0000-4000-8000-000000000000"
    run = world.runs.pop(run_id)
    moment = run.moment()
    metadata = copy.deepcopy(moment.metadata)
    raw = next(a for a in metadata["GetArtifactsByID"]["artifacts"] if a["uri"].endswith("/raw"))
    events = metadata["GetEventsByExecutionIDs"]["events"]
    change(raw, [e for e in events if e["artifact_id"] == raw["id"] and e["type"] == "OUTPUT"])
    document = {**run.document, **moment.run, "run_id": new}
    run.life = SimpleNamespace(at=lambda _: Moment(document, metadata, [], []))
    run.document = document
    world.runs[new] = run
    return new


@pytest.mark.parametrize("name", ["../../../escaped", "{folder}/escaped", "..", "a/b", ""])
def test_an_artifacts_name_leads_nowhere_out_of_the_folder(
    kubeflow: Kubeflow, store: Door, evctl: Call, tmp_path: Path, name: str
) -> None:
    def rename(_: Any, events: list[dict[str, Any]]) -> None:
        for event in events:
            event["path"] = {"steps": [{"key": name.format(folder=tmp_path)}]}

    run = changed(kubeflow.world, rename)
    profile(kubeflow, store)
    out = tmp_path / "a" / "b" / "out"
    document(evctl, "outputs", run, "--download", str(out))
    found = [path for path in tmp_path.rglob("*") if path.is_file() and path.read_bytes() == b"kept raw\n"]
    assert [path.parent for path in found] == [out / "ingest"]


@pytest.mark.parametrize("uri", ["https://example.com/x", "huggingface://a/b", "oci://r/x", "/tmp/x", "", "s3://b"])
def test_what_was_never_in_the_store_does_not_fail_a_download(
    kubeflow: Kubeflow, store: Door, evctl: Call, tmp_path: Path, uri: str
) -> None:
    run = changed(kubeflow.world, lambda raw, _: raw.update(uri=uri))
    profile(kubeflow, store)
    code, _, err = evctl("outputs", run, "--env", "dev", "--download", tmp_path / "out")
    assert code == 0, err
    assert "ingest.raw: not copied: " in err
    assert (tmp_path / "out" / "train" / "model").read_text() == "kept model\n"


def test_a_bucket_that_does_not_open_keeps_no_other_artifact_back(
    kubeflow: Kubeflow, store: Door, evctl: Call, tmp_path: Path
) -> None:
    run = changed(kubeflow.world, lambda raw, _: raw.update(uri="s3://another/x"))
    profile(kubeflow, store)
    error = document(evctl, "outputs", run, "--download", str(tmp_path / "out"), code=9)["error"]
    assert error["message"].startswith("1 of 3 artifacts could not be copied: ingest.raw; ")
    assert "NoSuchBucket" in error["message"]
    assert (tmp_path / "out" / "train" / "model").read_text() == "kept model\n"
    sizes = [each["size_bytes"] for each in document(evctl, "outputs", run)["artifacts"]]
    assert sizes == [None, len("kept model\n"), None]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_download_that_is_ended_ends_within_a_second_or_so_and_leaves_nothing(
    kubeflow: Kubeflow, store: Door, tmp_path: Path, number: int, code: int
) -> None:
    run = kubeflow.world.recorded("succeeded")
    profile(kubeflow, store)
    slow = silent(30.0)
    store.faults = [lambda handler: bool(handler.headers.get("Range")) and slow(handler)] * 1000
    out = tmp_path / "out"
    line = [sys.executable, "-m", "evctl", "outputs", run, "--env", "dev", "--download", str(out)]
    with subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as copying:
        until(lambda: next((path for path in out.rglob("*") if path.name == "content"), None))
        started = time.monotonic()
        copying.send_signal(number)
        copying.communicate(timeout=60)
    assert copying.returncode == code
    assert time.monotonic() - started < 2.5
    assert [path for path in out.rglob("*") if path.is_file()] == []
    assert list(out.rglob(".*")) == []


def pod_of(situation: str, task: str) -> str:
    executions = load(f"runs/{situation}/mlmd.json")["GetExecutionsByContext"]["executions"]
    properties = next(p for p in (e["custom_properties"] for e in executions) if p["task_name"]["string_value"] == task)
    return str(properties["pod_name"]["string_value"])


def test_logs_come_from_the_archive_and_where_that_has_none_from_the_store(
    kubeflow: Kubeflow, store: Door, evctl: Call
) -> None:
    run = kubeflow.world.recorded("succeeded")
    profile(kubeflow, store)
    kubeflow.world.logs[pod_of("succeeded", "train")] = "training\ndone\n"
    lines = document(evctl, "logs", run)["lines"]
    assert [f"{each['task']} {each['text']}" for each in lines] == [
        "train training",
        "train done",
        "evaluate kept executor-logs-0",
        "register kept executor-logs-0",
        "deploy kept executor-logs-0",
        "notify kept executor-logs-0",
    ]
    # a cached task printed nothing here; asked for by name, it shows what the older run printed
    assert document(evctl, "logs", run, "ingest")["lines"][0]["text"] == "kept executor-logs-0"
    assert document(evctl, "logs", run, "nope", code=3)["error"]["code"] == "not_found"


def test_every_attempt_of_what_failed_is_shown(kubeflow: Kubeflow, store: Door, evctl: Call) -> None:
    run = kubeflow.world.recorded("retries_exhausted")
    profile(kubeflow, store)
    lines = document(evctl, "logs", run, "--failed")["lines"]
    assert [(each["attempt"], each["text"]) for each in lines] == [(n + 1, f"kept executor-logs-{n}") for n in range(4)]


def test_an_archive_that_fails_does_not_hold_the_store_up(kubeflow: Kubeflow, store: Door, evctl: Call) -> None:
    run = kubeflow.world.recorded("succeeded")
    kubeflow.profile(kubeflow={"object_store_endpoint": store.url, "deadline_s": 60})

    def broken(handler: Any, method: str, path: str) -> bool:
        if path.endswith("/log"):
            handler.reply(500, {"error_message": "failed to read the archive"})
            return True
        return False

    kubeflow.api.faults.append(broken)
    started = time.monotonic()
    assert document(evctl, "logs", run, "train")["lines"][0]["text"] == "kept executor-logs-0"
    assert time.monotonic() - started < 30  # the profile's deadline is 60


def test_logs_are_followed_until_the_run_has_ended(kubeflow: Kubeflow, evctl: Call) -> None:
    run = kubeflow.world.recorded("succeeded")
    kubeflow.profile()
    for task in ("train", "evaluate", "register", "deploy", "notify"):
        kubeflow.world.logs[pod_of("succeeded", task)] = f"{task} was here\n"
    code, out, err = evctl("logs", run, "-f", "--env", "dev")
    assert code == 0, err
    assert out.splitlines() == [f"{t} | {t} was here" for t in ("train", "evaluate", "register", "deploy", "notify")]


SCHEDULES = [
    {"name": "nightly", "cron": "0 3 * * *", "parameters": {"data_version": "v1"}},
    {"name": "weekly", "cron": "30 4 * * sun", "enabled": False},
]


@pytest.mark.parametrize("multi_user", [False, True])
def test_schedules_become_recurring_runs_of_the_uploaded_version(
    kubeflow: Kubeflow, evctl: Call, multi_user: bool
) -> None:
    world: World = kubeflow.world
    world.multi_user = multi_user
    kubeflow.profile(schedules=SCHEDULES)
    changed = document(evctl, "schedule", "apply")["schedules"]
    assert [(each["name"], each["change"], each["where"]) for each in changed] == [
        ("nightly", "created", "kubeflow"),
        ("weekly", "created", "kubeflow"),
    ]
    made = {each["display_name"]: each for each in world.recurring.values()}
    nightly = made["evctl dev nightly"]
    assert nightly["trigger"]["cron_schedule"]["cron"] == "0 0 3 * * *"
    assert nightly["runtime_config"]["parameters"] == {"data_version": "v1"}
    assert nightly["pipeline_version_reference"]["pipeline_version_id"] in world.versions
    assert world.experiments[nightly["experiment_id"]]["display_name"] == "ev-battery-dev"
    assert made["evctl dev weekly"]["mode"] == "DISABLE"
    assert {each["change"] for each in document(evctl, "schedule", "apply")["schedules"]} == {"unchanged"}
    assert len(world.versions) == 1

    kubeflow.profile(schedules=[{**SCHEDULES[0], "cron": "0 5 * * *"}, {**SCHEDULES[1], "enabled": True}])
    states = {each["name"]: each["state"] for each in document(evctl, "schedule", "list")["schedules"]}
    assert states == {"nightly": "differs", "weekly": "differs"}
    assert {each["change"] for each in document(evctl, "schedule", "apply")["schedules"]} == {"updated"}
    assert len(world.recurring) == 2
    assert document(evctl, "schedule", "delete", "nightly") == {"deleted": ["nightly"]}
    assert [each["display_name"] for each in world.recurring.values()] == ["evctl dev weekly"]


def test_a_profile_without_an_image_schedules_nothing(kubeflow: Kubeflow, evctl: Call) -> None:
    kubeflow.profile(schedules=SCHEDULES, image={"mode": "prebuilt", "name": None})
    assert document(evctl, "schedule", "apply", code=5)["error"]["code"] == "refused"
    assert kubeflow.world.recurring == {}
