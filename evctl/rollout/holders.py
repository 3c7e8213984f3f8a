"""Who holds a lease, as its holderIdentity says, and whether that process is known to be dead.

Process numbers mean something in one process table only. A host name does not name it: containers of a node may share its
name and have tables of their own. The kernel's boot id and the PID namespace do.
"""

from __future__ import annotations

import hashlib
import os
import re
import socket
import uuid
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")
_FORM = re.compile(
    r"(?P<by>.*), process (?P<pid>\d+) on (?P<host>.*), (?P<nonce>\w+)(?:\.(?P<table>\w+)\.(?P<start>\d+))?"
)


@dataclass(frozen=True, slots=True)
class Holder:
    """One promoter. `table` names the process table, `start` tells a process from a later one of its number."""

    by: str
    pid: int
    host: str
    nonce: str
    table: str = ""
    start: str = ""

    @classmethod
    def own(cls, by: str) -> Holder:
        """Return this process as a holder that no other one equals."""
        pid, table = os.getpid(), process_table()
        start = started(pid) if table else None  # our own is never hidden from us
        known = (table, start) if start else ("", "")
        return cls(by, pid, socket.gethostname(), uuid.uuid4().hex[:8], *known)

    @classmethod
    def parse(cls, identity: str) -> Holder | None:
        """Return the holder that an identity names; None for what evctl did not write."""
        found = _FORM.fullmatch(identity)
        if found is None:
            return None
        return cls(
            found["by"], int(found["pid"]), found["host"], found["nonce"], found["table"] or "", found["start"] or ""
        )

    @property
    def identity(self) -> str:
        """Return it as a holderIdentity."""
        known = f".{self.table}.{self.start}" if self.table else ""
        return f"{self.told}, {self.nonce}{known}"

    @property
    def told(self) -> str:
        """Return it in words."""
        return f"{self.by}, process {self.pid} on {self.host}"

    @property
    def is_dead(self) -> bool:
        """Is it certain that this process ended? False where its process table is not ours to look at."""
        return bool(self.table) and self.table == process_table() and not _is_running(self.pid, self.start)


def process_table() -> str:
    """Return the name of this process table, and of the clock that it tells starts by; "" where the system has none."""
    try:
        boot = (PROC / "sys/kernel/random/boot_id").read_text().strip()
        own = PROC / "self" / "ns"
        clock = (own / "time").readlink() if (own / "time").is_symlink() else ""
        return hashlib.sha256(f"{boot} {(own / 'pid').readlink()} {clock}".encode()).hexdigest()[:12]
    except OSError:
        return ""


def started(pid: int) -> str | None:
    """Return when a process was started, in ticks since boot; None if there is none, or but its remains.

    PermissionError: it is another user's, and hidden from us.
    """
    try:
        # the name in parentheses may hold anything, parentheses too
        fields = (PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        try:
            os.kill(pid, 0)  # /proc may not show it (hidepid), a signal tells
        except ProcessLookupError:
            return None
        raise PermissionError(f"process {pid} is hidden") from None
    return None if fields[0] in "ZX" else fields[19]


def _is_running(pid: int, start: str) -> bool:
    try:
        return started(pid) == start
    except OSError:
        return True
