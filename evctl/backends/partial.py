"""A folder for a copy that is not whole yet, beside where the copy will be."""

from __future__ import annotations

import contextlib
import fcntl
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from evctl.errors import UnavailableError

WRITABLE = "is it writable, and the disk not full? --download DIR names another"
OLD = "old"
"""Where in it the copy that is replaced waits until the new one stands."""
_LOCK = "lock"


@contextlib.contextmanager
def partial_copy(target: Path) -> Iterator[Path]:
    """Yield a new folder beside `target`, gone at the end; those that killed copies of the same target left go first.

    Each holds a flock: the system lets go of it when its process dies, whatever of.

    Raises:
        UnavailableError: it cannot be made.
    """
    prefix = f".{target.name}.part-"
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        for left in target.parent.iterdir():
            if left.name.startswith(prefix) and not left.is_symlink():
                _remove_if_left(left, target)
        work, held = _made(target.parent, prefix)
    except OSError as error:
        raise UnavailableError(f"{target.parent} cannot be written: {error.strerror}", hint=WRITABLE) from error
    with held:
        try:
            yield work
        finally:
            shutil.rmtree(work, ignore_errors=True)


def _made(folder: Path, prefix: str) -> tuple[Path, IO[bytes]]:
    while True:
        work = Path(tempfile.mkdtemp(dir=folder, prefix=prefix))
        try:
            held = (work / _LOCK).open("ab")
        except FileNotFoundError:
            continue  # another copy took it for left in the moment before it was locked
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            held.close()
            continue
        except OSError:
            pass  # a file system without locks: nobody gets one there, so nobody takes this for left
        return work, held


def _remove_if_left(left: Path, target: Path) -> None:
    with contextlib.suppress(OSError), (left / _LOCK).open("ab") as held:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if (left / OLD).exists() and not target.exists():
            (left / OLD).rename(target)
        shutil.rmtree(left, ignore_errors=True)
