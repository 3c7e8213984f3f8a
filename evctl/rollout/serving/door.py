"""The front as the promoter sees it: start it at its address, switch it, end what it no longer sends to."""

from __future__ import annotations

import secrets
import sys
import time
from pathlib import Path
from typing import Any

from evctl.errors import FailedError, trim
from evctl.rollout.files import write_atomic
from evctl.rollout.serving import front
from evctl.rollout.serving.golden import call
from evctl.rollout.serving.processes import Process, announced, spawn

POLL_S = 0.05
FRONT_START_S = 15.0
LOOK_TIMEOUT_S = 3.0
AGAIN = "evctl serving stop, then evctl serving start"


def open_front(folder: Path, port: int, name: str) -> Process:
    """Start a front at an address (0 picks one). FailedError with its own words when it does not come up."""
    token, announce, log = folder / "front.token", folder / "port-front", folder / "front.log"
    if not token.exists():
        write_atomic(token, secrets.token_hex(16))
    announce.unlink(missing_ok=True)
    command = [sys.executable, "-m", front.__name__, "--port", str(port), "--name", name]
    command += ["--token-file", str(token), "--announce", str(announce)]
    started = spawn(command, log)
    deadline = time.monotonic() + FRONT_START_S
    while (found := announced(announce, started.pid)) is None:
        if not started.alive or time.monotonic() > deadline:
            started.stop()
            said = trim(log.read_text().strip().rpartition("\n")[2])
            raise FailedError(
                f"the front on port {port} did not start: {said}",
                hint="end what has the port, or set serving.port in the profile",
            )
        time.sleep(POLL_S)
    return Process(started.pid, started.started, found)


def told(folder: Path, door: Process) -> dict[str, Any]:
    """Return what the front says of itself: `state`, the server's fields. Empty when it does not answer."""
    try:
        status, answer = _control(folder, door, "GET", None, LOOK_TIMEOUT_S)
    except OSError:
        return {}
    return dict(answer) if status == 200 else {}


def switch(folder: Path, door: Process, server: Process) -> None:
    """Send every request from now on to a server; what the one before has in hand ends first."""
    _changed(folder, door, "POST", server)


def retire(folder: Path, door: Process, server: Process) -> None:
    """End the server before; `server` is the one that stays."""
    _changed(folder, door, "DELETE", server)


def _changed(folder: Path, door: Process, method: str, server: Process) -> None:
    try:
        document = server.to_json() if method == "POST" else None
        status, answer = _control(folder, door, method, document, front.DRAIN_S + 20)
    except OSError as error:
        raise FailedError(f"the front does not answer: {trim(str(error))}", hint=AGAIN) from error
    if status != 200 or answer.get("port") != server.port:
        raise FailedError(f"the front did not switch ({status})", hint=AGAIN)


def _control(folder: Path, door: Process, method: str, document: Any, timeout_s: float) -> tuple[int, Any]:
    headers = {"x-evctl-token": (folder / "front.token").read_text()}
    return call(door.port, method, front.CONTROL, document, headers, timeout_s=timeout_s)
