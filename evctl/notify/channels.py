"""How one message reaches one channel: a signed JSON webhook over urllib, everything else through Apprise.

The URL is a secret: read from a variable or a file at the moment of sending, it never leaves this module.
Webhook body: `{"event", "title", "text", "key", ...facts}`; headers `Idempotency-Key`, and with a key
`X-Evctl-Timestamp` and `X-Evctl-Signature: sha256=hex(HMAC-SHA256(key, timestamp + "." + body))`.
"""

from __future__ import annotations

import hashlib
import hmac
import http.client
import json
import logging
import os
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from evctl.notify.message import Message

Secrets = Path | Mapping[str, str]
"""What stands in `/secrets` as a pod sees it: a folder, or values by file name that are on no disk."""
TRANSIENT_STATUS = frozenset({408, 425, 429, 500, 502, 503, 504})


class ChannelError(Exception):
    """A channel could not be reached. The text holds no URL; `transient` says whether to try again."""

    def __init__(self, message: str, *, transient: bool) -> None:
        super().__init__(message)
        self.transient = transient


@dataclass(frozen=True, slots=True)
class Channel:
    """Where to send, by the names of its secrets."""

    name: str
    kind: str = "apprise"
    url_env: str | None = None
    url_file: str | None = None
    hmac_env: str | None = None
    hmac_file: str | None = None


def channels_from(config: Mapping[str, Any]) -> tuple[Channel, ...]:
    """Return the channels of a `NotifySettings` dict."""
    return tuple(
        Channel(**{key: value for key, value in dict(channel).items() if key in Channel.__dataclass_fields__})
        for channel in config.get("channels") or ()
    )


def secret_of(channel: Channel, secrets: Secrets) -> str | None:
    """Return a channel's URL; None when its variable or file is missing or empty."""
    return _read(channel.url_env, channel.url_file, secrets)


def known_secrets(config: Mapping[str, Any], secrets: Secrets) -> tuple[str, ...]:
    """Return each secret value a message must not hold: the channels' and all others at hand."""
    values = set()
    for channel in channels_from(config):
        for env, file in ((channel.url_env, channel.url_file), (channel.hmac_env, channel.hmac_file)):
            values.add(_read(env, file, secrets) or "")
    values.update(_values(secrets))
    return tuple(sorted(value for value in values if value))


def send(channel: Channel, message: Message, secrets: Secrets, timeout_s: float) -> None:
    """Send once. Raises ChannelError."""
    url = _read(channel.url_env, channel.url_file, secrets)
    if not url:
        where = channel.url_env or channel.url_file or "url_env or url_file"
        raise ChannelError(f"no URL: {where} is not set or empty", transient=False)
    if channel.kind == "webhook":
        key = _read(channel.hmac_env, channel.hmac_file, secrets)
        if (channel.hmac_env or channel.hmac_file) and not key:
            raise ChannelError(f"no key: {channel.hmac_env or channel.hmac_file} is not set", transient=False)
        _post(url, message, key, timeout_s)
    else:
        _apprise(url, message, timeout_s)


def _post(url: str, message: Message, key: str | None, timeout_s: float) -> None:
    if urlsplit(url).scheme not in {"http", "https"}:
        raise ChannelError("the webhook's URL is not http or https", transient=False)
    told = {"event": message.state, "title": message.title, "text": message.text, "key": message.key}
    document = {**message.facts, **told}
    body = json.dumps(document, ensure_ascii=False, sort_keys=True).encode()
    headers = {"Content-Type": "application/json", "User-Agent": "evctl", "Idempotency-Key": message.key}
    if key:
        stamp = str(int(time.time()))
        digest = hmac.new(key.encode(), stamp.encode() + b"." + body, hashlib.sha256).hexdigest()
        headers |= {"X-Evctl-Timestamp": stamp, "X-Evctl-Signature": f"sha256={digest}"}
    try:
        request = urllib.request.Request(url, data=body, headers=headers, method="POST")  # noqa: S310  (scheme checked above)
        with _OPENER.open(request, timeout=timeout_s) as response:
            response.read(1)
    except urllib.error.HTTPError as error:
        error.close()
        transient = error.code in TRANSIENT_STATUS
        raise ChannelError(f"answered HTTP {error.code}", transient=transient) from None
    except (urllib.error.URLError, OSError, http.client.HTTPException, ValueError) as error:
        cause = error.reason if isinstance(error, urllib.error.URLError) else error
        # The text of an unknown cause may quote the URL; its type says enough.
        name = cause.strerror if isinstance(cause, OSError) and cause.strerror else type(cause).__name__
        raise ChannelError(f"no answer: {name}", transient=not isinstance(error, ValueError)) from None


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirected POST would lose its body or hand the signature to another host."""

    def redirect_request(self, *args: Any, **kwargs: Any) -> None:
        return None


_OPENER = urllib.request.build_opener(_NoRedirect)


def _apprise(url: str, message: Message, timeout_s: float) -> None:
    import apprise

    logger = logging.getLogger("apprise")
    logger.propagate = False  # its warnings may quote the URL, and nothing may reach stderr from here
    if not any(isinstance(handler, logging.NullHandler) for handler in logger.handlers):
        logger.addHandler(logging.NullHandler())
    server = apprise.Apprise.instantiate(url)
    if server is None:
        raise ChannelError("Apprise does not know this kind of URL, or it is incomplete", transient=False)
    server.socket_connect_timeout = min(float(server.socket_connect_timeout), timeout_s)
    server.socket_read_timeout = min(float(server.socket_read_timeout), timeout_s)
    kinds = {
        "failed": apprise.NotifyType.FAILURE,
        "registered": apprise.NotifyType.SUCCESS,
        "refused": apprise.NotifyType.WARNING,
        "drift": apprise.NotifyType.WARNING,
        "unknown": apprise.NotifyType.WARNING,
    }
    hub = apprise.Apprise()
    hub.add(server)
    taken = hub.notify(
        body=message.text,
        title=message.title,
        notify_type=kinds.get(message.state, apprise.NotifyType.INFO),
        body_format=apprise.NotifyFormat.TEXT,
    )
    if not taken:
        raise ChannelError(f"the {server.service_name} service did not take it", transient=True)


def _read(env: str | None, file: str | None, secrets: Secrets) -> str | None:
    if env:
        return os.environ.get(env, "").strip() or None
    if not file:
        return None
    path = Path(file)
    # A profile says /secrets/NAME as a pod sees it; on a laptop that folder is elsewhere.
    if path.parts[:2] == ("/", "secrets"):
        path = Path(*path.parts[2:])
    if path.is_absolute():
        return _file_text(path)
    if isinstance(secrets, Mapping):
        return secrets.get(str(path), "").strip() or None
    return _file_text(secrets / path)


def _values(secrets: Secrets) -> list[str]:
    if isinstance(secrets, Mapping):
        return [value.strip() for value in secrets.values()]
    try:
        files = [path for path in secrets.iterdir() if path.is_file()]
    except OSError:
        return []
    return [_file_text(path) or "" for path in files]


def _file_text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8").strip() or None
    except (OSError, UnicodeDecodeError):
        return None
