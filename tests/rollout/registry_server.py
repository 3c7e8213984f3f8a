"""The few calls of the Kubeflow Model Registry's REST API (v1) that registering takes, for its own client."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

BASE = "/api/model_registry/v1/"


class RegistryServer(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.models: list[dict[str, Any]] = []
        self.versions: list[dict[str, Any]] = []
        self.artifacts: list[dict[str, Any]] = []
        self.status = 0
        self.tokens: list[str] = []
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: RegistryServer

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        here = self.server
        parts = urlsplit(self.path)
        asked = {key: values[0] for key, values in parse_qs(parts.query).items()}
        here.tokens.append(self.headers.get("Authorization") or "")
        body = json.loads(self.rfile.read(int(self.headers.get("content-length") or 0)) or b"{}")
        if here.status:
            return self._say(here.status, {"code": str(here.status), "message": "no"})
        match parts.path.removeprefix(BASE).split("/"), self.command:
            case ["registered_models"], "GET":
                return self._list(here.models)
            case ["registered_models"], "POST":
                return self._keep(here.models, body)
            case ["registered_model"], _:
                return self._one([m for m in here.models if m["name"] == asked["name"]])
            case ["model_versions"], "POST":
                return self._keep(here.versions, body)
            case ["registered_models", model, "versions"], "POST":
                return self._keep(here.versions, {**body, "registeredModelId": model})
            case ["model_version"], _:
                named = [v for v in here.versions if v["name"] == asked["name"]]
                return self._one([v for v in named if v["registeredModelId"] == asked["parentResourceId"]])
            case ["model_versions", version, "artifacts"], "POST":
                return self._keep(here.artifacts, {**body, "of": version})
            case ["model_artifact"], _:
                named = [a for a in here.artifacts if a["name"] == asked["name"]]
                return self._one([a for a in named if a["of"] == asked["parentResourceId"]])
            case ["model_versions", version, "artifacts"], "GET":
                return self._list([a for a in here.artifacts if a["of"] == version])
        return self._say(404, {"code": "404", "message": f"no {self.command} {parts.path} here"})

    do_POST = do_PATCH = do_GET

    def _list(self, items: list[dict[str, Any]]) -> None:
        self._say(200, {"items": items, "size": len(items), "pageSize": 1, "nextPageToken": ""})

    def _one(self, found: list[dict[str, Any]]) -> None:
        self._say(200, found[0]) if found else self._say(404, {"code": "404", "message": "not found"})

    def _keep(self, kept: list[dict[str, Any]], body: dict[str, Any]) -> None:
        made = {**body, "id": str(len(kept) + 1), "createTimeSinceEpoch": "1", "lastUpdateTimeSinceEpoch": "1"}
        kept.append(made)
        self._say(201, made)

    def _say(self, status: int, document: Any) -> None:
        content = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)
