"""A Kubeflow over real sockets: the KFP API's v2beta1 and v1alpha1 calls, and the few Kubernetes calls status needs.

    with KfpServer(World()) as server:
        kfp.Client(host=server.url)

Requests are kept in `server.requests`. `server.faults` holds functions that may answer in the server's place, or, by
returning LOSE_ANSWER, let it do its work and then close the connection without a word.
"""

from __future__ import annotations

import contextlib
import json
import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from email.parser import BytesParser
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from tests.fakes.kfp_life import load
from tests.fakes.kfp_state import Refusal, World, listed, refusal

LOSE_ANSWER = "lose the answer"
Fault = Callable[["Handler", str, str], str | bool | None]
"""(handler, method, path) -> truthy when it has answered, LOSE_ANSWER to do the work and say nothing."""
V2, V1 = "/apis/v2beta1", "/apis/v1alpha1"


@dataclass(frozen=True)
class Seen:
    """A request. `at` is time.monotonic()."""

    method: str
    path: str
    query: dict[str, str]
    at: float
    body: bytes


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Http

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        path, query = unquote(parts.path), dict(parse_qsl(parts.query))
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        owner = self.server.owner
        owner.requests.append(Seen(self.command, path, query, time.monotonic(), body))
        said: str | bool | None = None
        for fault in list(owner.faults):
            if said := fault(self, self.command, path):
                break
        if said and said != LOSE_ANSWER:
            return
        try:
            status, answer = 200, owner.answer(self.command, path, query, body, self.headers.get("Content-Type") or "")
        except Refusal as error:
            status, answer = error.status, error.body
        if said == LOSE_ANSWER:
            self.close_connection = True
            return
        self.reply(status, answer)

    do_POST = do_DELETE = do_PATCH = do_GET

    def reply(self, status: int, answer: Any, headers: dict[str, str] | None = None) -> None:
        raw = answer.encode() if isinstance(answer, str) else json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "text/plain" if isinstance(answer, str) else "application/json")
        self.send_header("Content-Length", str(len(raw)))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self.wfile.write(raw)


class _Http(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def __init__(self, owner: KfpServer, port: int) -> None:
        super().__init__(("127.0.0.1", port), Handler)
        self.owner = owner


class KfpServer:
    """Serves a World until it is closed."""

    def __init__(self, world: World | None = None, *, port: int = 0) -> None:
        self.world = world or World()
        self.requests: list[Seen] = []
        self.faults: list[Fault] = []
        self.http = _Http(self, port)
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}"
        threading.Thread(target=self.http.serve_forever, args=(0.02,), daemon=True).start()

    def __enter__(self) -> KfpServer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self.http.shutdown()
        self.http.server_close()

    def paths(self) -> list[str]:
        return [f"{seen.method} {seen.path}" for seen in self.requests]

    def answer(self, method: str, path: str, query: dict[str, str], body: bytes, kind: str) -> Any:
        for pattern, verb, call in ROUTES:
            found = re.fullmatch(pattern, path)
            if found and verb == method:
                return call(self.world, found, query, body, kind)
        raise Refusal(404, {"code": 5, "message": "Not Found", "details": []})


def _parsed(body: bytes) -> Any:
    try:
        return json.loads(body or b"{}")
    except ValueError as error:
        raise Refusal(400, {"code": 3, "message": f"invalid body: {error}", "details": []}) from error


def _file(body: bytes, kind: str) -> bytes:
    """Return the uploaded file of a multipart body."""
    message = BytesParser().parsebytes(b"Content-Type: " + kind.encode() + b"\r\n\r\n" + body)
    for part in message.walk():
        if part.get_param("name", header="content-disposition") == "uploadfile":
            payload = part.get_payload(decode=True)
            return payload if isinstance(payload, bytes) else b""
    raise refusal("upload_invalid")


def _healthz(world: World, *_: Any) -> Any:
    return {**load("api/healthz.json")["body"], "multi_user": world.multi_user}


def _list_experiments(world: World, found: Any, query: dict[str, str], *_: Any) -> Any:
    _namespace(world, query)
    return listed("experiments", iter(world.experiments.values()), query, "experiment_id")


def _namespace(world: World, query: dict[str, str]) -> None:
    if world.multi_user and not query.get("namespace"):
        raise Refusal(
            400, {"code": 3, "message": "Invalid input error: namespace is required in multi-user mode", "details": []}
        )
    if not world.multi_user and query.get("namespace"):
        words = "Invalid input error: In single-user mode, ListExperiment cannot filter by namespace"
        raise Refusal(400, {"code": 3, "message": words, "details": []})


def _experiment(world: World, found: Any, *_: Any) -> Any:
    if found[1] not in world.experiments:
        raise refusal("experiment_not_found", nope=found[1])
    return world.experiments[found[1]]


