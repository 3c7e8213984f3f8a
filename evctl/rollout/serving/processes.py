"""Processes that outlive who started them: own session, init's child, known again by number and start time."""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import subprocess
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from evctl.rollout.holders import started

KEPT_ENV = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "VIRTUAL_ENV", "PYTHONPATH", "LD_LIBRARY_PATH")
"""No secret of the promoter goes into a server that runs for weeks."""


@dataclass(frozen=True, slots=True)
class Process:
    """A server of ours. `port` is 0 until it announced one."""

    pid: int
    started: str | None
    port: int = 0
    digest: str = ""
    revision: int = 0

    @property
    def alive(self) -> bool:
        """Whether this very process still runs."""
        return self.started is not None and started_at(self.pid) == self.started

    def to_json(self) -> dict[str, Any]:
        """Return what `Process(**...)` takes."""
        return asdict(self)

    def stop(self, grace_s: float = 12.0) -> None:
        """End it: SIGTERM, and SIGKILL when that does not help. Nothing if it is gone already."""
        for number, patience in ((signal.SIGTERM, grace_s), (signal.SIGKILL, 5.0)):
            if not self.alive:
                return
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)
                os.kill(self.pid, signal.SIGCONT)  # one that was stopped would not see it
            deadline = time.monotonic() + patience
            while self.alive and time.monotonic() < deadline:
                time.sleep(0.02)


def spawn(command: Sequence[str], log: Path) -> Process:
    """Start a command that survives us: a shell in a session of its own starts it and ends, so init adopts it."""
    line = f"exec </dev/null; {shlex.join(command)} >{shlex.quote(str(log))} 2>&1 & echo $!"
    done = subprocess.run(
        ["/bin/sh", "-c", line],
        env={name: os.environ[name] for name in KEPT_ENV if name in os.environ},
        start_new_session=True,
        capture_output=True,
        text=True,
        check=True,
    )
    pid = int(done.stdout)
    return Process(pid, started_at(pid))


def started_at(pid: int) -> str | None:
    """Return when a process was started, in ticks since boot; None if there is none that we may look at."""
    try:
        return started(pid)
    except OSError:
        return None


def announced(path: Path, pid: int) -> int | None:
    """Return the port a process announced; None as long as it has not."""
    try:
        port, owner = path.read_text().split()
    except FileNotFoundError:
        return None
    return int(port) if int(owner) == pid else None
