"""A server that answers from a script, one entry a connection's request: good, late, cut, or not at all."""

from __future__ import annotations

import json
import socket
import struct
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Answer:
    """One answer. `cut` sends that many bytes of the body and closes; `reset` sends none and resets.

    With `pause_s` it goes on after `cut` instead, when that time is over.
    """

    status: int = 200
    body: bytes = b'{"ok": true}'
    headers: dict[str, str] = field(default_factory=dict)
    wait_s: float = 0.0
    cut: int | None = None
    reset: bool = False
    pause_s: float = 0.0


GOOD = Answer()
RESET = Answer(reset=True)
HALF = Answer(body=json.dumps({"a": "b" * 1000}).encode(), cut=100)
NULL = Answer(body=b"null")
LOGIN_PAGE = Answer(body=b"<html>log in</html>", headers={"Content-Type": "text/html"})
TO_LOGIN = Answer(status=302, body=b"", headers={"Location": "/dex/auth"})


def refuse(status: int, message: str = "", **headers: str) -> Answer:
    body = json.dumps({"code": status, "message": message}).encode()
    return Answer(status, body, {key.replace("_", "-"): value for key, value in headers.items()})


class FaultServer:
    """Serves a script on loopback; the last answer is repeated. What came in is in `seen`."""

    def __init__(self, *script: Answer) -> None:
        self.script: Sequence[Answer] = script or (GOOD,)
        self.seen: list[tuple[str, str, dict[str, str], bytes]] = []
        self.times: list[float] = []
        self._lock = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> FaultServer:
        return self

    def __exit__(self, *_: Any) -> None:
        # closing alone leaves the port open while a thread is in its accept
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                peer, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(peer,), daemon=True).start()

    def _serve(self, peer: socket.socket) -> None:
        with peer:
            file = peer.makefile("rb")
            while line := file.readline():
                method, path, _ = line.decode().split(" ", 2)
                headers: dict[str, str] = {}
                while (raw := file.readline()) not in (b"\r\n", b""):
                    name, _, value = raw.decode().partition(":")
                    headers[name.strip().lower()] = value.strip()
                body = file.read(int(headers.get("content-length") or 0))
                with self._lock:
                    answer = self.script[min(len(self.seen), len(self.script) - 1)]
                    self.seen.append((method, path, headers, body))
                    self.times.append(time.monotonic())
                if not self._answer(peer, answer):
                    return

    def _answer(self, peer: socket.socket, answer: Answer) -> bool:
        time.sleep(answer.wait_s)
        if answer.reset:
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            return False
        known = {"Content-Type": "application/json", **answer.headers, "Content-Length": str(len(answer.body))}
        head = f"HTTP/1.1 {answer.status} x\r\n" + "".join(f"{k}: {v}\r\n" for k, v in known.items()) + "\r\n"
        try:
            peer.sendall(head.encode() + answer.body[: answer.cut])
            if answer.pause_s and answer.cut is not None:
                time.sleep(answer.pause_s)
                peer.sendall(answer.body[answer.cut :])
        except OSError:
            return False
        return answer.cut is None