def _create_experiment(world: World, found: Any, query: Any, body: bytes, kind: str) -> Any:
    given = _parsed(body)
    return world.experiment(given["display_name"], given.get("description", ""), given.get("namespace"))


def _versions(world: World, found: Any, query: dict[str, str], *_: Any) -> Any:
    rows = (each for each in world.versions.values() if each["pipeline_id"] == found[1])
    return listed("pipeline_versions", rows, query, "pipeline_version_id")


def _version(world: World, found: Any, *_: Any) -> Any:
    version = world.versions.get(found[2])
    if version is None:
        raise Refusal(404, {"code": 5, "message": f"PipelineVersion {found[2]} not found", "details": []})
    return version


def _log(world: World, found: Any, *_: Any) -> Any:
    world.run(found[1])
    if found[2] not in world.logs:
        raise Refusal(404, "Failed to find log")
    return world.logs[found[2]]


def _pods(world: World, found: Any, query: dict[str, str], *_: Any) -> Any:
    wanted = query.get("labelSelector", "").partition("pipeline/runid=")[2]
    run = world.runs.get(wanted)
    return {"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": run.moment().pods if run else []}


def _workflows(world: World, found: Any, query: dict[str, str], *_: Any) -> Any:
    if world.workflows is None:
        raise refusal("run_not_found")
    wanted = query.get("labelSelector", "").partition("pipeline/runid=")[2]
    items = [world.workflows[wanted]] if wanted in world.workflows else []
    return {"kind": "WorkflowList", "apiVersion": "argoproj.io/v1alpha1", "metadata": {}, "items": items}


def _events(world: World, found: Any, query: dict[str, str], *_: Any) -> Any:
    items = [event for run in world.runs.values() for event in run.moment().events]
    name = re.search(r"involvedObject\.name=([^,]+)", query.get("fieldSelector", ""))
    kept = [e for e in items if name is None or e["involvedObject"]["name"] == name[1]]
    return {"kind": "EventList", "apiVersion": "v1", "metadata": {}, "items": kept}


def _recurring(world: World, found: Any, query: dict[str, str], *_: Any) -> Any:
    return listed("recurringRuns", iter(world.recurring.values()), query, "recurring_run_id")


_Call = Callable[..., Any]
ROUTES: list[tuple[str, str, _Call]] = [
    (f"{V2}/healthz", "GET", _healthz),
    (f"{V2}/experiments", "GET", _list_experiments),
    (f"{V2}/experiments", "POST", _create_experiment),
    (f"{V2}/experiments/([^/:]+)", "GET", _experiment),
    (f"{V2}/pipelines", "GET", lambda w, f, q, b, k: listed("pipelines", iter(w.pipelines.values()), q, "pipeline_id")),
    (f"{V2}/pipelines", "POST", lambda w, f, q, b, k: w.create_pipeline(_parsed(b))),
    (f"{V2}/pipelines/upload", "POST", lambda w, f, q, b, k: w.upload(_file(b, k), q)),
    (f"{V2}/pipelines/upload_version", "POST", lambda w, f, q, b, k: w.upload_version(_file(b, k), q)),
    (f"{V2}/pipelines/([^/]+)/versions", "GET", _versions),
    (f"{V2}/pipelines/([^/]+)/versions/([^/]+)", "GET", _version),
    (f"{V2}/runs", "GET", lambda w, f, q, b, k: w.list_runs(q)),
    (f"{V2}/runs", "POST", lambda w, f, q, b, k: w.create_run(_parsed(b))),
    (f"{V2}/runs/([^/:]+)", "GET", lambda w, f, q, b, k: w.run(f[1]).shown()),
    (f"{V2}/runs/([^/:]+)", "DELETE", lambda w, f, q, b, k: w.delete_run(f[1])),
    (f"{V2}/runs/([^/:]+):terminate", "POST", lambda w, f, q, b, k: w.terminate(f[1])),
    (f"{V2}/runs/([^/:]+):retry", "POST", lambda w, f, q, b, k: w.retry(f[1])),
    (f"{V1}/runs/([^/]+)/nodes/([^/]+)/log", "GET", _log),
    (f"{V2}/recurringruns", "GET", _recurring),
    (f"{V2}/recurringruns", "POST", lambda w, f, q, b, k: w.create_recurring(_parsed(b))),
    (f"{V2}/recurringruns/([^/:]+)", "DELETE", lambda w, f, q, b, k: w.switch_recurring(f[1], "delete")),
    (f"{V2}/recurringruns/([^/:]+):(enable|disable)", "POST", lambda w, f, q, b, k: w.switch_recurring(f[1], f[2])),
    ("/api/v1/namespaces/([^/]+)/pods", "GET", _pods),
    ("/apis/argoproj.io/v1alpha1/namespaces/([^/]+)/workflows", "GET", _workflows),
    ("/api/v1/namespaces/([^/]+)/events", "GET", _events),
]  # fmt: skip
