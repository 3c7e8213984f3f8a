"""Artifacts copied from a real S3 server over HTTP, through a door that fails; and from Google Cloud Storage."""

from __future__ import annotations

import base64
import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from evctl.backends.base import Artifact
from evctl.backends.kubeflow import objects, objects_place, objects_reach
from evctl.errors import (
    ElsewhereError,
    FailedError,
    NotAllowedError,
    NotFoundError,
    TimedOutError,
    UnavailableError,
)
from tests.kubeflow.objectstore import Door, FakeKubernetes, cuts, damages, passes, reach, says, silent, stalls

pytestmark = pytest.mark.kubeflow
KEY, SECRET = "AKIAEXAMPLEONLY", "wJalrXUtnFEMI-never-shown"
BIG = os.urandom(3 << 20)


@pytest.fixture(scope="module")
def s3() -> Iterator[tuple[str, int]]:
    before = os.environ.get("S3_IGNORE_SUBDOMAIN_BUCKETNAME")
    os.environ["S3_IGNORE_SUBDOMAIN_BUCKETNAME"] = "true"
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    import boto3

    client = boto3.client(
        "s3",
        endpoint_url=f"http://{host}:{port}",
        aws_access_key_id=KEY,
        aws_secret_access_key=SECRET,
        region_name="us-east-1",
    )
    client.create_bucket(Bucket="mlpipeline")
    for key, body in {
        "run/raw": b"telemetry",
        "run/empty": b"",
        "run/big": BIG,
        "run/model/": b"",
        "run/model/sub/": b"",
        "run/model/manifest.json": b"{}",
        "run/model/sub/model.joblib": b"weights",
    }.items():
        client.put_object(Bucket="mlpipeline", Key=key, Body=body)
    yield host, port
    server.stop()
    if before is None:
        del os.environ["S3_IGNORE_SUBDOMAIN_BUCKETNAME"]


@pytest.fixture
def door(s3: tuple[str, int]) -> Iterator[Door]:
    server = Door(s3)
    yield server
    server.shutdown()


@pytest.fixture(autouse=True)
def credentials(stranger: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)


def artifact(name: str, scheme: str = "minio", **params: str) -> Artifact:
    info = {"Provider": scheme, "Params": {"disableSSL": "true", "fromEnv": "false", **params}} if params else None
    return Artifact(
        "train", name, "system.Model", f"{scheme}://mlpipeline/run/{name}", store=json.dumps(info) if info else None
    )


@pytest.mark.parametrize("scheme", ["minio", "s3"])
def test_a_file_and_a_folder_are_copied_whole(door: Door, tmp_path: Path, scheme: str) -> None:
    there = reach(endpoint=door.url)
    got = objects.fetch(there, artifact("raw", scheme), tmp_path / "out" / "raw")
    assert got.read_bytes() == b"telemetry"
    folder = objects.fetch(there, artifact("model", scheme), tmp_path / "out" / "model")
    assert {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()} == {
        "manifest.json",
        "sub/model.joblib",
    }
    assert objects.fetch(there, artifact("empty", scheme), tmp_path / "out" / "empty").read_bytes() == b""
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["empty", "model", "raw"]


def test_a_copy_replaces_what_was_there_and_keeps_it_when_it_fails(door: Door, tmp_path: Path) -> None:
    target = tmp_path / "model"
    target.mkdir()
    (target / "old").write_text("old")
    with pytest.raises(NotFoundError):
        objects.fetch(reach(endpoint=door.url), artifact("nope"), target)
    assert (target / "old").exists()
    objects.fetch(reach(endpoint=door.url), artifact("model"), target)
    assert not (target / "old").exists()
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


