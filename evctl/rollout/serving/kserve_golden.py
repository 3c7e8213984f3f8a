"""The golden request to a service on a cluster: at its own address, or through the Kubernetes API."""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from evctl.errors import FailedError, UnavailableError, trim
from evctl.kube import KubeApi
from evctl.kube_errors import explained
from evctl.resolving import resolve
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
    """No model server answers at an address: another way may lead to it."""


def by_a_model(status: int, answer: Any) -> bool:
    """Is this what a model server answers? A gateway's own words, a login page or an ingress's 404 are not.

    KServe's servers answer JSON objects, `{"error": ...}` where they refuse, and never ask who one is.
    """
    if status in (401, 403, 407) or 300 <= status < 400 or not isinstance(answer, dict):
        return False
    if status == 200:
        return any(key in answer for key in ("outputs", "ready", "predictions"))
    return "error" in answer or "detail" in answer


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
        given = answer.get("outputs") if isinstance(answer, dict) else None
        if not isinstance(given, list) or not given or not isinstance(given[0], dict):
            raise ProofError(f"the golden request was answered without outputs: {trim(json.dumps(answer), 120)}")
        outputs = [{**given[0], "name": "probabilities"}]
        return {"outputs": outputs, "model_version": self.version, "parameters": {"model_digest": self.digest}}


class Patience:
    """How long an answer has been wrong, counted only while the Kubernetes API answers: nobody knows of the rest."""

    def __init__(self) -> None:
        self.spent_s = 0.0
        self._last: float | None = None

    def seen(self, now: float) -> None:
        """Say that all is rolled out, as the API told at this time."""
        self.spent_s += now - self._last if self._last is not None else 0.0
        self._last = now

    def blind(self) -> None:
        """Say that the API did not answer: the time until it does counts for nothing."""
        self._last = None

    def reset(self) -> None:
        """Say that it is not rolled out (any more)."""
        self.spent_s, self._last = 0.0, None


def _sent(send: Send, method: str, path: str, document: Any) -> tuple[int, Any]:
    status, answer = send(method, path, document)
    if status in SILENT:
        raise UnavailableError(f"{path} was answered {status}: {trim(json.dumps(answer), 120)}")
    return status, answer


def direct(url: str) -> Send:
    """Return a sender to a base URL."""
    parts = urlsplit(url)

    def send(method: str, path: str, document: Any) -> tuple[int, Any]:
        resolve(url, NobodyThere)
        kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        connection = kind(parts.hostname or "", parts.port, timeout=CONNECT_S)
        try:
            connection.connect()
            connection.sock.settimeout(TIMEOUT_S)
            body = None if document is None else json.dumps(document)
            connection.request(method, parts.path.rstrip("/") + path, body, {"content-type": "application/json"})
            reply = connection.getresponse()
            return _models(url, reply.status, _document(_whole(reply, time.monotonic() + TIMEOUT_S)))
        except (OSError, ValueError, http.client.HTTPException) as error:
            raise NobodyThere(f"{url} does not answer: {trim(str(error) or type(error).__name__, 120)}") from error
        finally:
            connection.close()

    return send


def proxied(api: KubeApi, prefix: str) -> Send:
    """Return a sender through the Kubernetes API's proxy of a service or a pod."""
    where = f"{prefix.rpartition('/')[2]} (through the Kubernetes API)"

    def send(method: str, path: str, document: Any) -> tuple[int, Any]:
        body = None if document is None else json.dumps(document).encode()
        full = f"{prefix}/proxy{path}"
        reply = api.raw(method, full, body=body, headers={"Content-Type": "application/json"})
        answer = _document(reply.data)
        if reply.status >= 400 and isinstance(answer, dict) and answer.get("kind") == "Status":
            if reply.status in (404, *SILENT):
                raise NobodyThere(f"{where} does not answer: {trim(str(answer.get('message')), 160)}")
            raise explained(method, full, reply.status, reply.data, api.host)
        return _models(where, reply.status, answer)

    return send


def _models(where: str, status: int, answer: Any) -> tuple[int, Any]:
    if not by_a_model(status, answer):
        words = answer if isinstance(answer, str) else json.dumps(answer)
        raise NobodyThere(f"{where} answered {status}, and no model server did: {trim(words, 120) or 'nothing'}")
    return status, answer


def _whole(reply: http.client.HTTPResponse, end: float) -> bytes:
    parts = []
    while part := reply.read1(1 << 16):
        parts.append(part)
        if time.monotonic() > end:
            raise TimeoutError(f"its answer is not whole after {TIMEOUT_S:g} s")
    return b"".join(parts)


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
