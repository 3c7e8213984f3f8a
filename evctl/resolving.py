"""Names within a time: the system's resolver may be silent for half a minute, and takes no timeout from us."""

from __future__ import annotations

import contextlib
import socket
import threading
from urllib.parse import urlsplit

from evctl.errors import UnavailableError

RESOLVE_S = 4.0
_KNOWN: set[str] = set()


def resolve(url: str, error: type[UnavailableError] = UnavailableError) -> None:
    """Wait for the address of a URL's host, once a process; what the resolver answers is for whoever connects.

    Raises:
        error: no answer within RESOLVE_S seconds.
    """
    host = urlsplit(url).hostname or ""
    if host in _KNOWN:
        return
    answered = threading.Event()

    def ask() -> None:
        with contextlib.suppress(OSError, UnicodeError):
            socket.getaddrinfo(host, None)
        answered.set()

    threading.Thread(target=ask, name=f"resolve {host}", daemon=True).start()
    if not answered.wait(RESOLVE_S):
        raise error(
            f"the name {host} has not been resolved in {RESOLVE_S:g} s",
            hint="does this machine's name server (or VPN) answer? evctl doctor",
        )
    _KNOWN.add(host)
