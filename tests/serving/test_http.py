"""The predictor over HTTP: both protocols, what it answers, what it refuses and how it says so."""

from __future__ import annotations

import concurrent.futures
import json
import math
import re
import socket
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from ev_ml.bundle import Manifest
from ev_ml.features import FEATURES
from evctl.rollout.serving.golden import infer_request
from tests.serving.conftest import NAME, Running

pytestmark = [pytest.mark.local, pytest.mark.slow]
V1, V2 = f"/v1/models/{NAME}:predict", f"/v2/models/{NAME}/infer"
FIRST, SECOND = FEATURES[0], FEATURES[1]


@pytest.fixture
def http(predictor: Running) -> Any:
    with httpx.Client(base_url=predictor.url, timeout=30) as client:
        yield client


@pytest.fixture
def golden(predictor: Running) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((predictor.bundle / "golden.json").read_text())
    return document


@pytest.fixture
def manifest(predictor: Running) -> Manifest:
    return Manifest.from_json((predictor.bundle / "manifest.json").read_bytes())


def matrix(rows: list[list[Any]], **more: Any) -> dict[str, Any]:
    flat = [value for row in rows for value in row]
    return {"inputs": [{"name": "rows", "shape": [len(rows), len(rows[0])], "datatype": "FP64", "data": flat, **more}]}


def named(rows: list[list[Any]]) -> dict[str, Any]:
    by_name = zip(FEATURES, zip(*rows, strict=True), strict=True)
    return {
        "inputs": [
            {"name": name, "shape": [len(rows)], "datatype": "FP64", "data": list(column)} for name, column in by_name
        ]
    }


def outputs(reply: httpx.Response) -> dict[str, list[Any]]:
    assert reply.status_code == 200, reply.text
    return {each["name"]: each["data"] for each in reply.json()["outputs"]}


def test_every_form_of_request_gets_the_recorded_answer(
    http: httpx.Client, golden: dict[str, Any], manifest: Manifest
) -> None:
    rows, wanted = golden["rows"], [p for row in golden["probabilities"] for p in row]
    for body in (matrix(rows), named(rows), matrix(rows, parameters={"content_type": "np"})):
        told = outputs(http.post(V2, json=body))
        assert told["probabilities"] == pytest.approx(wanted, abs=1e-9)
        assert told["class"] == golden["classes"]
        assert dict(zip(told["classes"], told["thresholds"], strict=True)) == manifest.thresholds
    nested = {"inputs": [{"name": "x", "shape": [len(rows), len(FEATURES)], "datatype": "FP32", "data": rows}]}
    assert outputs(http.post(V2, json=nested))["class"] == golden["classes"]
    objects = [dict(zip(FEATURES, row, strict=True)) for row in rows]
    for instances in (rows, objects):
        reply = http.post(V1, json={"instances": instances})
        assert reply.status_code == 200
        told_v1 = reply.json()["predictions"]
        assert [each["class"] for each in told_v1] == golden["classes"]
        flat = [each["probabilities"][name] for each in told_v1 for name in manifest.classes]
        assert flat == pytest.approx(wanted, abs=1e-9)


def test_an_answer_says_which_model_gave_it(http: httpx.Client, golden: dict[str, Any], manifest: Manifest) -> None:
    second = http.post(V2, json={**matrix(golden["rows"][:1]), "id": "mine"}).json()
    assert (second["id"], second["model_name"], second["model_version"]) == ("mine", NAME, manifest.version)
    assert second["parameters"]["model_digest"] == manifest.digest
    first = http.post(V1, json={"instances": golden["rows"][:1]}).json()
    assert (first["model_version"], first["model_digest"]) == (manifest.version, manifest.digest)
    assert first["thresholds"] == manifest.thresholds


def test_the_server_describes_its_model_by_its_features(http: httpx.Client) -> None:
    told = http.get(f"/v2/models/{NAME}").json()
    assert [each["name"] for each in told["inputs"]] == list(FEATURES)
    assert [each["name"] for each in told["outputs"]] == ["class", "probabilities", "classes", "thresholds"]
    assert http.get(f"/v2/models/{NAME}/ready").json() == {"name": NAME, "ready": True}
    assert http.get("/v2/models/other/ready").status_code == 404


def changed(row: list[Any], position: int, value: Any) -> list[Any]:
    return [*row[:position], value, *row[position + 1 :]]


WRONG_VALUES = [
    (math.nan, "null"),
    (None, "null"),
    ("7", "str"),
    (True, "bool"),
    ([1], "list|one number a row"),
    ({}, "dict"),
    (math.inf, "not finite"),
    (-math.inf, "not finite"),
    (1e300, "too large"),
    (10**400, "too large"),
]


