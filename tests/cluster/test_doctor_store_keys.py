"""Doctor on the keys that pods open the store with: a real API server's secret, a real S3 behind a door that knows one key."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from evctl.doctor.checks import Result
from tests.cluster.harness import free_port
from tests.cluster.test_doctor import Place, place
from tests.kubeflow.objectstore import Door, DoorHandler
from tests.kubeflow.test_objects import s3

__all__ = ["place", "s3"]
pytestmark = pytest.mark.cluster
NAME = "ev-battery-store"
GOOD, BAD = "k3y-that-opens", "k3y-that-does-not"


@pytest.fixture
def door(s3: tuple[str, int], monkeypatch: pytest.MonkeyPatch) -> Iterator[Door]:
    # what the operator has is right, and beside the point
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", GOOD)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "h1dden")
    monkeypatch.setenv("AWS_SESSION_TOKEN", "t0ken")
    server = Door(s3)
    server.keys = {GOOD}
    yield server
    server.shutdown()


def keep(place: Place, space: str, key: str = GOOD, **annotations: str) -> None:
    values = {"AWS_ACCESS_KEY_ID": key, "AWS_SECRET_ACCESS_KEY": "h1dden"}
    data = {name: base64.b64encode(value.encode()).decode() for name, value in values.items()}
    notes = {f"serving.kserve.io/s3-{name}": value for name, value in annotations.items()}
    body = {"metadata": {"name": NAME, "annotations": notes}, "data": data}
    place.admin.create(f"/api/v1/namespaces/{space}/secrets", body)


def asked(place: Place, endpoint: str, uri: str = "s3://mlpipeline/run", **values: Any) -> Result:
    found = place.one("store keys", store={"uri": uri, "endpoint": endpoint, "secret": NAME}, **values)
    told = json.dumps(found.to_json())
    assert not [each for each in ("k3y", "h1dden", "t0ken") if each in told]
    return found


def test_wrong_keys_on_the_cluster_fail_though_the_operators_own_are_right(place: Place, door: Door) -> None:
    keep(place, place.namespace, BAD)
    found = asked(place, door.url)
    where = f"secret {NAME} in {place.namespace}"
    assert found.status == "fail"
    assert found.message == (
        f"{where} does not open s3://mlpipeline/run: the store does not know this access key (InvalidAccessKeyId)"
    )
    assert str(found.fix).startswith("evctl secrets apply --env dev --store -f FILE")


def test_right_keys_pass_and_the_store_is_only_read(place: Place, door: Door) -> None:
    keep(place, place.namespace)
    found = asked(place, door.url)
    assert (found.status, found.message) == (
        "pass",
        f"s3://mlpipeline/run opens to {NAME} in {place.namespace}",
    )
    assert asked(place, door.url, uri="s3://mlpipeline").status == "pass"
    assert {line.split()[0] for line in door.seen} == {"GET"}


def test_keys_are_tried_where_runs_are_and_where_the_service_is(place: Place, door: Door) -> None:
    keep(place, place.namespace)
    keep(place, place.system, BAD)
    found = asked(place, door.url, serving={"namespace": place.system})
    assert found.status == "fail"
    assert f"{NAME} in {place.system} does not open" in found.message


def test_a_key_with_a_line_end_is_told_and_not_sent(place: Place, door: Door) -> None:
    keep(place, place.namespace, f"{GOOD}\n")
    found = asked(place, door.url)
    assert found.status == "fail"
    assert found.message.startswith(
        f"AWS_ACCESS_KEY_ID of secret {NAME} in {place.namespace} holds a space, a line's end"
    )
    assert door.seen == []


def test_who_may_not_read_the_secret_is_told_that_it_is_not_checked(
    place: Place,
    door: Door,
    operator: Callable[[list[dict[str, list[str]]]], Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    keep(place, place.namespace, BAD)
    monkeypatch.setenv("KUBECONFIG", str(operator([])))
    found = asked(place, door.url)
    assert (found.status, found.fix) == ("warn", "ask for get on secrets")
    assert found.message == f"not checked: secret {NAME} in {place.namespace} may not be read"
    assert door.seen == []


def test_a_secret_that_is_missing_is_left_to_its_own_check(place: Place, door: Door) -> None:
    found = asked(place, door.url)
    assert found.message == "not checked: the secret or a key of it is missing, see secrets on the cluster"


def test_a_store_that_does_not_answer_from_here_says_nothing_of_the_keys(place: Place) -> None:
    keep(place, place.namespace)
    nowhere = f"http://127.0.0.1:{free_port()}"
    found = asked(place, nowhere)
    assert found.status == "warn"
    assert found.message == f"not checked: {nowhere} takes no connection from here, so the keys cannot be tried"


def test_a_store_that_says_nothing_is_a_timeout_in_time(place: Place, door: Door) -> None:
    def silent(handler: DoorHandler) -> bool:
        time.sleep(12)
        handler.close_connection = True
        return True

    keep(place, place.namespace)
    door.faults = [silent] * 9
    began = time.monotonic()
    found = asked(place, door.url)
    assert time.monotonic() - began < 9
    assert "timed out" in found.message
    assert "the same command again" in str(found.fix)


def test_a_secret_that_was_made_for_another_store_is_a_warning(place: Place, door: Door) -> None:
    keep(place, place.namespace, endpoint="minio.other:9000", region="us-east-1")
    found = asked(place, door.url)
    assert found.status == "warn"
    assert found.message == (
        f"secret {NAME} in {place.namespace} is for another store: its endpoint is minio.other:9000, "
        f"not {door.url.removeprefix('http://')}. Does another profile name it too?"
    )


def test_a_secret_that_is_both_mounted_and_the_stores_must_have_the_keys_of_both(place: Place, door: Door) -> None:
    keep(place, place.namespace)
    store = {"uri": "s3://mlpipeline/run", "endpoint": door.url, "secret": NAME}
    found = place.one("secrets on the cluster", store=store, secrets=[{"name": NAME, "keys": ["TELEMETRY_TOKEN"]}])
    assert found.message == f"secret {NAME} in {place.namespace} lacks TELEMETRY_TOKEN"
