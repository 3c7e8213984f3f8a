"""What a store's failure means: what happened, why, what to do, in our words. Pure.

obstore tells its failures by text: the store's own code is in the body it quotes, a connection's in the Rust error's.
No value of a credential is ever part of a message.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from evctl.errors import EvctlError, NotAllowedError, UnavailableError

_STATUS = re.compile(r"status code: (\d{3})|HTTP status[^\d]{0,20}(\d{3})|status: (\d{3})")
_CODE = re.compile(r"<Code>(\w{1,64})</Code>")
_REGION = re.compile(r"[Ee]xpecting (?:region )?'([a-z0-9-]{1,32})'")
_SIGN_IN = re.compile(
    r"/latest/(meta-data|api/token)|/computeMetadata/|performing POST|//sts\.|oauth2|169\.254\.", re.IGNORECASE
)
PROFILE = "look at store.uri and store.endpoint in the profile, then the same command"
CREDENTIALS = "export the credentials again, then the same command"
_CODES: Mapping[str, tuple[str, str]] = {
    "AccessDenied": (
        "these credentials may not do that here",
        "ask for read and write access to this prefix of the bucket, or export other credentials",
    ),
    "InvalidAccessKeyId": ("the store does not know this access key", CREDENTIALS),
    "SignatureDoesNotMatch": ("the secret key is not that of this access key", CREDENTIALS),
    "ExpiredToken": ("the session token has expired", "log in again, export the new credentials"),
    "ExpiredTokenException": ("the session token has expired", "log in again, export the new credentials"),
    "TokenRefreshRequired": ("the session token has expired", "log in again, export the new credentials"),
    "InvalidToken": ("the session token is not valid", "log in again, export the new credentials"),
    "RequestTimeTooSkewed": ("this machine's clock is wrong", "set the clock (timedatectl), then the same command"),
}
"""S3's codes that are about who asks: exit 4."""
_TEXTS: tuple[tuple[str, str, str], ...] = (
    ("ConnectionRefused", "nothing listens at {where}", PROFILE),
    ("dns error", "the name of {where} is not known", PROFILE),
    ("InvalidContentType", "{where} does not speak TLS", "write http:// in store.endpoint, if that is meant"),
    (
        "InvalidCertificate",
        "the certificate of {where} is not trusted",
        "put its authority among the system's (update-ca-certificates), or name it in SSL_CERT_FILE",
    ),
    ("HandshakeFailure", "{where} and we have no TLS version in common", PROFILE),
    ("kind: Timeout", "{where} did not answer in time", "the same command again"),
    ("ConnectionReset", "{where} broke the connection off", "the same command again"),
    ("IncompleteMessage", "{where} broke the connection off", "the same command again"),
    ("os error 13", "this user may not", "look at the folder's owner and mode"),
    ("os error 28", "the disk is full", "free some space, then the same command"),
    ("os error 30", "the disk is mounted read-only", "name another folder under store.uri in the profile"),
    ("os error 21", "a folder is in its place", "look at what is there, or name another store.uri in the profile"),
    ("os error 20", "a file is in a folder's place", "look at what is there, or name another store.uri in the profile"),
    ("kind: Connect", "{where} takes no connection", PROFILE),
    ("kind: Decode", "{where} broke off in the middle of an answer", "the same command again"),
    ("kind: Interrupted", "{where} broke off in the middle of an answer", "the same command again"),
)
"""What a connection's, or the disk's, error says, in the order in which they are looked for."""


def failure(what: str, error: Exception, where: str = "the store") -> EvctlError:
    """Return our error of obstore's: NotAllowedError for who asks, else UnavailableError. `where`: the endpoint."""
    text, name = str(error), type(error).__name__
    found = _STATUS.search(text)
    status = next((group for group in found.groups() if group), "") if found else ""
    code = match[1] if (match := _CODE.search(text)) else ""
    if code == "NoSuchBucket":
        return UnavailableError(
            f"{what}: the bucket does not exist", hint="make it, or name another under store.uri in the profile"
        )
    if "without LOCATION" in text or code in ("PermanentRedirect", "AuthorizationHeaderMalformed"):
        region = match[1] if (match := _REGION.search(text)) else None
        told = f"the bucket is in the region {region}" if region else "the bucket is in another region"
        return UnavailableError(
            f"{what}: {told}", hint=f"set store: {{region: {region or 'ITS-REGION'}}} in the profile, or AWS_REGION"
        )
    if known := _CODES.get(code):
        return NotAllowedError(f"{what}: {known[0]} ({code})", hint=known[1])
    if name in ("UnauthenticatedError", "PermissionDeniedError") or status in ("401", "403"):
        told = f"{what}: the store does not allow it ({code or status or 'no reason told'})"
        return NotAllowedError(told, hint="look at the credentials, and at what they may do in this bucket")
    if code or status:
        told = ", ".join(each for each in (code, f"status {status}" if status else "") if each)
        busy = status.startswith("5") or status == "429"
        return UnavailableError(f"{what}: {told}", hint="the same command again, in a while" if busy else PROFILE)
    return _connection(what, text, where)


def _connection(what: str, text: str, where: str) -> EvctlError:
    told, hint = next(
        ((told, hint) for sign, told, hint in _TEXTS if sign in text),
        ("{where} failed without a reason that we know", PROFILE),
    )
    if _SIGN_IN.search(text.partition("Debug source")[0]):
        return NotAllowedError(
            f"{what}: there is no login for it: {told.format(where='what gives this machine its credentials')}",
            hint="export AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (or GOOGLE_APPLICATION_CREDENTIALS)",
        )
    return UnavailableError(f"{what}: {told.format(where=where)}", hint=hint)
