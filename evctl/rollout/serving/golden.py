"""The golden request: does this address answer a bundle's recorded rows, under its version and digest?"""

from __future__ import annotations

import http.client
import json
from pathlib import Path
from typing import Any

from evctl.errors import trim
from evctl.rollout.serving.base import ProofError

TIMEOUT_S = 10.0
REQUEST_ID = "evctl-golden"
"""The predictor counts what clients ask, not what a proof asks."""


def call(
    port: int, method: str, path: str, document: Any = None, headers: dict[str, str] | None = None,
    *, timeout_s: float | None = None,
) -> tuple[int, Any]:  # fmt: skip
    """Return status and document of one request to loopback. OSError if nobody answers."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout_s or TIMEOUT_S)
    try:
        body = None if document is None else json.dumps(document)
        connection.request(method, path, body, {"content-type": "application/json", **(headers or {})})
        reply = connection.getresponse()
        content = reply.read()
    except http.client.HTTPException as error:
        raise ConnectionError(f"no HTTP answer: {type(error).__name__}") from error
    finally:
        connection.close()
    try:
        return reply.status, json.loads(content or b"null")
    except ValueError:
        return reply.status, trim(content.decode(errors="replace"))


def infer_request(names: list[str], rows: list[list[Any]]) -> dict[str, Any]:
    """Return a V2 request of one matrix, row by row."""
    data = [value for row in rows for value in row]
    inputs = [{"name": "rows", "shape": [len(rows), len(names)], "datatype": "FP64", "data": data}]
    return {"id": REQUEST_ID, "inputs": inputs}


def check(golden: dict[str, Any], status: int, answer: Any, *, version: str, digest: str) -> None:
    """Raise ProofError unless a V2 answer is the recorded one, by the model that is meant."""
    if status != 200:
        raise ProofError(f"the golden request was answered {status}: {trim(json.dumps(answer))}")
    if not isinstance(answer, dict):
        raise ProofError(f"the golden request was answered with something else: {trim(json.dumps(answer))}")
    told = answer.get("model_version"), (answer.get("parameters") or {}).get("model_digest")
    if told != (version, digest):
        raise ProofError(f"model {told[0]} answers, not {version}")
    got: list[float] = next(
        (o["data"] for o in answer.get("outputs") or () if o.get("name") == "probabilities" and "data" in o), []
    )
    wanted = [p for row in golden["probabilities"] for p in row]
    if len(got) != len(wanted):
        raise ProofError(f"{len(got)} probabilities came back, {len(wanted)} were recorded")
    worst = max((abs(a - b) for a, b in zip(got, wanted, strict=True)), default=0.0)
    if not worst <= golden["tolerance"]:
        raise ProofError(f"golden rows differ by {worst:.2g}, {golden['tolerance']:.2g} is allowed")


def prove_at(port: int, service: str, bundle: Path, *, version: str, digest: str) -> None:
    """Send the golden rows of a bundle to a port of this machine. ProofError unless all is as recorded."""
    golden = json.loads((bundle / "golden.json").read_text())
    try:
        status, _ = call(port, "GET", f"/v2/models/{service}/ready")
        if status != 200:
            raise ProofError(f"the model says it is not ready ({status})")
        request = infer_request(golden["features"], golden["rows"])
        status, answer = call(port, "POST", f"/v2/models/{service}/infer", request)
    except OSError as error:
        raise ProofError(f"the model server does not answer: {trim(str(error))}") from error
    check(golden, status, answer, version=version, digest=digest)
