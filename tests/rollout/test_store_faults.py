"""The registry over a real S3 server behind a door that fails; and who is let in at all."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import pytest

from ev_ml.bundle import content_digest
from evctl.errors import ConflictError, EvctlError, NotAllowedError, UnavailableError
from evctl.rollout.registry import Published, fetch, models, partial, publish
from evctl.rollout.store import Store
from tests.rollout.s3_door import Door, Handler, cuts, drips, loses_the_answer, says, when

Config = dict[str, Any]
NAME = "ev_battery_fault_classifier"
KEY, SECRET = "AKIAFORTESTS", "this-is-the-secret-value"


@pytest.fixture(scope="module")
def s3_server() -> Iterator[str]:
    from moto.server import ThreadedMotoServer

    before = os.environ.get("S3_IGNORE_SUBDOMAIN_BUCKETNAME")
    os.environ["S3_IGNORE_SUBDOMAIN_BUCKETNAME"] = "true"
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()
    if before is None:
        del os.environ["S3_IGNORE_SUBDOMAIN_BUCKETNAME"]


@pytest.fixture
def door(s3_server: str) -> Iterator[Door]:
    urlopen(Request(f"{s3_server}/models-bucket", method="PUT")).read()
    made = Door(s3_server)
    yield made
    made.shutdown()
    made.server_close()


@pytest.fixture
def store(door: Door, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    return {"uri": f"s3://models-bucket/{tmp_path.name}", "endpoint": door.url}


def test_an_overloaded_store_is_asked_again(
    store: Config, door: Door, bundles: dict[str, Path], tmp_path: Path
) -> None:
    door.faults = [says(503), says(500, "InternalError"), says(503)]
    done = publish(bundles["a"], store)
    assert not door.faults
    door.faults = [says(503), says(503)]
    fetch(done.uri, store, tmp_path / "f")
    assert [each["digest"] for each in models(store, NAME)] == [done.digest]


def test_a_store_that_stays_down_is_told_after_bounded_retries(
    store: Config, door: Door, bundles: dict[str, Path]
) -> None:
    door.always = says(503)
    start = time.monotonic()
    with pytest.raises(UnavailableError, match=r"cannot be read: SlowDown, status 503"):
        publish(bundles["a"], store)
    assert time.monotonic() - start < 10
    assert len(door.seen) == 5


def test_a_dead_endpoint_is_told_at_once(store: Config, bundles: dict[str, Path]) -> None:
    start = time.monotonic()
    with pytest.raises(UnavailableError) as told:
        publish(bundles["a"], {**store, "endpoint": "http://127.0.0.1:9"})
    assert time.monotonic() - start < 5
    assert SECRET not in told.value.message
    assert KEY not in told.value.message


def test_a_body_that_is_cut_is_fetched_again(
    store: Config, door: Door, bundles: dict[str, Path], tmp_path: Path
) -> None:
    done = publish(bundles["a"], store)
    door.always = when("GET model.joblib", cuts)
    folder = fetch(done.uri, store, tmp_path / "f")
    assert (folder / "model.joblib").read_bytes() == (bundles["a"] / "model.joblib").read_bytes()


def test_a_reader_slower_than_the_deadline_is_unavailable_and_not_waited_for(
    store: Config, door: Door, bundles: dict[str, Path], tmp_path: Path
) -> None:
    done = publish(bundles["a"], store)

    def slow(handler: Handler, body: bytes) -> bool:
        return handler.command == "GET" and "model.joblib" in handler.path and drips(30)(handler, body)

    door.always = slow
    start = time.monotonic()
    with pytest.raises(UnavailableError):
        fetch(done.uri, {**store, "request_timeout_s": 0.5}, tmp_path / "f")
    assert time.monotonic() - start < 15


def test_a_conditional_put_whose_answer_was_lost_is_ours_all_the_same(
    store: Config, door: Door, bundles: dict[str, Path]
) -> None:
    door.always = when("PUT manifest.json", loses_the_answer)
    done = publish(bundles["a"], store)
    assert (done.digest, done.unchanged) == (models(store, NAME)[0]["digest"], False)


def other(bundle: Path, folder: Path) -> Path:
    """Another bundle under the same version: as two runs would make that disagree about what a version is."""
    shutil.copytree(bundle, folder)
    document = json.loads((folder / "manifest.json").read_text())
    document["features"][0]["unit"] = "furlong"
    document["digest"] = content_digest(document["files"], tuple(document["features"]))
    (folder / "manifest.json").write_text(json.dumps(document))
    return folder


def test_the_conditional_put_is_lost_to_another_writer_and_exit_6_says_so(
    store: Config, door: Door, s3_server: str, bundles: dict[str, Path], tmp_path: Path
) -> None:
    theirs = other(bundles["a"], tmp_path / "theirs")
    direct = {**store, "endpoint": s3_server}

    def first(handler: Handler, body: bytes) -> bool:
        publish(theirs, direct)
        return False

    door.always = when("PUT manifest.json", first)
    with pytest.raises(ConflictError, match="exists with other content") as told:
        publish(bundles["a"], store)
    assert told.value.exit_code == 6
    kept = models(store, NAME)
    assert [each["digest"] for each in kept] == [json.loads((theirs / "manifest.json").read_text())["digest"]]


def test_of_two_publishers_at_once_one_wins(store: Config, bundles: dict[str, Path], tmp_path: Path) -> None:
    theirs = other(bundles["a"], tmp_path / "theirs")
    done: list[Published] = []
    lost: list[EvctlError] = []
    together = threading.Barrier(2)

    def go(folder: Path) -> None:
        together.wait()
        try:
            done.append(publish(folder, store))
        except EvctlError as error:
            lost.append(error)

    threads = [threading.Thread(target=go, args=(folder,)) for folder in (bundles["a"], theirs)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert (len(done), [each.exit_code for each in lost]) == (1, [6])
    assert [each["digest"] for each in models(store, NAME)] == [done[0].digest]


PUBLISHER = """
import json, os, sys
from pathlib import Path
from evctl.rollout import registry
from evctl.rollout.store import Store
real = Store.create
def dies(self, key, content):
    if key.endswith(sys.argv[3]): os.kill(os.getpid(), 9)
    real(self, key, content)
