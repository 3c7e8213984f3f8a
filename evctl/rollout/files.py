"""Ledger and lease in files, with the cluster's rules: compare-and-swap, a holder, an expiry."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from evctl.errors import ConflictError, FailedError, UnavailableError, trim
from evctl.rollout.holders import Holder
from evctl.rollout.ledger import Ledger

LEASE_S = 60.0
"""How long a lease holds without renewal; one of a dead process of this machine is taken over at once."""


def write_atomic(path: Path, text: str) -> None:
    """Write a file whole or not at all, readable by its owner only. UnavailableError when it cannot be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, partial = tempfile.mkstemp(dir=path.parent, prefix=path.name)
        try:
            with os.fdopen(handle, "w") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            Path(partial).replace(path)
        except BaseException:
            Path(partial).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise _unwritable(path, error) from error


def _unwritable(path: Path, error: OSError) -> UnavailableError:
    return UnavailableError(f"{path} cannot be written: {error.strerror}", hint="evctl doctor")


@contextlib.contextmanager
def _exclusive(path: Path) -> Iterator[None]:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        guard = path.with_suffix(".guard").open("a")
    except OSError as error:
        raise _unwritable(path, error) from error
    with guard:
        fcntl.flock(guard, fcntl.LOCK_EX)
        yield


class FileLedger:
    """The ledger in a file; the token is the content's digest."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self) -> tuple[Ledger, str | None]:
        """Return the ledger and its token."""
        try:
            content = self._path.read_bytes()
        except FileNotFoundError:
            return Ledger(), None
        try:
            return Ledger.from_json(content), hashlib.sha256(content).hexdigest()
        except (ValueError, KeyError, TypeError) as error:
            raise FailedError(
                f"the release ledger {self._path} is not readable: {trim(str(error))}",
                hint="put a copy of it back, or move it away: the history is lost then, what serves goes on",
            ) from error

    def write(self, ledger: Ledger, token: str | None) -> str:
        """Write if nobody wrote since. ConflictError otherwise."""
        text = ledger.to_json()
        with _exclusive(self._path):
            if self.read()[1] != token:
                raise ConflictError("the release ledger was changed by somebody else", hint="evctl history")
            write_atomic(self._path, text)
        return hashlib.sha256(text.encode()).hexdigest()


class FileLease:
    """A lease in a file."""

    def __init__(self, path: Path, *, by: str, seconds: float = LEASE_S) -> None:
        self._path, self._seconds = path, seconds
        self._identity = Holder.own(by).identity

    def acquire(self) -> None:
        """Take it, or take it over from a holder that is dead or late."""
        with _exclusive(self._path):
            held = self._read()
            if held and held["identity"] != self._identity and held["expires"] > time.time() and not _dead(held):
                until = datetime.fromtimestamp(held["expires"], UTC).isoformat(timespec="seconds")
                raise ConflictError(
                    f"{_told(held)} is promoting; "
                    f"the lease holds until {until.replace('+00:00', 'Z')} unless it is renewed",
                    hint="wait for it, then evctl history",
                )
            self._write()

    def renew(self) -> None:
        """Hold it longer."""
        with _exclusive(self._path):
            held = self._read()
            if not held or held["identity"] != self._identity:
                raise ConflictError("the promotion's lease was lost to somebody else", hint="evctl history")
            self._write()

    def release(self) -> None:
        """Give it back."""
        with _exclusive(self._path):
            held = self._read()
            if held and held["identity"] == self._identity:
                self._path.unlink(missing_ok=True)

    def _read(self) -> dict[str, Any] | None:
        try:
            document: dict[str, Any] = json.loads(self._path.read_text())
        except (FileNotFoundError, ValueError):
            return None  # one that a full disk or a power cut spoiled holds nobody up
        return document

    def _write(self) -> None:
        write_atomic(self._path, json.dumps({"identity": self._identity, "expires": time.time() + self._seconds}))


def _dead(held: dict[str, Any]) -> bool:
    holder = Holder.parse(str(held["identity"]))
    return holder is not None and holder.is_dead


def _told(held: dict[str, Any]) -> str:
    holder = Holder.parse(str(held["identity"]))
    return f"{holder.by} (process {holder.pid} on {holder.host})" if holder else str(held.get("by") or "somebody else")
