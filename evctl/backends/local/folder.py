"""A run's folder: what is in it, and how it is written so that a reader or a power cut never sees half of it.

request.json    what was asked, by the CLI        record.json   what is so now, by the worker
pipeline.yaml   the compiled package              events.jsonl  what has happened, a line each, appended
cancel          asked to end                      lock          held by the worker while it lives
artifacts/      what the steps wrote              logs/         <task>.<attempt>.log
reserve         room for the last words, given    worker.log    the worker's own words
                up when the disk is full
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from evctl.backends.local.events import record_from
from evctl.errors import NotFoundError, UnavailableError

RESERVE_BYTES = 256 * 1024
"""What the last words of a run take on a full disk, some times over."""
FULL_BYTES = 64 * 1024
"""Free bytes below which a disk is taken for full."""
FULL = frozenset({errno.ENOSPC, errno.EDQUOT})


@dataclass(frozen=True, slots=True)
class RunFolder:
    """The files of one run."""

    path: Path

    @property
    def run_id(self) -> str:
        """The run's id is the folder's name."""
        return self.path.name

    @property
    def package(self) -> Path:
        """The compiled pipeline."""
        return self.path / "pipeline.yaml"

    @property
    def artifacts(self) -> Path:
        """The pipeline root of the run."""
        return self.path / "artifacts"

    @property
    def record_file(self) -> Path:
        """What has happened."""
        return self.path / "record.json"

    @property
    def events_file(self) -> Path:
        """What has happened, in order."""
        return self.path / "events.jsonl"

    @property
    def reserve(self) -> Path:
        """Room that is held until the disk is full."""
        return self.path / "reserve"

    @property
    def cancel_file(self) -> Path:
        """Exists once the end of the run was asked for."""
        return self.path / "cancel"

    def new_log(self, task: str) -> Path:
        """Create and return the next log of a task: attempts count on over retries, and over a loop's iterations."""
        logs = self.path / "logs"
        logs.mkdir(exist_ok=True)
        number = 1
        while True:
            try:
                path = logs / f"{task}.{number}.log"
                path.touch(exist_ok=False)
            except FileExistsError:
                number += 1
            else:
                return path

    def request(self) -> dict[str, Any]:
        """Return what was asked."""
        return _read(self.path / "request.json")

    def record(self) -> dict[str, Any]:
        """Return what has happened so far; a damaged record is read back from the run's events.

        Raises:
            NotFoundError: no such run. UnavailableError: neither the record nor the request can be read.
        """
        try:
            return _read(self.record_file)
        except (NotFoundError, UnavailableError) as damaged:
            try:
                return record_from(self.request(), self.events_file)
            except (NotFoundError, UnavailableError, KeyError):
                raise damaged from None

    def lock(self) -> IO[bytes]:
        """Take the worker's lock; it is held until every process that has the file open has ended."""
        handle = (self.path / "lock").open("ab")
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return handle

    def sweep(self) -> None:
        """Remove what a worker that was killed could not: copies of secrets, and scratch files."""
        for left in (*self.path.glob("secrets-*"), self.path / "tmp"):
            shutil.rmtree(left, ignore_errors=True)
        for half in (*self.path.glob(".*.json.*"), self.reserve):
            with contextlib.suppress(OSError):
                half.unlink()

    def sweep_when_dead(self) -> None:
        """`sweep`, unless a worker lives or starts meanwhile."""
        try:
            with (self.path / "lock").open("rb") as handle:
                fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
                self.sweep()
        except OSError:
            return

    def hold_reserve(self) -> None:
        """Take room for the last words. OSError when there is not even that."""
        write_atomically(self.reserve, "\0" * RESERVE_BYTES)

    def write(self, path: Path, text: str) -> None:
        """Replace a file's content, on a full disk too as long as there is a reserve."""
        self.give_way(lambda: write_atomically(path, text))

    def new_scratch(self, prefix: str) -> Path:
        """Make a folder that only this user may look into; `sweep` removes those called `secrets-`."""
        return Path(tempfile.mkdtemp(dir=self.path, prefix=prefix))

    def give_way(self, write: Callable[[], None]) -> None:
        """Call `write`; when the disk is full, give the reserve up and call it again. OSError when there is none left."""
        try:
            write()
        except OSError as error:
            if error.errno not in FULL or not self.reserve.exists():
                raise
            self.reserve.unlink()
            write()

    def alive(self) -> bool:
        """Return whether a worker holds the lock."""
        try:
            with (self.path / "lock").open("rb") as handle:
                fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError:
            return False
        return False


def _read(path: Path) -> dict[str, Any]:
    try:
        document: dict[str, Any] = json.loads(path.read_text())
    except FileNotFoundError as error:
        raise NotFoundError(f"no run {path.parent.name}", hint="evctl runs") from error
    except (OSError, ValueError) as error:
        raise UnavailableError(
            f"{path} cannot be read: {error}", hint="is EVCTL_HOME readable for this user?"
        ) from error
    return document


def write_atomically(path: Path, text: str) -> None:
    """Replace a file's content; after a power cut, or on a full disk, it is the old or the new one."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with partial.open("w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            partial.unlink()
        raise
