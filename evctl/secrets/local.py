"""Secrets on this machine: `EVCTL_HOME/secrets/<name>/<KEY>`, readable by this user alone."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory, mkstemp
from typing import TYPE_CHECKING

from evctl.errors import UnavailableError
from evctl.secrets.checking import check
from evctl.state import home

if TYPE_CHECKING:
    from evctl.profile import Profile


@dataclass(frozen=True, slots=True)
class SecretChange:
    """What changed, by key."""

    added: list[str]
    updated: list[str]
    removed: list[str]

    @property
    def changed(self) -> bool:
        """Whether anything did."""
        return bool(self.added or self.updated or self.removed)

    def by_kind(self) -> dict[str, list[str]]:
        """Return the keys by what happened to them; nothing that did not."""
        return {kind: getattr(self, kind) for kind in ("added", "updated", "removed") if getattr(self, kind)}


class LocalSecrets:
    """The secrets of a state folder."""

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder or home() / "secrets"

    def apply(self, name: str, values: Mapping[str, str], required: Sequence[str] = ()) -> SecretChange:
        """Make a secret hold exactly these values.

        Raises:
            UsageError: see `check`. UnavailableError: the folder cannot be read or written.
        """
        check(name, values, required)
        target = self.folder / name
        try:
            before = {path.name: path.read_bytes() for path in target.iterdir()} if target.is_dir() else {}
            change = _difference(before, {key: value.encode() for key, value in values.items()})
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            target.mkdir(exist_ok=True, mode=0o700)
            for key in change.added + change.updated:
                self._write_private(target / key, values[key].encode())
            for key in change.removed:
                (target / key).unlink()
        except OSError as error:
            raise self._told(error) from error
        return change

    def list(self) -> dict[str, list[str]]:
        """Return the keys by secret. UnavailableError: the folder cannot be read."""
        try:
            return {
                each.name: sorted(path.name for path in each.iterdir())
                for each in (sorted(self.folder.iterdir()) if self.folder.is_dir() else ())
                if each.is_dir()
            }
        except OSError as error:
            raise self._told(error) from error

    def _write_private(self, path: Path, value: bytes) -> None:
        # not beside it: each file of the secret's own folder is a key
        descriptor, partial = mkstemp(dir=self.folder)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(value)
            Path(partial).replace(path)
        except BaseException:
            Path(partial).unlink(missing_ok=True)
            raise

    def _told(self, error: OSError) -> UnavailableError:
        return UnavailableError(
            f"{error.filename or self.folder}: {error.strerror}", hint=f"ls -la {self.folder}; is the disk full? df -h"
        )


@contextmanager
def mounted(profile: Profile, task: str) -> Iterator[Path]:
    """Yield a folder with a profile's secrets as a task sees `/secrets`, as links."""
    with TemporaryDirectory(prefix="evctl-secrets-") as folder:
        for secret in profile.secrets:
            source = home() / "secrets" / secret.name
            for file in source.iterdir() if task in secret.tasks and source.is_dir() else ():
                link = Path(folder) / file.name
                link.unlink(missing_ok=True)
                link.symlink_to(file)
        yield Path(folder)


def _difference(before: Mapping[str, bytes], values: Mapping[str, bytes]) -> SecretChange:
    return SecretChange(
        added=sorted(values.keys() - before.keys()),
        updated=sorted(key for key in values.keys() & before.keys() if values[key] != before[key]),
        removed=sorted(before.keys() - values.keys()),
    )