def test_a_store_that_is_busy_or_cuts_a_body_is_asked_again_for_the_missing_part(
    door: Door, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(objects, "CHUNK", 1 << 20)
    door.faults = [says(503), says(503), passes, passes, cuts, says(503), passes, cuts]
    assert objects.fetch(reach(endpoint=door.url), artifact("big"), tmp_path / "big").read_bytes() == BIG
    assert door.faults == []


def test_a_body_that_stands_still_is_given_up_and_asked_again(
    door: Door, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(objects_reach, "READ_TIMEOUT_S", 0.3)
    door.faults = [passes, passes, stalls(10.0)]
    started = time.monotonic()
    assert objects.fetch(reach(endpoint=door.url), artifact("raw"), tmp_path / "raw").read_bytes() == b"telemetry"
    assert door.faults == []
    assert time.monotonic() - started < 8


def test_a_store_that_stays_busy_is_told_after_the_deadline_and_nothing_is_left(door: Door, tmp_path: Path) -> None:
    door.faults = [passes, passes, *[cuts] * 500]
    with pytest.raises(UnavailableError, match="run/big"):
        objects.fetch(reach(endpoint=door.url, deadline_s=1.0), artifact("big"), tmp_path / "big")
    assert list(tmp_path.glob("**/*big*")) == []


def test_a_damaged_copy_is_read_again_and_refused_when_it_stays_so(door: Door, tmp_path: Path) -> None:
    door.faults = [passes, passes, damages]
    assert objects.fetch(reach(endpoint=door.url), artifact("raw"), tmp_path / "raw").read_bytes() == b"telemetry"
    door.faults = [passes, passes, damages, damages]
    with pytest.raises(FailedError, match="not what the store holds"):
        objects.fetch(reach(endpoint=door.url), artifact("raw"), tmp_path / "again")
    assert not (tmp_path / "again").exists()


def interrupted(after_s: float) -> threading.Timer:
    main = threading.main_thread().ident
    assert main is not None
    timer = threading.Timer(after_s, signal.pthread_kill, (main, signal.SIGINT))
    timer.start()
    return timer


@pytest.mark.parametrize("name", ["big", "model"])
@pytest.mark.parametrize("before", [0, 1, 2])
def test_an_interrupt_waits_for_no_part_and_leaves_nothing(
    door: Door, tmp_path: Path, name: str, before: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(objects, "CHUNK", 1 << 20)
    door.faults = [*[passes] * before, *[silent(3.0)] * 50]
    started = time.monotonic()
    interrupted(0.8)
    with pytest.raises(KeyboardInterrupt):
        objects.fetch(reach(endpoint=door.url), artifact(name), tmp_path / "out" / name)
    assert time.monotonic() - started < 2
    door.faults = []
    time.sleep(3.5)  # what was being read has come by now
    assert not (tmp_path / "out").exists() or list((tmp_path / "out").iterdir()) == []


def test_an_interrupt_while_sizes_are_asked_waits_for_no_answer(door: Door) -> None:
    door.faults = [passes, passes, *[silent(5.0)] * 50]
    started = time.monotonic()
    interrupted(0.8)
    with pytest.raises(KeyboardInterrupt):
        objects.with_sizes(reach(endpoint=door.url), [artifact("raw"), artifact("model"), artifact("big")])
    assert time.monotonic() - started < 2


def test_one_file_that_fails_ends_the_others(door: Door, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(objects, "AT_ONCE", 2)

    def denies_or_waits(handler: Any) -> bool:
        if handler.command == "GET" and "joblib" in handler.path:
            return says(403)(handler)
        return silent(5.0)(handler) if handler.command == "GET" and "manifest" in handler.path else False

    door.faults = [denies_or_waits] * 100
    started = time.monotonic()
    with pytest.raises(NotAllowedError):
        objects.fetch(reach(endpoint=door.url), artifact("model"), tmp_path / "out" / "model")
    assert time.monotonic() - started < 3
    assert list((tmp_path / "out").iterdir()) == []


def secret(namespace: str, name: str, **values: str) -> dict[str, dict[str, Any]]:
    data = {key: base64.b64encode(value.encode()).decode() for key, value in values.items()}
    return {f"/api/v1/namespaces/{namespace}/secrets/{name}": {"data": data}}


def test_the_clusters_secret_opens_what_the_environment_cannot_and_a_session_token_does_not_mix(
    door: Door, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    door.keys = {"CLUSTERKEY"}
    monkeypatch.setenv("AWS_SESSION_TOKEN", "of-another-account")
    api = FakeKubernetes(
        secret("kubeflow", "mlpipeline-minio-artifact", accesskey="CLUSTERKEY", secretkey="cluster-secret")
    )
    info = {"endpoint": "seaweedfs.kubeflow:9000", "secretName": "mlpipeline-minio-artifact", "region": "minio"}
    there = reach(forwarded=door.url, kubernetes=api)
    assert objects.fetch(there, artifact("raw", **info), tmp_path / "raw").read_bytes() == b"telemetry"


def test_a_refusal_names_whose_credentials_and_shows_none(door: Door, tmp_path: Path) -> None:
    door.keys = set()
    with pytest.raises(NotAllowedError) as caught:
        objects.fetch(reach(endpoint=door.url), artifact("raw"), tmp_path / "raw")
    assert "the environment" in str(caught.value)
    assert_silent(caught.value)


def test_a_stores_timeout_is_told_as_one() -> None:
    slow = RuntimeError("error sending request\n inner: Http(HttpError { kind: Timeout, source: reqwest::Error })")
    told = objects_reach.explained(slow, "minio://mlpipeline", "the environment")
    assert isinstance(told, TimedOutError)
    assert told.message == "minio://mlpipeline cannot be read from the store: it timed out"
    assert "the same command again" in str(told.hint)


def assert_silent(error: BaseException | None) -> None:
    while error is not None:
        said = f"{error} {getattr(error, 'hint', '')}"
        assert KEY not in said
        assert SECRET not in said
        error = error.__cause__


def test_without_any_credentials_the_variables_and_the_secret_are_named(
    door: Door, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    with pytest.raises(NotAllowedError) as caught:
        objects.fetch(reach(endpoint=door.url), artifact("raw", secretName="my-secret"), tmp_path / "raw")
    assert "AWS_ACCESS_KEY_ID" in str(caught.value.hint)
    assert "my-secret" in caught.value.message


def test_a_dead_store_is_told_within_five_seconds(tmp_path: Path) -> None:
    started = time.monotonic()
    with pytest.raises(UnavailableError) as caught:
        objects.fetch(reach(endpoint="http://127.0.0.1:1", deadline_s=60), artifact("raw"), tmp_path / "raw")
    assert time.monotonic() - started < 5
    assert "object_store_endpoint" in str(caught.value.hint)


def test_sizes_are_filled_in_and_a_dead_store_leaves_them_out(door: Door) -> None:
    given = [artifact("raw"), artifact("model"), artifact("nope"), artifact("big")]
    found = objects.with_sizes(reach(endpoint=door.url), given)
    assert [each.size_bytes for each in found] == [9, 9, None, len(BIG)]
    assert objects.with_sizes(reach(endpoint="http://127.0.0.1:1"), given) == tuple(given)


def test_google_cloud_storage_is_copied_from_too(tmp_path: Path) -> None:
    server = Door(None)
    server.objects = {"run/raw": b"telemetry", "run/model/a": b"1", "run/model/b/c": b"2"}
    there = reach(endpoint=server.url)
    assert objects.fetch(there, artifact("raw", "gs"), tmp_path / "raw").read_bytes() == b"telemetry"
    folder = objects.fetch(there, artifact("model", "gs"), tmp_path / "model")
    assert (folder / "b" / "c").read_bytes() == b"2"
    server.shutdown()


def test_credentials_that_are_none_are_told_without_their_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GOOGLE_SERVICE_ACCOUNT_KEY", json.dumps({"type": SECRET}))
    with pytest.raises(NotAllowedError, match="the environment") as caught:
        objects.fetch(reach(), artifact("raw", "gs"), tmp_path / "raw")
    assert_silent(caught.value)


@pytest.mark.parametrize("uri", ["https://example.org/x", "hdfs://a/b", "/tmp/x", "oci://x/y", "", "s3://b", "gs://b/"])
def test_what_is_no_object_store_is_said_to_be_none(uri: str, tmp_path: Path) -> None:
    with pytest.raises(ElsewhereError, match="does not copy from"):
        objects.fetch(reach(), Artifact("t", "a", "system.Artifact", uri), tmp_path / "x")


@pytest.mark.parametrize("key", ["run/a#b", "run/a b%20+&=c", "run/#/ä"])
def test_a_key_is_taken_as_it_is(s3: tuple[str, int], door: Door, tmp_path: Path, key: str) -> None:
    import boto3

    client = boto3.client("s3", endpoint_url=f"http://{s3[0]}:{s3[1]}", region_name="us-east-1")
    client.put_object(Bucket="mlpipeline", Key=key, Body=key.encode())
    given = Artifact("t", "a", "system.Artifact", f"minio://mlpipeline/{key}")
    assert objects.fetch(reach(endpoint=door.url), given, tmp_path / "x").read_text() == key


def test_what_follows_a_question_mark_says_how_to_reach_the_store_as_for_kfp() -> None:
    found = objects_place.location_of("s3://b/run/x?region=eu-west-1&endpoint=a#b")
    assert found == objects_place.Location("s3", "b", "run/x")


@pytest.mark.parametrize("key", ["run//raw", "run/./raw", "run/../raw"])
def test_a_key_that_cannot_be_asked_for_is_told_at_once_for_what_it_is(door: Door, tmp_path: Path, key: str) -> None:
    given = Artifact("t", "a", "system.Artifact", f"minio://mlpipeline/{key}")
    started = time.monotonic()
    with pytest.raises(FailedError, match=r"between slashes") as caught:
        objects.fetch(reach(endpoint=door.url), given, tmp_path / "x")
    assert time.monotonic() - started < 3
    assert given.uri in f"{caught.value.message} {caught.value.hint}"


def test_a_store_that_does_not_answer_is_asked_once_and_one_that_refuses_a_key_again(
    door: Door, tmp_path: Path
) -> None:
    busy = objects.Objects(reach(endpoint=door.url, deadline_s=0.5))
    door.faults = [says(503)] * 500
    with pytest.raises(UnavailableError):
        busy.fetch(artifact("raw"), tmp_path / "raw")
    asked = len(door.seen)
    with pytest.raises(UnavailableError, match=r"run/big was not asked for: .*run/raw"):
        busy.fetch(artifact("big"), tmp_path / "big")
    assert len(door.seen) == asked
    door.faults = [says(403)]
    store = objects.Objects(reach(endpoint=door.url))
    with pytest.raises(NotAllowedError):
        store.fetch(artifact("big"), tmp_path / "big")
    assert store.fetch(artifact("raw"), tmp_path / "raw").read_bytes() == b"telemetry"


def test_sizes_are_asked_of_every_store_whichever_comes_first(door: Door) -> None:
    given = [Artifact("t", "a", "system.Artifact", uri) for uri in ("https://a/b", "s3://another/x", "minio://b")]
    found = objects.with_sizes(reach(endpoint=door.url), [*given, artifact("raw"), artifact("model")])
    assert [each.size_bytes for each in found] == [None, None, None, 9, 9]


def test_session_info_is_read_as_kfp_writes_it() -> None:
    recorded = json.dumps(
        {
            "Provider": "minio",
            "Params": {
                "accessKeyKey": "accesskey",
                "disableSSL": "true",
                "endpoint": "seaweedfs.kubeflow:9000",
                "fromEnv": "false",
                "region": "minio",
                "secretName": "mlpipeline-minio-artifact",
            },
        }
    )
    found = objects_place.session_of(recorded, "minio")
    assert (found.endpoint, found.secret, found.region) == (
        "http://seaweedfs.kubeflow:9000",
        "mlpipeline-minio-artifact",
        "minio",
    )
    assert objects_place.session_of(None, "minio").endpoint == "http://minio-service.kubeflow:9000"
    assert objects_place.session_of(None, "s3").endpoint is None
    cloud = json.dumps({"Provider": "s3", "Params": {"endpoint": "s3.amazonaws.com", "fromEnv": "true"}})
    assert objects_place.session_of(cloud, "s3") == objects_place.Session("s3")
    assert objects_place.session_of("not json", "s3").secret is None


def test_a_proxy_for_the_internet_is_not_asked_for_a_forwarded_port(
    door: Door, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.setenv("NO_PROXY", "example.org")
    assert objects.fetch(reach(endpoint=door.url), artifact("raw"), tmp_path / "raw").read_bytes() == b"telemetry"
