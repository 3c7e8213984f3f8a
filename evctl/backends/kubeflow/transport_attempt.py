"""One request through its retries, and what is done with the response's socket."""

from __future__ import annotations

import contextlib
import io
import random
import time
from typing import Any

import urllib3

from evctl.errors import EvctlError

CONNECT_TRIES = 2
SILENT_S = 2.0
"""A server that took longer than this not to be there is not tried again."""
SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
FIRST_PAUSE_S, MAX_PAUSE_S = 0.2, 5.0


class Attempt:
    """One request through its retries."""

    def __init__(self, method: str, url: str, end: float) -> None:
        self.method, self.url, self.end = method, url, end
        self.begun, self.pause, self.unconnected = time.monotonic(), FIRST_PAUSE_S, 0
        self.renewed = self.sent = self.hopeless = False

    def left(self) -> float:
        """Return the seconds that are left for it and its retries."""
        return self.end - time.monotonic()

    def or_raise(self, error: EvctlError, *, after: float | None = None, processed: bool = True) -> None:
        """Wait for the next try, or raise: too late, pointless, or perhaps already done."""
        lost = self.sent and processed and self.method not in SAFE
        # a server that asks for no wait at all, or is answered for by a proxy that does, is not stormed
        wait = max(after or 0.0, self.pause * random.uniform(0.8, 1.2))
        silent = self.unconnected and time.monotonic() - self.begun > SILENT_S
        given_up = self.unconnected >= CONNECT_TRIES or silent or self.hopeless or lost
        if given_up or time.monotonic() + wait > self.end:
            raise error
        time.sleep(wait)
        self.pause = min(2 * self.pause, MAX_PAUSE_S)


def whole(answer: Any, end: float) -> Any:
    """Return the response with its body read: a body that trickles is bounded too, which no socket's timeout does."""
    pieces = []
    while piece := answer.read1(1 << 16):
        pieces.append(piece)
        if time.monotonic() > end:
            answer.close()
            raise TimeoutError("its answer does not end in time")
    answer.release_conn()
    # urllib3 tells a body that is given as empty bytes as None, and unpacks a file's again
    return urllib3.HTTPResponse(
        io.BytesIO(b"".join(pieces)),
        headers=answer.headers,
        status=answer.status,
        reason=answer.reason,
        preload_content=True,
        decode_content=False,
    )


def patient(answer: Any, seconds: float) -> None:
    """Let a response that has begun be silent for so long: urllib3 knows one time for its beginning and its pieces."""
    sock = getattr(answer.connection, "sock", None)
    if sock is None:
        # a server that closes after its answer has left the socket to the response alone
        with contextlib.suppress(AttributeError):
            sock = answer._fp.fp.raw._sock
    if sock is not None:
        sock.settimeout(seconds)
