"""Attempts forked from a process that has imported their libraries already (`preload.py`), as if they were started."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Iterable, Mapping, Sequence
from itertools import count
from pathlib import Path

from evctl.backends.local.preload import MAX_MESSAGE, die_with_parent

START_TIMEOUT_S = 60.0
"""Seconds the process may take to its next answer; it imports a module at a time."""
_KFP_SCRIPT = re.compile(
    r'program_path=\$\(mktemp -d\)\s+printf "%s" "\$0" > "\$program_path/ephemeral_component\.py"\s+'
    r"_KFP_RUNTIME=true \S+ -m kfp\.dsl\.executor_main\s+"
    r'--component_module_path\s+"\$program_path/ephemeral_component\.py"\s+"\$@"\s*'
)
_IMPORT = re.compile(r"^\s+(?:from|import) ((?:ev_ml|evctl)[\w.]*)", re.MULTILINE)


def modules_of(programs: Iterable[str]) -> list[str]:
    """Return our modules that components' sources import in their bodies, each once, in the order of the sources."""
    return list(dict.fromkeys(name for program in programs for name in _IMPORT.findall(program)))


class Fork:
    """A forked attempt: what `Step` uses of a `subprocess.Popen`."""

    def __init__(self) -> None:
        self.pid = 0
        self.started, self._ended = threading.Event(), threading.Event()
        self._status = -9

    def wait(self, timeout: float) -> int:
        """Return its exit status, a signal as a negative number. subprocess.TimeoutExpired when it has not ended yet."""
        if not self._ended.wait(timeout):
            raise subprocess.TimeoutExpired("attempt", timeout)
        return self._status

    def tell(self, answer: Mapping[str, int]) -> None:
        """Take an answer of the process it was forked from."""
        if "pid" in answer:
            self.pid = answer["pid"]
            self.started.set()
        else:
            self._status = answer["status"]
            self._ended.set()

    def lost(self) -> None:
        """The process it was forked from has ended, and it with it."""
        self.started.set()
        self._ended.set()


class Forks:
    """Starts the preloading process of a run and asks it for attempts. Threads of parallel tasks share one.

    Args:
        modules: what to import beside kfp's executor, the first needed first.
    """

    def __init__(self, modules: Sequence[str]) -> None:
        self._ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._forks: dict[int, Fork] = {}
        self._ids, self._lock, self._gone = count(), threading.Lock(), False
        parent = os.getpid()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "evctl.backends.local.preload", str(theirs.fileno()), *modules],
                stdin=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(),),
                start_new_session=True,
                preexec_fn=lambda: die_with_parent(parent),
                env={**os.environ, "_KFP_RUNTIME": "true", "PYTHONUNBUFFERED": "1"},
            )
        threading.Thread(target=self._listen, daemon=True).start()

    def start(self, command: Sequence[str], env: Mapping[str, str], log: Path) -> Fork | None:
        """Start an attempt of a command that kfp made; None when it has to be started in the ordinary way."""
        if len(command) < 4 or list(command[:2]) != ["sh", "-ec"] or not _KFP_SCRIPT.fullmatch(command[2]):
            return None
        fork = Fork()
        number = next(self._ids)
        job = {
            "id": number,
            "program": command[3],
            "arguments": list(command[4:]),
            "env": {**env, "_KFP_RUNTIME": "true"},
            "log": str(log),
        }
        message = json.dumps(job).encode()
        with self._lock:
            if self._gone or len(message) > MAX_MESSAGE:
                return None
            self._forks[number] = fork
        try:
            self._ours.send(message)
        except OSError:
            return None
        if not fork.started.wait(START_TIMEOUT_S):
            # killed, it cannot start the attempt a second time
            self._process.kill()
            fork.started.wait()
        return fork if fork.pid else None

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.wait()

    def _listen(self) -> None:
        while message := self._receive():
            answer = json.loads(message)
            self._forks[answer["id"]].tell(answer)
        with self._lock:
            self._gone = True
        for fork in self._forks.values():
            fork.lost()

    def _receive(self) -> bytes:
        try:
            return self._ours.recv(MAX_MESSAGE)
        except OSError:
            return b""
