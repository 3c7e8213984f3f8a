"""The part of a Kubernetes API that forwards ports: services, pods, and the web socket of `v4.channel.k8s.io`.

A kubelet cannot run here; this speaks its protocol as written down in Kubernetes (two channels a port, a data and an error
one, each begun by the port's number) and carries the bytes to real servers on loopback.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import re
import socket
import struct
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

GUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
TEXT, BINARY, CLOSE, PING = 1, 2, 8, 9


def service(port: int, target: int | str, **selector: str) -> dict[str, Any]:
    return {"spec": {"selector": selector, "ports": [{"port": port, "targetPort": target}]}}


def pod(name: str, *, ready: bool = True, ports: dict[str, int] | None = None, **labels: str) -> dict[str, Any]:
    containers = [{"name": "main", "ports": [{"name": k, "containerPort": v} for k, v in (ports or {}).items()]}]
    return {
        "metadata": {"name": name, "labels": labels},
        "spec": {"containers": containers},
        "status": {"conditions": [{"type": "Ready", "status": str(ready)}]},
    }


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Http

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        owner, parts = self.server.owner, urlsplit(self.path)
        owner.requests.append(self.path)
        if owner.refusal:
            self._json(owner.refusal, {"message": "forbidden: no"})
        elif found := re.fullmatch(r"/api/v1/namespaces/kubeflow/services/([^/]+)", parts.path):
            document = owner.services.get(found[1])
            self._json(200 if document else 404, document or {"message": f'services "{found[1]}" not found'})
        elif parts.path == "/api/v1/namespaces/kubeflow/pods":
            wanted = dict(each.split("=") for each in parse_qs(parts.query)["labelSelector"][0].split(","))
            items = [p for p in owner.pods.values() if wanted.items() <= p["metadata"]["labels"].items()]
            self._json(200, {"items": items})
        elif found := re.fullmatch(r"/api/v1/namespaces/kubeflow/pods/([^/]+)/portforward", parts.path):
            self._forward(found[1], int(parse_qs(parts.query)["ports"][0]))
        else:
            self._json(404, {"message": "not found"})

    def _json(self, status: int, document: Any) -> None:
        raw = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)

    def _forward(self, name: str, port: int) -> None:
        owner = self.server.owner
        if owner.no_forward or name not in owner.pods:
            self._json(owner.no_forward or 404, {"message": "no"})
            return
        assert self.headers["Sec-WebSocket-Protocol"] == "v4.channel.k8s.io"
        accept = base64.b64encode(hashlib.sha1((self.headers["Sec-WebSocket-Key"] + GUID).encode()).digest())
        self.send_response(101)
        self.send_header("Upgrade", "websocket")
        self.send_header("Connection", "Upgrade")
        self.send_header("Sec-WebSocket-Accept", accept.decode())
        self.send_header("Sec-WebSocket-Protocol", "v4.channel.k8s.io")
        self.end_headers()
        self.wfile.flush()
        self.close_connection = True
        for channel in (0, 1):
            self._frame(BINARY, bytes([channel]) + struct.pack("<H", port))
        self._frame(PING, b"?")
        try:
            there = socket.create_connection(owner.servers[name, port], 2)
        except (OSError, KeyError):
            self._frame(BINARY, b"\x01error forwarding port: connect: connection refused")
            with contextlib.suppress(OSError, EOFError):
                while self._read()[0] != CLOSE:
                    pass
            return
        with owner.lock:
            owner.tunnels.append((name, self.connection, there))
        back = threading.Thread(target=self._back, args=(there,), daemon=True)
        back.start()
        self._there(there)
        back.join()
        with owner.lock:
            owner.tunnels = [each for each in owner.tunnels if each[2] is not there]

    def _there(self, there: socket.socket) -> None:
        """From the web socket to the pod's server."""
        with contextlib.suppress(OSError, EOFError):
            while True:
                opcode, content = self._read()
                if opcode == CLOSE:
                    break
                if opcode == BINARY:
                    assert content[0] == 0
                    there.sendall(content[1:])
        with contextlib.suppress(OSError):
            there.shutdown(socket.SHUT_RDWR)

    def _back(self, there: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while chunk := there.recv(50_000):
                self._frame(BINARY, b"\x00" + chunk)
        with contextlib.suppress(OSError):
            self._frame(CLOSE, b"\x03\xe8")
            self.connection.shutdown(socket.SHUT_RDWR)

    def _frame(self, opcode: int, content: bytes) -> None:
        size = len(content)
        head = bytes([0x80 | opcode]) + (
            bytes([size])
            if size < 126
            else b"\x7e" + struct.pack(">H", size)
            if size < 1 << 16
            else b"\x7f" + struct.pack(">Q", size)
        )
        self.connection.sendall(head + content)

    def _read(self) -> tuple[int, bytes]:
        head = self._exactly(2)
        size = head[1] & 0x7F
        if size == 126:
            size = struct.unpack(">H", self._exactly(2))[0]
        elif size == 127:
            size = struct.unpack(">Q", self._exactly(8))[0]
        mask = self._exactly(4)
        content = self._exactly(size)
        return head[0] & 0x0F, bytes(b ^ mask[i % 4] for i, b in enumerate(content))

    def _exactly(self, size: int) -> bytes:
        found = self.rfile.read(size)
        if len(found) < size:
            raise EOFError
        return found


class _Http(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, owner: PortForwards) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.owner = owner


class PortForwards:
    """Serves namespace `kubeflow`. `servers[pod, port]` is the address of what listens in a pod."""

    def __init__(self) -> None:
        self.services: dict[str, dict[str, Any]] = {}
        self.pods: dict[str, dict[str, Any]] = {}
        self.servers: dict[tuple[str, int], tuple[str, int]] = {}
        self.requests: list[str] = []
        self.refusal = self.no_forward = 0
        self.tunnels: list[tuple[str, socket.socket, socket.socket]] = []
        self.lock = threading.Lock()
        self.http = _Http(self)
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}"
        threading.Thread(target=self.http.serve_forever, args=(0.02,), daemon=True).start()

    def __enter__(self) -> PortForwards:
        return self

    def __exit__(self, *_: object) -> None:
        self.http.shutdown()
        self.http.server_close()

    def add(self, document: dict[str, Any], **servers: str) -> None:
        """Add a pod; `p8888="127.0.0.1:4711"` is what listens on its port 8888."""
        name = document["metadata"]["name"]
        self.pods[name] = document
        for key, value in servers.items():
            host, _, port = value.rpartition(":")
            self.servers[name, int(key.removeprefix("p"))] = (host, int(port))

    def kill(self, name: str) -> None:
        """Take a pod away with whatever it carries, without a word on the web socket."""
        del self.pods[name]
        with self.lock:
            gone = [each for each in self.tunnels if each[0] == name]
        for _, *ends in gone:
            for end in ends:
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)
