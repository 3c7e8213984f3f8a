"""What the Kubernetes API's refusals mean. Pure."""

from __future__ import annotations

import json

from evctl.errors import (
    ConflictError,
    EvctlError,
    FailedError,
    NotAllowedError,
    NotFoundError,
    RefusedError,
    TimedOutError,
    UnavailableError,
    trim,
)


class Unreachable(UnavailableError):
    """Nobody is there, or not who should be: asking again at once is pointless."""


class NoKubeconfig(UnavailableError):
    """Nobody has named a cluster: whoever can do without one has nothing to say of it."""


class NoConnection(Unreachable, TimedOutError):
    """Nobody took a connection in time, nor refused one."""


class LoginRefused(NotAllowedError):
    """A 401: this login is not accepted, or not any more. One that is renewed elsewhere may be in a moment."""


RETRIED = frozenset({429, 500, 502, 503, 504})
"""Statuses after which a read is asked again."""


ADMISSION = ("admission webhook", "ValidatingAdmissionPolicy")


class WebhookRefusal(RefusedError):
    """An admission webhook said no: a 403, like missing RBAC, but about the object and not about us."""


def explained(method: str, path: str, status: int, body: bytes, host: str) -> EvctlError:
    """Return one of our errors for the API server's answer (kubeflow-facts 26a)."""
    try:
        document = json.loads(body)
    except ValueError:
        document = {}
    known = document if isinstance(document, dict) else {}
    said = trim(str(known.get("message") or ""), 400)
    if "/secrets" in path and status in (400, 422):
        said = "the server refuses the secret's content"  # its own words may quote a value
    what = said or f"{method} {path}: HTTP {status}"
    if status == 401:
        return LoginRefused(f"the cluster at {host} does not accept this login", hint="kubectl auth whoami")
    if status in (403, 422) and any(each in said for each in ADMISSION):
        return WebhookRefusal(what, hint="change what the webhook names, then the same command")
    if status == 403:
        return NotAllowedError(what, hint="evctl doctor lists the rights that are needed")
    if status == 404:
        return NotFoundError(what)
    if status == 409:
        return ConflictError(what, hint="the same command again, once the other one is through")
    if status in (400, 422):
        return RefusedError(what)
    if status >= 500 and "failed calling webhook" in said:
        whose = "kserve" if "kserve" in said else "NAMESPACE"
        who = "KServe's controller does not answer" if whose == "kserve" else "an admission webhook does not answer"
        return UnavailableError(f"{who}: {what}", hint=f"kubectl -n {whose} get pods, then the same command")
    if status in RETRIED or status >= 500:
        return UnavailableError(f"the Kubernetes API at {host} is not well: {what}", hint="the same command again")
    return FailedError(what)