@pytest.mark.parametrize(("value", "told"), WRONG_VALUES, ids=[repr(v)[:12] for v, _ in WRONG_VALUES])
@pytest.mark.parametrize("form", ["v1 list", "v1 object", "v2 matrix", "v2 named"])
def test_a_wrong_value_is_400_with_the_features_name(
    form: str, value: Any, told: str, http: httpx.Client, golden: dict[str, Any]
) -> None:
    row = changed(golden["rows"][1], 0, value)
    body = {
        "v1 list": {"instances": [row]},
        "v1 object": {"instances": [dict(zip(FEATURES, row, strict=True))]},
        "v2 matrix": matrix([row]),
        "v2 named": named([row]),
    }[form]
    reply = http.post(V1 if form.startswith("v1") else V2, content=json.dumps(body))
    assert reply.status_code == 400, reply.text
    assert FIRST in reply.json()["error"]
    assert re.search(told, reply.json()["error"])


def test_a_nullable_feature_may_be_null_or_nan(http: httpx.Client, golden: dict[str, Any], manifest: Manifest) -> None:
    position = next(k for k, each in enumerate(manifest.features) if each["nullable"])
    for value in (None, math.nan):
        row = changed(golden["rows"][0], position, value)
        for path, body in ((V1, {"instances": [row]}), (V2, matrix([row])), (V2, named([row]))):
            assert http.post(path, content=json.dumps(body)).status_code == 200


def without(body: dict[str, Any], name: str) -> dict[str, Any]:
    return {"inputs": [each for each in body["inputs"] if each["name"] != name]}


def test_wrong_features_and_shapes_are_400_with_the_features_name(http: httpx.Client, golden: dict[str, Any]) -> None:
    row, last = golden["rows"][0], FEATURES[-1]
    by_name = dict(zip(FEATURES, row, strict=True))
    one = named([row])["inputs"]
    short = [{**each, "shape": [2]} if each["name"] == SECOND else each for each in one]
    two = [{**each, "shape": [2], "data": each["data"] * 2} if each["name"] == SECOND else each for each in one]
    text = [{**each, "datatype": "BYTES"} if each["name"] == FIRST else each for each in one]
    extra = [*one, {"name": "charm", "shape": [1], "datatype": "FP64", "data": [1.0]}]
    cases: list[tuple[str, Any, str]] = [
        (V1, {"instances": [row[:-1]]}, last),
        (V1, {"instances": [[*row, 1.0]]}, last),
        (V1, {"instances": [{k: v for k, v in by_name.items() if k != FIRST}]}, FIRST),
        (V1, {"instances": [{**by_name, "charm": 1}]}, "charm"),
        (V2, matrix([row[:-1]]), last),
        (V2, matrix([[*row, 1.0]]), last),
        (V2, without({"inputs": one}, SECOND), SECOND),
        (V2, {"inputs": extra}, "charm"),
        (V2, {"inputs": short}, SECOND),
        (V2, {"inputs": two}, SECOND),
        (V2, {"inputs": text}, FIRST),
        (V2, {"inputs": [*one, one[0]]}, "twice"),
        (V2, {"inputs": [{"name": "rows", "shape": [len(row)], "datatype": "FP64", "data": row}]}, "shape"),
        (V2, {"inputs": [{"name": "rows", "shape": [-1, len(row)], "datatype": "FP64", "data": row}]}, "shape"),
        (V2, {"inputs": [{"name": "rows", "shape": [0, len(row)], "datatype": "FP64", "data": []}]}, "rows"),
        (V2, {"inputs": [{"name": "rows", "shape": [2, len(row)], "datatype": "FP64", "data": row}]}, "shape"),
        (V2, {"inputs": [{"name": "rows", "shape": [1, 2**70], "datatype": "FP64", "data": row}]}, last),
        (V2, {"inputs": [{"name": "rows", "shape": [1, len(row)], "datatype": "WHAT", "data": row}]}, "WHAT"),
        (V2, {"inputs": [{"name": "rows", "shape": [1, len(row)], "datatype": "FP16", "data": row}]}, "FP16"),
        (V2, {"inputs": []}, "inputs"),
        (V1, {"instances": []}, "rows"),
        (V1, {"instances": [7]}, "row 0"),
        (V1, {"instances": {"a": 1}}, "instances"),
        (V1, {"rows": []}, "instances"),
        (V1, [row], "instances"),
    ]  # fmt: skip
    for path, body, told in cases:
        reply = http.post(path, json=body)
        assert (reply.status_code, told in reply.text) == (400, True), (body, reply.status_code, reply.text)


DEEP = b"[" * 100_000 + b"]" * 100_000
GARBAGE = [
    b"",
    b"\x00\xff\xfe",
    b"{",
    b"null",
    b"7",
    b'"text"',
    DEEP,
    b'{"instances": ' + DEEP + b"}",
    b'{"inputs": ' + DEEP + b"}",
    b'{"inputs": [{"name": "a", "shape": "x", "datatype": 5, "data": {}}]}',
    b'{"inputs": 5, "id": {}}',
    b'{"instances": NaN}',
]


