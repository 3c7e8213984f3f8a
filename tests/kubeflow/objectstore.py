"""A real S3 server (moto) behind a door that can refuse, fail, cut and stall; and a small Google Cloud Storage."""

from __future__ import annotations

import http.client
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from evctl.errors import NotFoundError

Fault = Callable[["DoorHandler"], bool]
"""Handles a request in the server's place and says so."""


class DoorHandler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Door

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        self.server.seen.append(f"{self.command} {self.path}")
        fault = self.server.faults.pop(0) if self.server.faults else None
        if fault is not None and fault(self):
            return
        if self.server.keys is not None:
            credential = self.headers.get("Authorization", "").partition("Credential=")[2].partition("/")[0]
            if credential not in self.server.keys:
                body = f"<Error><Code>InvalidAccessKeyId</Code><AWSAccessKeyId>{credential}</AWSAccessKeyId></Error>"
                self.reply(403, b"" if self.command == "HEAD" else body.encode())
                return
        self.reply(*self.server.answer(self))

    do_HEAD = do_GET

    def reply(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        given = {"Content-Length": str(len(body)), **(headers or {})}
        for name, value in given.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def says(status: int) -> Fault:
    def fault(handler: DoorHandler) -> bool:
        handler.reply(status, b"<Error><Code>SlowDown</Code></Error>" if handler.command == "GET" else b"")
        return True

    return fault


def passes(handler: DoorHandler) -> bool:
    return False


def cuts(handler: DoorHandler) -> bool:
    """Promise a body, send half of it and go."""
    status, body, headers = handler.server.answer(handler)
    handler.send_response(status)
    for name, value in {**headers, "Content-Length": str(len(body))}.items():
        handler.send_header(name, value)
    handler.end_headers()
    handler.wfile.write(body[: len(body) // 2])
    handler.wfile.flush()
    handler.close_connection = True
    return True


def damages(handler: DoorHandler) -> bool:
    status, body, headers = handler.server.answer(handler)
    handler.reply(status, str(time.monotonic_ns()).encode().ljust(len(body), b"x")[: len(body)], headers)
    return True


def stalls(seconds: float) -> Fault:
    def fault(handler: DoorHandler) -> bool:
        status, body, headers = handler.server.answer(handler)
        handler.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(body[:10])
        handler.wfile.flush()
        time.sleep(seconds)
        handler.close_connection = True
        return True

    return fault


def silent(seconds: float) -> Fault:
    """Say nothing at all for a while."""

    def fault(handler: DoorHandler) -> bool:
        time.sleep(seconds)
        handler.close_connection = True
        return True

    return fault


class Door(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, upstream: tuple[str, int] | None) -> None:
        super().__init__(("127.0.0.1", 0), DoorHandler)
        self.upstream = upstream
        self.faults: list[Fault] = []
        self.keys: set[str] | None = None
        self.seen: list[str] = []
        self.objects: dict[str, bytes] = {}
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def answer(self, handler: DoorHandler) -> tuple[int, bytes, dict[str, str]]:
        return self._s3(handler) if self.upstream else self._gcs(handler)

    def _s3(self, handler: DoorHandler) -> tuple[int, bytes, dict[str, str]]:
        assert self.upstream is not None
        link = http.client.HTTPConnection(*self.upstream, timeout=10)
        link.request(handler.command, handler.path, headers=dict(handler.headers.items()))
        answer = link.getresponse()
        body = answer.read()
        kept = {k: v for k, v in answer.getheaders() if k.lower() in ("etag", "last-modified", "content-range")}
        if handler.command == "HEAD":
            kept["Content-Length"] = answer.getheader("Content-Length") or "0"
        return answer.status, body, kept

    def _gcs(self, handler: DoorHandler) -> tuple[int, bytes, dict[str, str]]:
        """The two calls of the XML API that copying needs."""
        parts = urlsplit(handler.path)
        key = unquote(parts.path).lstrip("/").partition("/")[2]
        stamp = "Mon, 23 Nov 2026 23:00:00 GMT"
        if not key:
            prefix = parse_qs(parts.query).get("prefix", [""])[0]
            items = "".join(
                f"<Contents><Key>{name}</Key><LastModified>2026-11-23T23:00:00.000Z</LastModified>"
                f"<Size>{len(body)}</Size><ETag>&quot;t&quot;</ETag></Contents>"
                for name, body in sorted(self.objects.items())
                if name.startswith(prefix)
            )
            return 200, f"<ListBucketResult>{items}</ListBucketResult>".encode(), {}
        if key not in self.objects:
            return 404, b"", {}
        body = self.objects[key]
        headers = {"ETag": '"t"', "Last-Modified": stamp}
        if handler.command == "HEAD":
            return 200, b"", {**headers, "Content-Length": str(len(body))}
        if wanted := handler.headers.get("Range"):
            start, _, stop = wanted.removeprefix("bytes=").partition("-")
            end = min(int(stop or len(body) - 1), len(body) - 1)
            part = body[int(start) : end + 1]
            return 206, part, {**headers, "Content-Range": f"bytes {start}-{end}/{len(body)}"}
        return 200, body, headers


class FakeKubernetes:
    """The one call that reading a secret needs; the cluster tier has the real thing."""

    def __init__(self, secrets: dict[str, dict[str, Any]]) -> None:
        self.secrets = secrets

    def get(self, path: str, **_: Any) -> dict[str, Any]:
        if path not in self.secrets:
            raise NotFoundError("secrets not found")
        return self.secrets[path]


def reach(
    *, endpoint: str | None = None, forwarded: str | None = None, kubernetes: Any = None, deadline_s: float = 10.0
) -> Any:
    kubeflow = SimpleNamespace(
        object_store_endpoint=endpoint, system_namespace="kubeflow", ca_file=None, deadline_s=deadline_s
    )
    return SimpleNamespace(
        profile=SimpleNamespace(namespace="mlops-dev", kubeflow=kubeflow),
        kubernetes=lambda: kubernetes,
        object_store_endpoint=lambda: forwarded,
    )
