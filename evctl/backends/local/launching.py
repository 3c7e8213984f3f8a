"""Starts the worker of a run, detached from whoever asks; a run that cannot be started leaves nothing behind."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from evctl.backends.base import RunRequest, RunState
from evctl.backends.local.expected import expected_seconds
from evctl.backends.local.folder import RunFolder, write_atomically
from evctl.errors import ConflictError, NotFoundError, UnavailableError
from evctl.index import IndexEntry, RunIndex
from evctl.profile import Profile

LOCK_TIMEOUT_S = 10.0
"""Seconds a worker may take to leave after its run has ended."""


def launch(profile: Profile, home: Path, request: RunRequest) -> str:
    """Make a run's folder, start its worker, and return the run's id.

    Raises:
        UnavailableError: the state folder cannot be written; nothing is left of the run.
    """
    run_id = secrets.token_hex(8)
    folder = RunFolder(home / "runs" / run_id)
    created = time.time()
    index = RunIndex(home)
    try:
        # killed before the ledger has it, it is a folder nobody asks for; after, a run whose worker died
        _prepare(folder, profile, request, created)
        index.add(IndexEntry(run_id, profile.name, "local", request.name, created))
        _start(folder)
    except BaseException as error:
        shutil.rmtree(folder.path, ignore_errors=True)
        with contextlib.suppress(UnavailableError):
            index.remove(run_id)
        if isinstance(error, OSError):
            raise _unwritable(folder, error) from error
        raise
    return run_id


def relaunch(folder: RunFolder) -> None:
    """Start another worker on an ended run's folder: what succeeded is kept.

    Raises:
        ConflictError: its worker still lives. UnavailableError: the folder cannot be written.
    """
    try:
        _start(folder, {**folder.record(), "state": "PENDING", "finished_at": None, "reason": None})
    except OSError as error:
        raise _unwritable(folder, error) from error


def _prepare(folder: RunFolder, profile: Profile, request: RunRequest, created: float) -> None:
    folder.path.mkdir(parents=True)
    shutil.copyfile(request.package, folder.package)
    document = {
        "run_id": folder.run_id,
        "name": request.name,
        "env": profile.name,
        "parameters": dict(request.parameters),
        "use_cache": request.use_cache,
        "package_digest": request.package_digest,
        "experiment": profile.experiment,
        "created_at": created,
    }
    write_atomically(folder.path / "request.json", json.dumps(document, indent=1))
    blank = {key: document[key] for key in ("run_id", "name", "env", "parameters", "created_at")}
    expected = expected_seconds(_good_records(folder.path.parent, profile.name))
    record = {**blank, "state": "PENDING", "tasks": {}, "model": None, "expected_s": expected}
    write_atomically(folder.record_file, json.dumps(record))


def _good_records(runs: Path, env: str) -> Iterator[dict[str, Any]]:
    """Yield the records of an environment's good runs, newest first."""
    for entry in RunIndex(runs.parent).all(env):
        if entry.state == RunState.SUCCEEDED:
            with contextlib.suppress(NotFoundError, UnavailableError):
                yield RunFolder(runs / entry.run_id).record()


def _start(folder: RunFolder, record: dict[str, Any] | None = None) -> None:
    # whoever holds the lock lives: the worker inherits it, so there is no moment in which a live run looks dead
    with _lock_of_ended(folder) as lock, (folder.path / "worker.log").open("ab") as log:
        folder.sweep()
        folder.hold_reserve()
        folder.cancel_file.unlink(missing_ok=True)
        if record is not None:
            write_atomically(folder.record_file, json.dumps(record))
        env = {key: value for key, value in os.environ.items() if key != "EVCTL_RUN_RECORD"}
        subprocess.Popen(
            [sys.executable, "-m", "evctl.backends.local.worker", str(folder.path), str(lock.fileno())],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            pass_fds=(lock.fileno(),),
            cwd=folder.path,
            env={**env, "EVCTL_HOME": str(folder.path.parent.parent)},
        )


def _lock_of_ended(folder: RunFolder) -> IO[bytes]:
    """Take the lock of a run that has ended; its worker may be a moment behind its last word."""
    deadline = time.monotonic() + LOCK_TIMEOUT_S
    while True:
        try:
            return folder.lock()
        except BlockingIOError as error:
            if time.monotonic() > deadline:
                raise ConflictError(
                    f"run {folder.run_id[:8]} is still running", hint=f"evctl status {folder.run_id[:8]}"
                ) from error
            time.sleep(0.05)


def _unwritable(folder: RunFolder, error: OSError) -> UnavailableError:
    return UnavailableError(
        f"the run folder {folder.path} cannot be written: {error.strerror or error}",
        hint="is EVCTL_HOME writable, and the disk not full?",
    )
