"""Which model server the front sends to, in a file that only the front writes; one that ends is started again.

A server proves its bundle's digests and golden rows before it announces a port, so one that was started again answers as
the release did when it was promoted.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from evctl.errors import UnavailableError, trim
from evctl.rollout.files import write_atomic
from evctl.rollout.serving.processes import Process, announced, spawn

FILE = "upstream.json"
LOOK_S = 0.1
START_S = 60.0
STEADY_S = 60.0
"""A server that ran this long had not been failing: the next start is at once again."""
WAITS_S = (0.0, 1.0, 2.0, 5.0, 10.0, 30.0)


def bundle_of(folder: Path, digest: str) -> Path:
    """Return where a service keeps its copy of a bundle."""
    return folder / "bundles" / digest[:16]


def log_of(folder: Path, revision: int) -> Path:
    """Return the log of a release's server."""
    return folder / f"server-{revision}.log"


def last_words(folder: Path, revision: int) -> str:
    """Return the last line a release's server wrote."""
    try:
        lines = log_of(folder, revision).read_text(errors="replace").split("\n")
    except OSError:
        lines = []
    return trim(next((line for line in reversed(lines) if line.strip()), "it said nothing"))


def start_server(folder: Path, name: str, digest: str, revision: int) -> tuple[Process, Path]:
    """Start a release's model server. Returns it, without a port yet, and the file it will announce the port in."""
    announce = folder / f"port-{revision}"
    announce.unlink(missing_ok=True)
    command = [sys.executable, "-m", "ev_serving", "--bundle", str(bundle_of(folder, digest))]
    command += ["--name", name, "--announce", str(announce)]
    log = log_of(folder, revision)
    if log.exists():
        log.replace(log.with_suffix(".log.1"))
    started = spawn(command, log)
    return Process(started.pid, started.started, 0, digest, revision), announce


class Keeper:
    """The front's servers: `current` answers, `previous` waits for the proof, `starting` replaces a dead one."""

    def __init__(self, folder: Path, name: str, on_change: Callable[[Process], None]) -> None:
        self._folder, self._name, self._on_change = folder, name, on_change
        self._roles: dict[str, Process] = {}
        self._starts, self._since, self._said = 0, time.monotonic(), ""

    @property
    def current(self) -> Process | None:
        """The server that answers, or should."""
        return self._roles.get("current")

    def adopt(self) -> None:
        """Take over what a front before this one left, where it still runs."""
        for role, process in read_roles(self._folder).items():
            if process.alive:
                self._roles[role] = process
        if self.current:
            self._on_change(self.current)

    def switch(self, server: Process) -> None:
        """Send to another server; the one before is kept until `retire`."""
        old = self.current
        if old and old.pid != server.pid:
            self._save(previous=old)
        self._save(current=server)
        self._starts, self._since = 0, time.monotonic()
        self._on_change(server)

    async def retire(self) -> None:
        """End the server that was switched away from."""
        old = self._roles.get("previous")
        if old and (self.current is None or old.pid != self.current.pid):
            await asyncio.to_thread(old.stop)
        self._save(previous=None)

    async def watch(self) -> None:
        """Start the current server again whenever it has ended; each time in a row a little later.

        Ends the servers and the front itself once the service's folder is gone: nobody could find them again.
        """
        while True:
            await asyncio.sleep(LOOK_S)
            if not self._folder.is_dir():
                for process in self._roles.values():
                    await asyncio.to_thread(process.stop)
                raise SystemExit(0)
            server = self.current
            if server is None or server.alive:
                continue
            if time.monotonic() - self._since > STEADY_S:
                self._starts = 0
            self._said = last_words(self._folder, server.revision)
            await asyncio.sleep(WAITS_S[min(self._starts, len(WAITS_S) - 1)])
            if self.current is server:
                self._starts, self._since = self._starts + 1, time.monotonic()
                try:
                    await self._start_again(server)
                except (
                    OSError,
                    subprocess.SubprocessError,
                    UnavailableError,
                ) as error:  # a full disk passes; the front stays
                    print(f"the model server cannot be started: {error}", flush=True)

    async def _start_again(self, dead: Process) -> None:
        started, announce = await asyncio.to_thread(start_server, self._folder, self._name, dead.digest, dead.revision)
        self._save(starting=started)
        deadline = time.monotonic() + START_S
        port = None
        while port is None and started.alive and time.monotonic() < deadline and self.current is dead:
            await asyncio.sleep(LOOK_S)
            port = announced(announce, started.pid)
        self._save(starting=None)
        if port is None or self.current is not dead:
            await asyncio.to_thread(started.stop)
            return
        again = Process(started.pid, started.started, port, dead.digest, dead.revision)
        self._save(current=again)
        self._on_change(again)

    def told(self) -> dict[str, Any]:
        """Return what the control address answers."""
        now = self.current
        if now is None:
            return {"state": "none"}
        state = "serving" if now.alive else "restarting"
        return {**now.to_json(), "state": state, "starts": self._starts, "said": "" if now.alive else self._said}

    def _save(self, **roles: Process | None) -> None:
        self._roles = {role: each for role, each in {**self._roles, **roles}.items() if each is not None}
        document = {role: each.to_json() for role, each in self._roles.items()}
        write_atomic(self._folder / FILE, json.dumps(document, indent=1))


def read_roles(folder: Path) -> dict[str, Process]:
    """Return the servers by role, as the front last wrote them; nothing where no front ever was."""
    try:
        document = json.loads((folder / FILE).read_text())
    except FileNotFoundError:
        return {}
    return {role: Process(**each) for role, each in document.items()}