@pytest.mark.parametrize("body", GARBAGE, ids=[repr(each[:20]) for each in GARBAGE])
@pytest.mark.parametrize("path", [V1, V2])
@pytest.mark.parametrize("kind", ["application/json", "text/plain", "application/octet-stream"])
def test_garbage_is_400_and_never_500(kind: str, path: str, body: bytes, http: httpx.Client) -> None:
    reply = http.post(path, content=body, headers={"content-type": kind})
    assert reply.status_code == 400, reply.text
    assert reply.json()["error"]


@pytest.mark.parametrize(
    "headers",
    [
        {"inference-header-content-length": "5"},
        {"inference-header-content-length": "many", "content-type": "application/octet-stream"},
        {"ce-specversion": "9", "ce-id": "1", "ce-type": "t", "ce-source": "s"},
        {"content-type": "application/cloudevents+json"},
    ],
)
@pytest.mark.parametrize("path", [V1, V2])
def test_odd_headers_are_no_500(path: str, headers: dict[str, str], http: httpx.Client) -> None:
    assert http.post(path, content=b'{"a": 1}', headers=headers).status_code == 400


def test_a_request_of_too_many_rows_is_refused_and_a_large_one_is_answered(
    http: httpx.Client, golden: dict[str, Any]
) -> None:
    row = golden["rows"][0]
    assert len(outputs(http.post(V2, json=matrix([row] * 3000)))["class"]) == 3000
    one = dict.fromkeys(FEATURES, 1.0)
    reply = http.post(V1, json={"instances": [one] * 100_001})
    assert (reply.status_code, "at most 100000" in reply.text) == (400, True)


def test_a_large_request_does_not_stop_small_ones(
    http: httpx.Client, golden: dict[str, Any], predictor: Running
) -> None:
    large = json.dumps(named(golden["rows"][:1] * 20_000)).encode()
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        asked = pool.submit(httpx.post, predictor.url + V2, content=large, timeout=60)
        worst, alive = 0.0, 0
        while not asked.done():
            start = time.perf_counter()
            assert http.get("/v2/health/live").status_code == 200
            worst, alive = max(worst, time.perf_counter() - start), alive + 1
            time.sleep(0.01)
        assert asked.result().status_code == 200
        whole = asked.result().elapsed.total_seconds()
    assert alive > 2
    assert worst < max(1.0, whole * 0.8)


def metric(http: httpx.Client, name: str, **labels: str) -> float:
    for line in http.get("/metrics").text.splitlines():
        if line.startswith(name + "{") and all(f'{k}="{v}"' in line for k, v in labels.items()):
            return float(line.rpartition(" ")[2])
    return 0.0


def test_metrics_count_each_predicted_class_and_the_scores(
    http: httpx.Client, golden: dict[str, Any], manifest: Manifest
) -> None:
    labels = {"model_name": NAME, "model_version": manifest.version}
    predicted = golden["classes"][0]
    before = metric(http, "ev_predictions_total", predicted_class=predicted, **labels)
    scored = metric(http, "ev_prediction_score_count", **labels)
    refused = metric(http, "ev_prediction_score_count", **labels)
    outputs(http.post(V2, json=matrix(golden["rows"][:1] * 3)))
    assert http.post(V1, json={"instances": [[1]]}).status_code == 400
    outputs(http.post(V2, json=infer_request(list(FEATURES), golden["rows"])))
    assert metric(http, "ev_predictions_total", predicted_class=predicted, **labels) == before + 3
    assert metric(http, "ev_prediction_score_count", **labels) == scored + 3 == refused + 3
    assert metric(http, "ev_prediction_score_bucket", le="1.0", **labels) == scored + 3


def test_no_client_can_unload_or_reload_the_model(http: httpx.Client, golden: dict[str, Any]) -> None:
    for verb in ("unload", "load"):
        assert http.post(f"/v2/repository/models/{NAME}/{verb}").status_code == 400
    assert http.post(f"/v1/models/{NAME}:explain", json={"instances": golden["rows"]}).status_code == 400
    assert http.post(V2, json=matrix(golden["rows"])).status_code == 200


def test_refused_requests_leave_no_traceback_in_the_log(http: httpx.Client, predictor: Running) -> None:
    size = predictor.log.stat().st_size
    for _ in range(5):
        http.post(V1, content=b"{")
    assert predictor.log.stat().st_size - size < 200


def test_it_listens_on_loopback_only(predictor: Running) -> None:
    port = int(predictor.url.rpartition(":")[2])
    listening = [
        line.split()[1]
        for table in ("/proc/net/tcp", "/proc/net/tcp6")
        for line in Path(table).read_text().splitlines()[1:]
        if line.split()[3] == "0A" and int(line.split()[1].rpartition(":")[2], 16) == port
    ]
    assert listening == [f"{int.from_bytes(socket.inet_aton('127.0.0.1'), 'little'):08X}:{port:04X}"]
