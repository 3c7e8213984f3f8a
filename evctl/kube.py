"""The Kubernetes API as plain dicts, over the official client's connection and logins. Raises only `evctl.errors`.

Used by the engine, by secrets, by doctor, and by the deploy step in its pod: the archive of embedded steps carries it.
"""

from __future__ import annotations

import base64
import contextlib
import json
import math
import time
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urlencode

from evctl.errors import TimedOutError, UnavailableError, trim
from evctl.kube_errors import RETRIED, NoConnection, Unreachable, explained
from evctl.resolving import resolve

CONNECT_TIMEOUT_S = 3.0
"""A dead API server is told within 5 s."""
APPLY, MERGE = "application/apply-patch+yaml", "application/merge-patch+json"
PAGE = 500


class KubeApi:
    """One cluster, as one identity.

    Args:
        client: `kubernetes.client.ApiClient`, logged in.
        namespace: what the login's context names, for those who need a default.
        timeout_s: seconds for one request. deadline_s: seconds for a read with its retries.

    `quiet_s` is for whoever can do without the cluster: seconds in which one that has once let us wait in vain is not
    asked again. What it said goes for the next requests too.
    """

    def __init__(self, client: Any, *, namespace: str = "default", timeout_s: float = 10.0, deadline_s: float = 20.0):
        self._client = client
        self.quiet_s = 0.0
        self._silent: tuple[float, TimedOutError] | None = None
        self.host: str = client.configuration.host.rstrip("/")
        self.namespace, self.timeout_s, self.deadline_s = namespace, timeout_s, deadline_s

    def hurried(self, timeout_s: float) -> KubeApi:
        """Return the same cluster for one who asks again anyway: a request, and a read with its retries, end sooner."""
        return KubeApi(self._client, namespace=self.namespace, timeout_s=timeout_s, deadline_s=timeout_s)

    @property
    def client(self) -> Any:
        """The official client, for what needs its web sockets."""
        return self._client

    def get(self, path: str, **query: Any) -> dict[str, Any]:
        """Return one object, or one page of a list, read again when the server stumbles."""
        return self._json("GET", path, query)

    def list(self, path: str, **query: Any) -> list[dict[str, Any]]:
        """Return all items of a list."""
        found: list[dict[str, Any]] = []
        token = None
        while True:
            page = self.get(path, limit=PAGE, **query, **({"continue": token} if token else {}))
            found += page.get("items") or []
            token = (page.get("metadata") or {}).get("continue")
            if not token:
                return found

    def create(self, path: str, body: Mapping[str, Any], *, dry_run: bool = False) -> dict[str, Any]:
        """Create an object. ConflictError when it exists."""
        return self._json("POST", path, _dry(dry_run), body)

    def replace(self, path: str, body: Mapping[str, Any], *, dry_run: bool = False) -> dict[str, Any]:
        """Replace an object; with `metadata.resourceVersion` only the version that was read. ConflictError otherwise."""
        return self._json("PUT", path, _dry(dry_run), body)

    def patch(
        self, path: str, body: Mapping[str, Any], *, dry_run: bool = False, kind: str = MERGE, **query: Any
    ) -> dict[str, Any]:
        """Patch an object (a merge patch unless said otherwise)."""
        return self._json("PATCH", path, {**_dry(dry_run), **query}, body, kind=kind)

    def apply(
        self, path: str, body: Mapping[str, Any], field_manager: str, dry_run: bool = False, force: bool = False
    ) -> dict[str, Any]:
        """Server-side apply. ConflictError names the other manager and the fields."""
        query = {"fieldManager": field_manager, "force": str(force).lower()}
        return self.patch(path, body, dry_run=dry_run, kind=APPLY, **query)

    def delete(self, path: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Delete an object."""
        return self._json("DELETE", path, {}, body)

    def watch(self, path: str, *, seconds: int = 60, **query: Any) -> Iterator[dict[str, Any]]:
        """Yield events until the server or the network ends it; whoever wants more reads again."""
        query = {**query, "watch": "true", "timeoutSeconds": seconds}
        for line in self._lines(path, query, read_s=seconds + self.timeout_s):
            with contextlib.suppress(ValueError):
                event = json.loads(line)
                if event.get("type") == "ERROR":
                    return
                yield event

    def pod_log(
        self,
        namespace: str,
        pod: str,
        *,
        container: str | None = None,
        follow: bool = False,
        tail: int | None = None,
        previous: bool = False,
        within_s: float | None = None,
    ) -> Iterator[str]:
        """Yield a container's log lines; with `follow` until it ends, else what came within a time."""
        query: dict[str, Any] = {"container": container, "tailLines": tail}
        query |= {"follow": "true"} if follow else {}
        query |= {"previous": "true"} if previous else {}
        path = f"/api/v1/namespaces/{namespace}/pods/{pod}/log"
        yield from self._lines(path, query, read_s=None if follow else within_s or self.timeout_s, within_s=within_s)

    def can_i(
        self, verb: str, group: str, resource: str, namespace: str | None = None, *, name: str | None = None
    ) -> tuple[bool, str]:
        """Return whether RBAC lets us, and why (SelfSubjectAccessReview). `resource` may be `pods/log`."""
        kind, _, sub = resource.partition("/")
        asked = {
            "verb": verb,
            "group": group,
            "resource": kind,
            "subresource": sub,
            "namespace": namespace,
            "name": name,
        }
        body = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SelfSubjectAccessReview",
            "spec": {"resourceAttributes": {key: value for key, value in asked.items() if value}},
        }
        status = self.create("/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", body).get("status") or {}
        return bool(status.get("allowed")), str(status.get("reason") or status.get("evaluationError") or "")

    def raw(
        self, method: str, path: str, *, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> Any:
        """Return a response (`.status`, `.data`, `.headers`) as it is, such as one through the service proxy."""
        return self._send(method, path, body, dict(headers or {}), read_s=self.timeout_s, preload=True)

    def _json(
        self,
        method: str,
        path: str,
        query: Mapping[str, Any],
        body: Mapping[str, Any] | None = None,
        *,
        kind: str = "application/json",
    ) -> dict[str, Any]:
        url = _url(path, query)
        content = None if body is None else json.dumps(body).encode()
        headers = {"Accept": "application/json", "Content-Type": kind}
        end, pause = time.monotonic() + self.deadline_s, 0.2

        def again() -> bool:
            return method == "GET" and time.monotonic() + pause < end

        self._if_asked()
        while True:
            try:
                answer = self._send(method, url, content, headers, read_s=self.timeout_s, preload=True)
                if answer.status < 400:
                    return _document(answer.data)
                if answer.status not in RETRIED or not again():
                    raise explained(method, path, answer.status, answer.data, self.host)
            except ValueError as error:
                if not again():
                    raise UnavailableError(
                        f"{self.host} answered {path} with something else than JSON",
                        hint="is there a proxy in between? evctl doctor",
                    ) from error
            except UnavailableError as error:
                if self.quiet_s and isinstance(error, TimedOutError):
                    self._silent = time.monotonic() + self.quiet_s, error
                    raise
                # a reset or a slow answer may be the server's restart
                if not again() or isinstance(error, Unreachable):
                    raise
            time.sleep(pause)
            pause = min(2 * pause, 2.0)

    def _if_asked(self) -> None:
        """Raise what it said last, while a silent cluster is left alone."""
        if self._silent is not None and time.monotonic() < self._silent[0]:
            raise self._silent[1]

    def _lines(
        self, path: str, query: Mapping[str, Any], *, read_s: float | None, within_s: float | None = None
    ) -> Iterator[str]:
        import urllib3

        self._if_asked()
        end = math.inf if within_s is None else time.monotonic() + within_s
        answer = self._send("GET", _url(path, query), None, {}, read_s=read_s, preload=False)
        try:
            if answer.status >= 400:
                raise explained("GET", path, answer.status, answer.read(), self.host)
            left = b""
            while chunk := answer.read1(1 << 16):
                *whole, left = (left + chunk).split(b"\n")
                yield from (line.decode(errors="replace") for line in whole)
                if time.monotonic() > end:
                    return
            if left:
                yield left.decode(errors="replace")
        except (urllib3.exceptions.HTTPError, OSError):
            return  # cut off: what came is whole lines
        finally:
            answer.close()

    def _send(
        self, method: str, url: str, body: bytes | None, headers: dict[str, str], *, read_s: float | None, preload: bool
    ) -> Any:
        import urllib3

        # a bearer token may have expired: the client's own hook renews it here
        self._client.update_params_for_auth(headers, [], ["BearerToken"])
        timeout = urllib3.Timeout(connect=CONNECT_TIMEOUT_S, read=read_s)
        pool = self._client.rest_client.pool_manager
        try:
            if not isinstance(pool, urllib3.ProxyManager):
                resolve(self.host, Unreachable)
            return pool.request(
                method,
                self.host + url,
                body=body,
                headers=headers,
                timeout=timeout,
                retries=False,
                preload_content=preload,
            )
        except urllib3.exceptions.SSLError as error:
            raise Unreachable(
                f"the certificate of {self.host} is not trusted: {trim(str(error), 120)}",
                hint="the kubeconfig's certificate-authority must be the cluster's",
            ) from error
        except urllib3.exceptions.NewConnectionError as error:  # urllib3 derives it from the next
            raise Unreachable(
                f"the Kubernetes API at {self.host} does not answer", hint="kubectl cluster-info; evctl doctor"
            ) from error
        except urllib3.exceptions.ConnectTimeoutError as error:
            raise NoConnection(
                f"the Kubernetes API at {self.host} timed out: no connection within {CONNECT_TIMEOUT_S:g} s",
                hint="kubectl cluster-info; evctl doctor",
            ) from error
        except urllib3.exceptions.ReadTimeoutError as error:
            raise TimedOutError(
                f"the Kubernetes API at {self.host} timed out: no answer within {read_s:g} s",
                hint="the same command again",
            ) from error
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise UnavailableError(
                f"the Kubernetes API at {self.host} broke off: {type(error).__name__}", hint="the same command again"
            ) from error


def secret_values(secret: Mapping[str, Any]) -> dict[str, str]:
    """Return the values of a Secret object by key, as text."""
    data = secret.get("data") or {}
    return {key: base64.b64decode(value).decode(errors="replace") for key, value in data.items()}


def _document(body: bytes) -> dict[str, Any]:
    """Return a JSON object. ValueError for anything else: null is half an answer too."""
    found = json.loads(body)
    if not isinstance(found, dict):
        raise ValueError("no object")
    return found


def _dry(dry_run: bool) -> dict[str, str]:
    return {"dryRun": "All"} if dry_run else {}


def _url(path: str, query: Mapping[str, Any]) -> str:
    given = {key: value for key, value in query.items() if value is not None}
    return f"{path}?{urlencode(given)}" if given else path
