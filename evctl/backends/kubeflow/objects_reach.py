"""Who may read a run's artifacts: the environment, the cluster's secret; and what a store's errors mean.

No value of a credential is ever part of a message: foreign texts are searched for a status or a code, and dropped.
"""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

from evctl.backends.kubeflow.objects_place import Location, Session, session_of, unaskable
from evctl.errors import EvctlError, NotAllowedError, NotFoundError, TimedOutError, UnavailableError
from evctl.kube import secret_values
from evctl.profile import Profile

CONNECT_TIMEOUT_S = 2.0
"""Seconds for a connection; three tries stay under the 5 s in which a dead endpoint is told."""
READ_TIMEOUT_S = 20.0
"""Seconds a body may stand still."""
RETRY_S = 4.0
"""Seconds in which obstore itself retries one request."""
_STATUS = re.compile(r"status code: (\d{3})")
_CODE = re.compile(r"<Code>(\w{1,64})</Code>")
_TIMED_OUT = re.compile(r"timed out|kind: Timeout|TimedOut")


class Reach(Protocol):
    """What is needed of a connection."""

    profile: Profile

    def kubernetes(self) -> Any:
        """Return the Kubernetes API, None without cluster access."""
        ...

    def object_store_endpoint(self) -> str | None:
        """Return a forwarded address of the cluster's object store, if there is one."""
        ...


def endpoint_of(reach: Reach, session: Session) -> str | None:
    """Return the URL to use from here: the profile's, else the pods' own where it answers, else a forwarded port's."""
    if override := reach.profile.kubeflow.object_store_endpoint:
        return override if "://" in override else f"http://{override}"
    if session.provider == "gs" or session.endpoint is None or answers(session.endpoint):
        return session.endpoint if session.provider != "gs" else None
    forwarded = reach.object_store_endpoint()
    if forwarded is None:
        return session.endpoint
    return forwarded if "://" in forwarded else f"http://{forwarded}"


def answers(url: str) -> bool:
    """Return whether a URL's port takes a connection from here."""
    parts = urlsplit(url)
    try:
        with socket.create_connection((parts.hostname or "", parts.port or 443), CONNECT_TIMEOUT_S):
            return True
    except OSError:
        return False


def stores(reach: Reach, where: Location, text: str | None) -> Iterator[tuple[str, Any]]:
    """Yield (whose credentials, obstore store), the environment's first, then the cluster's secret's.

    Raises:
        NotAllowedError: neither has any.
    """
    session = session_of(text, where.provider, reach.profile.kubeflow.system_namespace)
    endpoint = endpoint_of(reach, session)
    if where.provider == "gs" and endpoint:  # an emulator: Google's own has one address only
        yield "nobody", open_store(reach, where, session, endpoint, None)
        return
    tried = False
    if _environment(where.provider):
        tried = True
        yield "the environment", open_store(reach, where, session, endpoint, None)
    values, why = _secret(reach, session)
    if values:
        tried = True
        yield f"secret {session.secret}", open_store(reach, where, session, endpoint, values)
    if not tried and session.secret is None and endpoint is None:
        # the cloud's own store with nothing named: the machine's role, if it has one
        yield "this machine", open_store(reach, where, session, endpoint, None)
    elif not tried:
        variables = "GOOGLE_APPLICATION_CREDENTIALS" if where.provider == "gs" else "AWS_ACCESS_KEY_ID and its secret"
        raise NotAllowedError(
            f"no credentials for the artifact store {where.bucket}{f': {why}' if why else ''}",
            hint=f"export {variables}, or let evctl read the cluster's secret {session.secret or ''}".rstrip(),
        )


