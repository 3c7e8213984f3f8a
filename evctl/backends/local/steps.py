"""One attempt of a step: a process of its own, its log, its limits, and its end when the worker ends."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from evctl.backends.local.folder import FULL_BYTES
from evctl.backends.local.forks import Fork, Forks
from evctl.backends.local.preload import die_with_parent

_PREFIX = re.compile(r"_KFP_RUNTIME=true (\S+) -m")
_OURS = re.compile(r"^(?:ev_ml|evctl)(?:\.\w+)+: ")
"""Our own errors say it all in their message; the class in front of it is noise."""
GRACE_S = 5.0
REASON_CHARS = 500
_WATCH = 'read _; kill -s KILL -- "-$1"'
"""Ends a step's process group when the pipe from the worker closes: PDEATHSIG reaches the step, not its children."""


def as_one_process(command: Sequence[str]) -> list[str]:
    """Let the shell become the step: a signal on the worker's death reaches a child, not a grandchild."""
    script = _PREFIX.sub(r"export _KFP_RUNTIME=true; exec \1 -m", command[2]) if len(command) > 2 else ""
    return [*command[:2], script, *command[3:]] if script else list(command)


class Step:
    """A running attempt.

    Args:
        timeout_s: seconds it may take, as a pod's activeDeadlineSeconds.
        forks: starts it faster where it can.
    """

    def __init__(
        self,
        command: Sequence[str],
        env: Mapping[str, str],
        log: Path,
        timeout_s: float | None,
        forks: Forks | None = None,
    ) -> None:
        self._timeout_s = timeout_s
        self.timed_out = False
        self._log = log
        log.touch()
        # what it prints is in its log at once, for whoever follows it
        whole = {**os.environ, "PYTHONUNBUFFERED": "1", **env}
        forked = forks.start(command, whole, log) if forks else None
        self._process: Fork | subprocess.Popen[bytes] = forked or _started(command, whole, log)
        self._watchdog = subprocess.Popen(
            ["sh", "-c", _WATCH, "watch", str(self._process.pid)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def wait(self, has_to_end: Callable[[], bool]) -> int:
        """Wait for its end; end it at its timeout or when it has to. Returns the exit status."""
        try:
            return self._wait(has_to_end)
        finally:
            self._watchdog.kill()
            self._watchdog.communicate()

    def _wait(self, has_to_end: Callable[[], bool]) -> int:
        deadline = time.monotonic() + self._timeout_s if self._timeout_s else None
        while True:
            try:
                return self._process.wait(0.05)
            except subprocess.TimeoutExpired:
                pass
            if deadline is not None and time.monotonic() > deadline:
                self.timed_out = True
                self._end()
            elif has_to_end():
                self._end()

    def _end(self) -> None:
        for number, patience in ((signal.SIGTERM, GRACE_S), (signal.SIGKILL, GRACE_S)):
            try:
                os.killpg(self._process.pid, number)
                self._process.wait(patience)
            except (ProcessLookupError, subprocess.TimeoutExpired):
                continue
            break

    def reason(self, status: int) -> str:
        """Say in one line why it failed: its last words, or the signal that ended it."""
        if self.timed_out:
            return f"took longer than its timeout of {self._timeout_s:g} s"
        if status < 0:
            return f"killed by {signal.Signals(-status).name}"
        said = last_words(self._log) or f"exit status {status}"
        if "No space left" in said or _free(self._log.parent) >= FULL_BYTES:
            return said
        # a full disk also cuts the log's last words short, to the head of a traceback at worst
        words = "" if said.startswith("Traceback") else f": {said}"
        return f"no space left on the disk of {self._log.parent}{words}"


def _started(command: Sequence[str], env: Mapping[str, str], log: Path) -> subprocess.Popen[bytes]:
    parent = os.getpid()
    with log.open("ab") as output:
        return subprocess.Popen(
            as_one_process(command),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=env,
            start_new_session=True,
            preexec_fn=lambda: die_with_parent(parent),
        )


def _free(folder: Path) -> int:
    return shutil.disk_usage(folder).free


def last_words(log: Path) -> str | None:
    """Return the last line of a log that says something, at most `REASON_CHARS` of it."""
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - 8192))
        lines = [line.strip() for line in file.read().decode(errors="replace").splitlines()]
    telling = [line for line in lines if line and not set(line) <= set("-=~^ ")]
    return _OURS.sub("", telling[-1])[:REASON_CHARS] if telling else None
