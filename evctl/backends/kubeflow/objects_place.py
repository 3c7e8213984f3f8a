"""Where a run's artifacts lie, from their addresses and KFP's session info. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from evctl.errors import ElsewhereError, FailedError

_URI = re.compile(r"(?P<provider>s3|minio|gs):///?(?P<bucket>[^/?]+)(?:/(?P<key>[^?]*))?(?:\?.*)?", re.DOTALL)
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_AWS = "amazonaws.com"


@dataclass(frozen=True, slots=True)
class Location:
    """An object's place. `key` has no slash at either end."""

    provider: str
    bucket: str
    key: str


@dataclass(frozen=True, slots=True)
class Session:
    """KFP's session info of an artifact: how its pods reach the store. `endpoint` is a URL, None the cloud's own."""

    provider: str
    endpoint: str | None = None
    region: str = "us-east-1"
    secret: str | None = None
    access_key_key: str = "accesskey"
    secret_key_key: str = "secretkey"  # noqa: S105 - the name of a key
    token_key: str = "application_default_credentials.json"  # noqa: S105 - the name of a key


def location_of(uri: str) -> Location:
    """Split an artifact's URI as KFP does: `#` is part of the key, `?` begins how the store is reached.

    ElsewhereError for a scheme that is no object store's.
    """
    found = _URI.fullmatch(uri)
    if found is None:
        scheme, colon, _ = uri.partition("://")
        what = scheme if colon else "a path" if uri else "an empty address"
        raise ElsewhereError(f"evctl does not copy from {what}{f': {uri}' if uri else ''}", hint="copy it by hand")
    return Location(found["provider"], found["bucket"], (found["key"] or "").rstrip("/"))


def object_of(uri: str) -> Location:
    """Return where an artifact's objects lie.

    Raises:
        ElsewhereError: no object store, or all of one. FailedError: a key that obstore refuses to ask for.
    """
    where = location_of(uri)
    if not where.key:
        raise ElsewhereError(f"evctl does not copy from a whole bucket: {uri}", hint="copy it by hand")
    if {"", ".", ".."} & set(where.key.split("/")) or _CONTROL.search(where.key):
        raise unaskable(uri)
    return where


def unaskable(what: str) -> FailedError:
    """Return the error for keys that stores may have and that their client, obstore, does not take."""
    return FailedError(
        f"{what} has a key that evctl cannot ask for: nothing or dots between slashes, or a control character",
        hint="copy it by hand, as with: aws s3 cp",
    )


def session_of(text: str | None, provider: str, system_namespace: str = "kubeflow") -> Session:
    """Read a session info; what it lacks is KFP's own default installation."""
    try:
        document = json.loads(text) if text else {}
    except ValueError:
        document = {}
    known: Mapping[str, Any] = document.get("Params") or {} if isinstance(document, dict) else {}
    default = f"minio-service.{system_namespace}:9000" if provider == "minio" and not known else ""
    secret = known.get("secretName") or ("mlpipeline-minio-artifact" if default else None)
    plain = str(known.get("disableSSL", "true" if default else "false")).lower() == "true"
    return Session(
        provider=provider,
        endpoint=_url(str(known.get("endpoint") or default), plain=plain),
        region=str(known.get("region") or "us-east-1"),
        secret=None if str(known.get("fromEnv")).lower() == "true" else secret,
        access_key_key=str(known.get("accessKeyKey") or "accesskey"),
        secret_key_key=str(known.get("secretKeyKey") or "secretkey"),
        token_key=str(known.get("tokenKey") or "application_default_credentials.json"),
    )


def _url(endpoint: str, *, plain: bool) -> str | None:
    if not endpoint or endpoint.split(":")[0].endswith(_AWS):
        return None
    return endpoint if "://" in endpoint else f"{'http' if plain else 'https'}://{endpoint}"