Store.create = dies
registry.publish(Path(sys.argv[1]), json.loads(sys.argv[2]))
"""


@pytest.mark.parametrize("kind", ["file", "s3"])
@pytest.mark.parametrize("at", ["model.joblib", "manifest.json"])
def test_a_publisher_killed_before_the_manifest_leaves_no_model_and_the_next_finishes(
    at: str, kind: str, store: Config, bundles: dict[str, Path], tmp_path: Path
) -> None:
    config = store if kind == "s3" else {"uri": str(tmp_path / "s")}
    asked = [sys.executable, "-c", PUBLISHER, str(bundles["a"]), json.dumps(config), at]
    assert subprocess.run(asked, env=dict(os.environ)).returncode == -signal.SIGKILL
    version = json.loads((bundles["a"] / "manifest.json").read_text())["version"]
    assert models(config, NAME) == []
    assert partial(config, NAME, version)
    done = publish(bundles["a"], config)
    assert (done.version, done.unchanged) == (version, False)
    assert not partial(config, NAME, version)


def test_a_manifest_that_is_not_readable_hides_its_model_and_no_other(store: Config, bundles: dict[str, Path]) -> None:
    done = publish(bundles["a"], store)
    Store(store).create(f"models/{NAME}/v9/manifest.json", b"{")
    Store(store).create(f"models/{NAME}/v8/manifest.json", b"[]")
    assert [each["version"] for each in models(store, NAME)] == [done.version]


@pytest.mark.parametrize("status", [401, 403])
def test_refused_credentials_are_exit_4_and_never_shown(status: int, store: Config, door: Door) -> None:
    door.always = says(status, "InvalidAccessKeyId")
    with pytest.raises(NotAllowedError, match="does not know this access key") as told:
        models(store, NAME)
    assert (SECRET in str(told.value), KEY in str(told.value)) == (False, False)


def test_missing_credentials_are_told_before_anything_is_asked(
    store: Config, door: Door, bundles: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(NotAllowedError, match="AWS_SECRET_ACCESS_KEY not set") as told:
        publish(bundles["a"], store)
    assert (told.value.exit_code, door.seen) == (4, [])
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    with pytest.raises(NotAllowedError, match="AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY not set"):
        Store(store)
    monkeypatch.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", "/var/run/token")
    monkeypatch.setenv("AWS_ROLE_ARN", "arn:aws:iam::1:role/x")
    Store(store)


def test_gcs_needs_credentials_and_takes_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(NotAllowedError, match="GOOGLE_APPLICATION_CREDENTIALS is not set"):
        Store({"uri": "gs://bucket/prefix"})
    file = tmp_path / "key.json"
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(file))
    with pytest.raises(NotAllowedError, match="the file GOOGLE_APPLICATION_CREDENTIALS names does not exist"):
        Store({"uri": "gs://bucket/prefix"})


def test_a_missing_bucket_is_told_as_such(store: Config) -> None:
    with pytest.raises(EvctlError, match="does not exist"):
        publish_to = {**store, "uri": "s3://no-such-bucket/x"}
        Store(publish_to).create("k", b"1")
