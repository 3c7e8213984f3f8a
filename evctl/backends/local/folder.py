"""A run's folder: what is in it, and how it is written so that a reader or a power cut never sees half of it.

request.json    what was asked, by the CLI        record.json   what has happened, by the worker
pipeline.yaml   the compiled package              lock          held by the worker while it lives
cancel          asked to end                      logs/         <task>.<attempt>.log
artifacts/      what the steps wrote              worker.log    the worker's own words
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from evctl.errors import NotFoundError, UnavailableError


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
        """Return what has happened so far."""
        return _read(self.record_file)

    def lock(self) -> IO[bytes]:
        """Take the worker's lock; it is held until every process that has the file open has ended."""
        handle = (self.path / "lock").open("ab")
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return handle

    def sweep(self) -> None:
        """Remove what a worker that was killed could not: copies of secrets, and scratch files."""
        for left in (*self.path.glob("secrets-*"), self.path / "tmp"):
            shutil.rmtree(left, ignore_errors=True)

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
        raise UnavailableError(f"{path} cannot be read: {error}") from error
    return document


def write_atomically(path: Path, text: str) -> None:
    """Replace a file's content; after a power cut it is the old or the new one."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    with partial.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
