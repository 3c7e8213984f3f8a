"""A door before a real S3 server: passes every request on, but for those a test wants to go wrong."""

from __future__ import annotations

import http.client
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

Fault = Callable[["Handler", bytes], bool]
"""Answers a request in the server's place, and returns True; or returns False, and the request goes on."""


class Door(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, upstream: str) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.upstream = urlsplit(upstream).netloc
        self.faults: list[Fault] = []
        self.always: Fault | None = None
        self.seen: list[str] = []
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Door

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        self.server.seen.append(f"{self.command} {self.path.partition('?')[0].rpartition('/')[2]}")
        fault = self.server.always or (self.server.faults.pop(0) if self.server.faults else None)
        if fault is None or not fault(self, body):
            self.answer(*self.ask(body))

    do_PUT = do_HEAD = do_POST = do_DELETE = do_GET

    def ask(self, body: bytes) -> tuple[int, bytes, list[tuple[str, str]]]:
        link = http.client.HTTPConnection(self.server.upstream, timeout=20)
        link.request(self.command, self.path, body or None, dict(self.headers.items()))
        reply = link.getresponse()
        content = reply.read()
        link.close()
        skipped = ("transfer-encoding", "connection", "content-length", "server", "date")
        return reply.status, content, [(k, v) for k, v in reply.getheaders() if k.lower() not in skipped]

    def answer(self, status: int, body: bytes, headers: list[tuple[str, str]], *, upto: int | None = None) -> None:
        self.send_response(status)
        for key, value in headers:
            self.send_header(key, value)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body[:upto])
            self.wfile.flush()


def says(status: int, code: str = "SlowDown") -> Fault:
    def fault(handler: Handler, body: bytes) -> bool:
        handler.answer(status, f"<Error><Code>{code}</Code><Key>k</Key></Error>".encode(), [])
        return True

    return fault


def cuts(handler: Handler, body: bytes) -> bool:
    """Promise a body, send half of it and hang up."""
    status, content, headers = handler.ask(body)
    handler.answer(status, content, headers, upto=len(content) // 2)
    handler.close_connection = True
    return True


def loses_the_answer(handler: Handler, body: bytes) -> bool:
    """Let the request arrive, and hang up instead of answering."""
    handler.ask(body)
    handler.close_connection = True
    return True


def drips(seconds: float) -> Fault:
    def fault(handler: Handler, body: bytes) -> bool:
        status, content, headers = handler.ask(body)
        handler.answer(status, content, headers, upto=10)
        time.sleep(seconds)
        handler.close_connection = True
        return True

    return fault


def when(wanted: str, fault: Fault) -> Fault:
    """Let only requests for this end of a path go wrong, the first time."""
    left = [fault]

    def once(handler: Handler, body: bytes) -> bool:
        if (
            f"{handler.command} {handler.path}".startswith(wanted.split()[0])
            and wanted.split()[1] in handler.path
            and left
        ):
            return left.pop()(handler, body)
        return False

    return once
