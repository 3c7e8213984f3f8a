"""The golden request to a service on a cluster: at its own address, or through the Kubernetes API."""

from __future__ import annotations

import hashlib
import http.client
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from evctl.errors import FailedError, UnavailableError, trim
from evctl.kube import KubeApi
from evctl.kube_errors import explained
from evctl.rollout.ledger import Release
from evctl.rollout.registry import manifest_of
from evctl.rollout.serving.base import ProofError
from evctl.rollout.serving.golden import check, infer_request
from evctl.rollout.store import Store

Send = Callable[[str, str, Any], tuple[int, Any]]
"""Sends (method, path, document) and returns status and document. UnavailableError when nobody answers."""
TIMEOUT_S = 10.0
CONNECT_S = 2.0
SILENT = (502, 503, 504)
"""What gateways and servers that are still starting answer."""


class NobodyThere(UnavailableError):
    """Nothing takes connections at an address: another way may lead to the same server."""


@dataclass(frozen=True, slots=True)
class Golden:
    """A bundle's recorded rows and answers, and whether the server tells which model it is."""

    rows: Mapping[str, Any]
    version: str
    digest: str
    identity: bool = True

    @classmethod
    def of(cls, release: Release, store_config: Mapping[str, Any], *, identity: bool) -> Golden:
        """Read them from the store. FailedError when they, or the model there, are not the release's."""
        store = Store(store_config)
        manifest = manifest_of(release.uri, store_config)
        prefix = (release.uri.rstrip("/") + "/").removeprefix(store.uri)
        content = store.read(prefix + "golden.json")
        if manifest.get("digest") != release.digest:
            found = str(manifest.get("digest"))[:12]
            raise FailedError(f"{release.uri} holds {found} now, not {release.digest[:12]}", hint="evctl models list")
        if hashlib.sha256(content).hexdigest() != manifest["files"]["golden.json"]:
            raise FailedError(f"the golden rows in {release.uri} are not those registered", hint="evctl models list")
        return cls(json.loads(content), release.model, release.digest, identity)

    def ask(self, service: str, send: Send) -> None:
        """Send the rows. ProofError unless all is as recorded; UnavailableError when nobody answers."""
        status, answer = _sent(send, "GET", f"/v2/models/{service}/ready", None)
        if status != 200:
            raise ProofError(f"the model says it is not ready ({status}): {trim(json.dumps(answer), 120)}")
        request = infer_request(list(self.rows["features"]), list(self.rows["rows"]))
        status, answer = _sent(send, "POST", f"/v2/models/{service}/infer", request)
        if self.identity:
            check(dict(self.rows), status, answer, version=self.version, digest=self.digest)
        else:
            check(dict(self.rows), status, self._named(answer, status), version=self.version, digest=self.digest)

    def _named(self, answer: Any, status: int) -> Any:
        """Return a stock server's answer in our server's words; which model it is, only its storageUri tells."""
        if status != 200:
            return answer
        outputs = [{**answer["outputs"][0], "name": "probabilities"}]
        return {"outputs": outputs, "model_version": self.version, "parameters": {"model_digest": self.digest}}


def _sent(send: Send, method: str, path: str, document: Any) -> tuple[int, Any]:
    status, answer = send(method, path, document)
    if status in SILENT:
        raise UnavailableError(f"{path} was answered {status}: {trim(json.dumps(answer), 120)}")
    return status, answer


def direct(url: str) -> Send:
    """Return a sender to a base URL."""
    parts = urlsplit(url)

    def send(method: str, path: str, document: Any) -> tuple[int, Any]:
        kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        connection = kind(parts.hostname or "", parts.port, timeout=CONNECT_S)
        try:
            connection.connect()
            connection.sock.settimeout(TIMEOUT_S)
            body = None if document is None else json.dumps(document)
            connection.request(method, parts.path.rstrip("/") + path, body, {"content-type": "application/json"})
            reply = connection.getresponse()
            return reply.status, _document(reply.read())
        except (OSError, http.client.HTTPException) as error:
            raise NobodyThere(f"{url} does not answer: {trim(str(error), 120)}") from error
        finally:
            connection.close()

    return send


def proxied(api: KubeApi, prefix: str) -> Send:
    """Return a sender through the Kubernetes API's proxy of a service or a pod."""

    def send(method: str, path: str, document: Any) -> tuple[int, Any]:
        body = None if document is None else json.dumps(document).encode()
        full = f"{prefix}/proxy{path}"
        reply = api.raw(method, full, body=body, headers={"Content-Type": "application/json"})
        answer = _document(reply.data)
        if reply.status >= 400 and isinstance(answer, dict) and answer.get("kind") == "Status":
            raise explained(method, full, reply.status, reply.data, api.host)
        return reply.status, answer

    return send


def reachable(url: str | None) -> bool:
    """Is this address one that we may reach: a cluster's own names only from inside?"""
    host = (urlsplit(url or "").hostname or "").rstrip(".")
    inner = host.endswith((".svc", ".cluster.local"))
    return bool(host) and (not inner or bool(os.environ.get("KUBERNETES_SERVICE_HOST")))


def _document(content: bytes) -> Any:
    try:
        return json.loads(content or b"null")
    except ValueError:
        return trim(content.decode(errors="replace"))
