"""The process a run's attempts are forked from: it imports once what every step would import anew.

python -m evctl.backends.local.preload SOCKET_FD MODULE...

Requests and answers are JSON datagrams (`forks.py` is the other end). A request is answered between two imports, so a step
that needs little does not wait for what others need. Each attempt is forked twice: the process between waits for it and
tells how it ended whatever this one is importing.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import json
import os
import select
import signal
import socket
import sys
import tempfile
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any

MAX_MESSAGE = 128 * 1024
"""Bytes of a request; a larger one (a program with an archive in it) is not for this process."""
PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None, use_errno=True)


def die_with_parent(parent: int) -> None:
    """Let the kernel end this process when its parent ends; elsewhere than on Linux only the watchdog does (`steps`)."""
    if sys.platform != "linux":
        return
    _LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def serve(server: socket.socket, modules: Sequence[str]) -> dict[str, Any]:
    """Import and fork until the other end closes; in a forked attempt, return its request."""
    # whatever waits for an attempt is itself waited for by nobody
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    waiting = deque(modules)
    while True:
        if select.select([server], [], [], 0 if waiting else None)[0]:
            message = server.recv(MAX_MESSAGE)
            if not message:
                os._exit(0)
            job = json.loads(message)
            if _forked(server, job):
                return dict(job)
        elif waiting:
            # what cannot be imported here cannot be in the step either, and there it is told
            with contextlib.suppress(ImportError):
                importlib.import_module(waiting.popleft())


def _forked(server: socket.socket, job: dict[str, Any]) -> bool:
    """Fork an attempt; True in the attempt, False in this process."""
    above = os.getpid()
    if os.fork():
        return False
    die_with_parent(above)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    above = os.getpid()
    pid = os.fork()
    if pid == 0:
        die_with_parent(above)
        os.setpgid(0, 0)
        server.close()
        return True
    # whoever is first: a group that is signalled must be there
    with contextlib.suppress(OSError):
        os.setpgid(pid, pid)
    server.send(json.dumps({"id": job["id"], "pid": pid}).encode())
    _, status = os.waitpid(pid, 0)
    with contextlib.suppress(OSError):
        server.send(json.dumps({"id": job["id"], "status": os.waitstatus_to_exitcode(status)}).encode())
    os._exit(0)


def become(job: dict[str, Any]) -> None:
    """Run the attempt, as kfp's own command would in a new interpreter: same program, arguments, environment and log."""
    os.environ.clear()
    os.environ.update(job["env"])
    time.tzset()
    tempfile.tempdir = None
    log = os.open(job["log"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    for source, target in ((os.open(os.devnull, os.O_RDONLY), 0), (log, 1), (log, 2)):
        os.dup2(source, target)
    program = Path(tempfile.mkdtemp()) / "ephemeral_component.py"
    program.write_text(job["program"])
    sys.argv = ["executor_main", "--component_module_path", str(program), *job["arguments"]]
    from kfp.dsl.executor_main import executor_main

    executor_main()


if __name__ == "__main__":
    become(serve(socket.socket(fileno=int(sys.argv[1])), ["kfp.dsl.executor_main", *sys.argv[2:]]))
