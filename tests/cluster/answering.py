"""A small HTTP server in the place of the predictor's pods: answers golden rows as the model that is active would."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

SERVICE = "ev-battery-fault-classifier"


class ModelServer:
    """Serves what `activate` names; `ways` say how a URI's model misbehaves: empty, wrong, other, silent."""

    def __init__(self, host: str = "127.0.0.1") -> None:
        self.active: str | None = None
        self.bundles: dict[str, Path] = {}
        self.ways: dict[str, str] = {}
        self.asked = 0
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *args: Any) -> None:
                pass

            def do_GET(self) -> None:
                self._reply(*outer.answer("GET", self.path))

            def do_POST(self) -> None:
                self.rfile.read(int(self.headers.get("content-length", 0)))
                self._reply(*outer.answer("POST", self.path))

            def _reply(self, status: int, document: Any) -> None:
                body = json.dumps(document).encode()
                self.send_response(status)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

        self._server = ThreadingHTTPServer((host, 0), Handler)
        self.host, self.port = host, self._server.server_port
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"

    def answer(self, method: str, path: str) -> tuple[int, Any]:
        """Return status and document of a request."""
        self.asked += 1
        way = self.ways.get(self.active or "", "")
        if self.active is None or way == "silent":
            return 503, {"error": "no upstream"}
        if way == "empty" or not path.startswith(f"/v2/models/{SERVICE}"):
            return 404, {"error": f"Model with name {SERVICE} does not exist."}
        if method == "GET":
            return 200, {"name": SERVICE, "ready": True}
        folder = self.bundles[self.active]
        golden, manifest = (json.loads((folder / name).read_text()) for name in ("golden.json", "manifest.json"))
        told = [p + (0.25 if way == "wrong" else 0.0) for row in golden["probabilities"] for p in row]
        version = "v0-000000000000" if way == "other" else manifest["version"]
        return 200, {
            "model_name": SERVICE,
            "model_version": version,
            "parameters": {"model_digest": manifest["digest"]},
            "outputs": [{"name": "probabilities", "shape": [], "datatype": "FP64", "data": told}],
        }

    def stop(self) -> None:
        """End it."""
        self._server.shutdown()
        self._server.server_close()


@contextlib.contextmanager
def predictor(bundle: Path, host: str, work: Path) -> Iterator[int]:
    """Run the real predictor over a bundle, on a host's address. Yields its port."""
    announce = work / "port"
    command = [sys.executable, "-m", "ev_serving", "--bundle", str(bundle), "--host", host]
    kept = {name: os.environ[name] for name in ("PATH", "PYTHONPATH", "LANG") if name in os.environ}
    with (work / "log").open("wb") as log:
        process = subprocess.Popen(
            [*command, "--announce", str(announce)], stdout=log, stderr=log, env={**kept, "HOME": str(work)}
        )
    try:
        deadline = time.monotonic() + 90
        while not announce.exists():
            assert process.poll() is None, (work / "log").read_text()
            assert time.monotonic() < deadline, "the predictor was not ready within 90 s"
            time.sleep(0.05)
        yield int(announce.read_text().split()[0])
    finally:
        process.terminate()
        process.wait(20)
