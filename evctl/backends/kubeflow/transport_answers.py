"""What an answer of the KFP API, or of a proxy before it, means. Pure."""

from __future__ import annotations

import contextlib
import json
import math
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urljoin, urlsplit

import urllib3

from evctl.errors import (
    ConflictError,
    EvctlError,
    FailedError,
    NotAllowedError,
    NotFoundError,
    UnavailableError,
    UsageError,
    trim,
)

RETRIED = frozenset({429, 500, 502, 503, 504})
REDIRECTS = frozenset({301, 302, 303, 307, 308})


def is_login(answer: Any) -> bool:
    """Whether this is a login page: where a proxy sends who is not logged in, or what it shows in the answer's place."""
    if answer.status in REDIRECTS:
        return True
    page = str(answer.headers.get("Content-Type") or "").startswith("text/html")
    # KFP's and the mesh's own refusals are never pages, nor are its documents and logs
    return page and answer.status in (200, 403)


def moved_to(url: str, answer: Any) -> str | None:
    """Return the base URL that a redirect to the same path names: `http://` for `https://`, or a host's other name."""
    if answer.status not in REDIRECTS or not answer.headers.get("Location"):
        return None
    asked, named = urlsplit(url), urlsplit(urljoin(url, str(answer.headers["Location"])))
    if named.path.rstrip("/") != asked.path.rstrip("/") or (named.scheme, named.netloc) == (asked.scheme, asked.netloc):
        return None
    return f"{named.scheme}://{named.netloc}"


def is_document(data: bytes) -> bool:
    """Whether this is a JSON object, as everything is that the KFP API answers."""
    try:
        return isinstance(json.loads(data), dict)
    except ValueError:
        return False


def retry_after(answer: Any) -> float | None:
    """Return the seconds that the server asks to wait, given as such or as a date; None where it does not."""
    asked = str(answer.headers.get("Retry-After") or "")
    with contextlib.suppress(ValueError):
        seconds = float(asked)
        return max(0.0, seconds) if math.isfinite(seconds) else None
    with contextlib.suppress(KeyError, TypeError, ValueError):
        # by the server's own clock, whatever ours shows
        return max(0.0, _date(asked) - _date(str(answer.headers["Date"])))
    return None


def _date(text: str) -> float:
    return parsedate_to_datetime(text).timestamp()


def explained(method: str, url: str, answer: Any) -> EvctlError:
    """Return one of our errors for what the KFP API (or a proxy before it) answers."""
    said = trim(_words(answer), 300)
    what = said or f"{method} {urlsplit(url).path}: HTTP {answer.status}"
    if answer.status == 403:
        return NotAllowedError(what, hint="evctl doctor lists the rights that are needed")
    if answer.status == 404:
        return NotFoundError(what, hint="evctl runs")
    if answer.status == 409:
        return ConflictError(what)
    if answer.status == 400:
        return UsageError(what)
    if answer.status in RETRIED or answer.status >= 500:
        return UnavailableError(f"the KFP API is not well: {what}", hint="the same command again; evctl doctor")
    return FailedError(what)


def _words(answer: Any) -> str:
    """Return the server's own words: the innermost, which name the cause; never a stack trace or a page."""
    try:
        body = json.loads(answer.data)
    except (ValueError, urllib3.exceptions.HTTPError):
        return ""
    if not isinstance(body, dict):
        return ""
    details = body.get("details")
    if isinstance(details, list):
        for each in details:
            if isinstance(each, dict) and each.get("message"):
                return str(each["message"])
    return str(body.get("message") or body.get("error_message") or body.get("error") or "")
