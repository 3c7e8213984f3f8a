"""The product's own pipeline, driven as a user's shell does: processes of `evctl` over a small profile."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, TypeVar

DEADLINE_S = 90.0
PR_CAPBSET_DROP, DAC_OVERRIDE, DAC_READ_SEARCH = 24, 1, 2
T = TypeVar("T")


class Product:
    """A folder with a profile, and `evctl` over it."""

    def __init__(self, folder: Path, home: Path) -> None:
        self.folder, self.home = folder, home
        (folder / "profiles").mkdir(parents=True, exist_ok=True)

    def profile(self, versions: Mapping[str, Mapping[str, Any]], **more: Any) -> None:
        """Write profiles/local.yaml (JSON is YAML)."""
        document = {
            "backend": "local",
            "deploy": "manual",
            "store": {"uri": "${EVCTL_HOME}/store"},
            "image": {"mode": "prebuilt", "name": "python-local"},
            "accuracy_threshold": 0.0,
            "data": {"versions": dict(versions)},
        } | more
        (self.folder / "profiles" / "local.yaml").write_text(json.dumps(document))

    def start(self, *line: str, **options: Any) -> subprocess.Popen[str]:
        """Start a command; its output is piped."""
        env = {**os.environ, "EVCTL_HOME": str(self.home)}
        return subprocess.Popen(
            [sys.executable, "-m", "evctl", *line],
            cwd=self.folder,
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            **options,
        )

    def ask(self, *line: str, **options: Any) -> tuple[int, str, str]:
        """Run a command to its end; return its exit code, stdout and stderr."""
        process = self.start(*line, **options)
        out, err = process.communicate(timeout=DEADLINE_S)
        return process.returncode, out, err

    def run_id(self) -> str:
        """Return the only run's id, as soon as there is one."""
        return until(lambda: next((path.parent.name for path in self.home.glob("runs/*/record.json")), None))

    def status(self, run_id: str = "@latest") -> tuple[int, dict[str, Any]]:
        """Return the exit code and document of `status -o json`."""
        code, out, err = self.ask("status", run_id, "-o", "json")
        assert out, err
        return code, json.loads(out)

    def ended(self, run_id: str = "@latest") -> tuple[int, dict[str, Any]]:
        """Wait for the run's end; return its exit code and document."""

        def look() -> tuple[int, dict[str, Any]] | None:
            found = self.status(run_id)
            return None if found[0] == 8 else found

        return until(look)

    def worker(self, run_id: str) -> int:
        """Return the process id of a run's worker."""

        return until(lambda: worker_of(run_id))


def worker_of(run_id: str) -> int | None:
    """Return the process id of a run's worker, if it has one."""
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            words = (folder / "cmdline").read_bytes().split(b"\0")
            if b"evctl.backends.local.worker" in words and any(word.endswith(run_id.encode()) for word in words):
                return int(folder.name)
    return None


def until(look: Callable[[], T | None]) -> T:
    """Ask until there is an answer."""
    deadline = time.monotonic() + DEADLINE_S
    while time.monotonic() < deadline:
        if (found := look()) is not None:
            return found
        time.sleep(0.05)
    raise AssertionError("it did not come to that in time")


class Gate:
    """A source of telemetry that answers when it is let."""

    def __init__(self, content: bytes) -> None:
        self.asked, self.open = threading.Event(), threading.Event()
        gate = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                gate.asked.set()
                gate.open.wait(DEADLINE_S)
                self.send_response(200)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                # whoever asked may have been killed meanwhile
                with contextlib.suppress(OSError):
                    self.wfile.write(content)

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.uri = f"http://127.0.0.1:{self._server.server_port}/telemetry.csv"

    @contextlib.contextmanager
    def serving(self) -> Iterator[Gate]:
        """Serve in a thread of its own."""
        thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self.open.set()
            self._server.shutdown()
            self._server.server_close()


def children_of(pid: int) -> list[int]:
    """Return every process below one, and itself."""
    found = [pid]
    for parent in found:
        with contextlib.suppress(OSError):
            tasks = Path(f"/proc/{parent}/task").glob("*/children")
            found += [int(child) for task in tasks for child in task.read_text().split()]
    return found


def alive(pid: int) -> bool:
    """Whether a process is there and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def power_cut(pid: int) -> None:
    """Kill a process and everything below it, at once."""
    doomed = children_of(pid)
    for each in doomed:
        with contextlib.suppress(ProcessLookupError):
            os.kill(each, signal.SIGSTOP)
    for each in reversed(doomed):
        with contextlib.suppress(ProcessLookupError):
            os.kill(each, signal.SIGKILL)


def heed_modes() -> None:
    """Let even root be refused by a file's mode (in a child, before it becomes another program)."""
    if os.geteuid() == 0:
        libc = ctypes.CDLL(None)
        for capability in (DAC_OVERRIDE, DAC_READ_SEARCH):
            libc.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0)