def _environment(provider: str) -> bool:
    if provider == "gs":
        names: tuple[str, ...] = (
            "GOOGLE_APPLICATION_CREDENTIALS",
            "GOOGLE_SERVICE_ACCOUNT",
            "GOOGLE_SERVICE_ACCOUNT_KEY",
        )
        login = Path.home() / ".config" / "gcloud" / "application_default_credentials.json"
        return any(os.environ.get(name) for name in names) or login.exists()
    names = (
        "AWS_WEB_IDENTITY_TOKEN_FILE",
        "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
        "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    )
    both = os.environ.get("AWS_ACCESS_KEY_ID") and os.environ.get("AWS_SECRET_ACCESS_KEY")
    return bool(both) or any(os.environ.get(name) for name in names)


def _secret(reach: Reach, session: Session) -> tuple[dict[str, str], str | None]:
    """Return the secret's values, or why there are none. The runs' namespace is asked before Kubeflow's own."""
    if session.secret is None:
        return {}, None
    api = reach.kubernetes()
    if api is None:
        return {}, f"the cluster's secret {session.secret} cannot be read without access to the cluster"
    why = None
    for namespace in dict.fromkeys((reach.profile.namespace, reach.profile.kubeflow.system_namespace)):
        try:
            found = api.get(f"/api/v1/namespaces/{namespace}/secrets/{session.secret}")
        except NotFoundError:
            why = why or f"there is no secret {session.secret}"
            continue
        except EvctlError as error:
            why = error.message
            continue
        return {key: value.strip() for key, value in secret_values(found).items()}, None
    return {}, why


def open_store(
    reach: Reach, where: Location, session: Session, endpoint: str | None, secret: dict[str, str] | None
) -> Any:
    """Return obstore's store of a bucket, for a secret's values or (None) the environment's. NotAllowedError: no keys.

    Nothing was asked yet.
    """
    client: Any = {
        "connect_timeout": f"{CONNECT_TIMEOUT_S:g}s",
        "read_timeout": f"{READ_TIMEOUT_S:g}s",
        "timeout": "1h",  # a body is bounded by its reads, not as a whole
        "allow_http": bool(endpoint and endpoint.startswith("http://")),
    }
    if ca := reach.profile.kubeflow.ca_file:
        client["root_certificate"] = _certificate(ca)
    _past_the_proxy(endpoint)
    try:
        return _opened(where, session, endpoint, secret, client)
    except Exception as error:  # obstore's own errors have no common base; their text may hold a key
        whose = f"secret {session.secret}" if secret else "the environment"
        raise NotAllowedError(
            f"the credentials of {whose} are none that {where.provider}://{where.bucket} takes ({type(error).__name__})",
            hint="evctl doctor, then evctl secrets apply --store",
        ) from None


def _past_the_proxy(endpoint: str | None) -> None:
    """Keep a proxy that is meant for the internet from a port of this machine: the store's client reads NO_PROXY alone."""
    host = urlsplit(endpoint or "").hostname or ""
    known = os.environ.get("NO_PROXY") or os.environ.get("no_proxy") or ""
    if host in ("127.0.0.1", "localhost", "::1") and host not in known.split(","):
        os.environ["NO_PROXY"] = f"{known},{host}".lstrip(",")


def _opened(where: Location, session: Session, endpoint: str | None, secret: dict[str, str] | None, client: Any) -> Any:
    from obstore.store import GCSStore, S3Store

    backoff = {"init_backoff": timedelta(milliseconds=100), "max_backoff": timedelta(seconds=1), "base": 2}
    retry: Any = {"max_retries": 3, "retry_timeout": timedelta(seconds=RETRY_S), "backoff": backoff}
    if where.provider == "gs":
        options: dict[str, Any] = {"base_url": endpoint, "skip_signature": True} if endpoint else {}
        if secret:
            options["service_account_key"] = secret.get(session.token_key, "")
        return GCSStore(where.bucket, client_options=client, retry_config=retry, **options)
    options = {"region": session.region}
    if endpoint:
        options |= {"endpoint": endpoint, "virtual_hosted_style_request": False}
    if secret:
        # a provider, not options: what the environment holds (a session token) must not mix with the secret's
        options["credential_provider"] = lambda: {
            "access_key_id": secret.get(session.access_key_key, ""),
            "secret_access_key": secret.get(session.secret_key_key, ""),
            "token": None,
            "expires_at": None,
        }
    return S3Store(where.bucket, client_options=client, retry_config=retry, **options)


def _certificate(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError as error:
        raise NotFoundError(
            f"the CA file {path} cannot be read: {error.strerror}", hint="see kubeflow.ca_file"
        ) from error


def explained(error: Exception, what: str, whose: str) -> EvctlError:
    """Return one of our errors for an object store's: status and code are kept, the text (keys, bodies) is not."""
    text = str(error)
    code = next(iter(_CODE.findall(text)), None)
    status = next(iter(_STATUS.findall(text)), None)
    kind = type(error).__name__
    if _no_key(error):
        return unaskable(what)
    if isinstance(error, FileNotFoundError):
        return NotFoundError(f"{what} is not in the store")
    if kind in ("PermissionDeniedError", "UnauthenticatedError") or status in ("401", "403"):
        return NotAllowedError(
            f"the store refuses {what} to the credentials of {whose}{f' ({code})' if code else ''}",
            hint="evctl doctor shows which credentials are used",
        )
    if not code and not status and _TIMED_OUT.search(text):
        return TimedOutError(
            f"{what} cannot be read from the store: it timed out",
            hint="the same command again, or set kubeflow.object_store_endpoint in the profile to one that is near",
        )
    said = code or (f"HTTP {status}" if status else "no answer")
    return UnavailableError(
        f"{what} cannot be read from the store: {said}",
        hint="set kubeflow.object_store_endpoint in the profile to an address that is reachable from here",
    )


def transient(error: Exception) -> bool:
    """Whether the server was there and may do better soon: 429, 5xx, a cut or stalled body."""
    status = next(iter(_STATUS.findall(str(error))), None)
    if status is not None:
        return bool(status == "429" or status.startswith("5"))
    return not (isinstance(error, FileNotFoundError) or _no_key(error)) and "error sending request" not in str(error)


def _no_key(error: Exception) -> bool:
    """Whether obstore does not take a key, ours or one that a list brought."""
    return type(error).__name__ == "InvalidPathError" or str(error).startswith("Could not parse path")
