"""Secrets on this machine: `EVCTL_HOME/secrets/<name>/<KEY>`, readable by this user alone."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
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
            UsageError: a bad name, key or value, or a required key is missing.
        """
        check(name, values, required)
        target = self.folder / name
        before = {path.name: path.read_text() for path in target.iterdir()} if target.is_dir() else {}
        change = SecretChange(
            added=sorted(values.keys() - before.keys()),
            updated=sorted(key for key in values.keys() & before.keys() if values[key] != before[key]),
            removed=sorted(before.keys() - values.keys()),
        )
        try:
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            target.mkdir(exist_ok=True, mode=0o700)
            for key in change.added + change.updated:
                _write_private(target / key, values[key])
            for key in change.removed:
                (target / key).unlink()
        except OSError as error:
            raise UnavailableError(
                f"the secrets folder cannot be written: {error.strerror}",
                hint="is EVCTL_HOME writable, and the disk not full?",
            ) from error
        return change

    def list(self) -> dict[str, list[str]]:
        """Return the keys by secret."""
        if not self.folder.is_dir():
            return {}
        return {
            each.name: sorted(path.name for path in each.iterdir())
            for each in sorted(self.folder.iterdir())
            if each.is_dir()
        }


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


def _write_private(path: Path, value: str) -> None:
    partial = path.with_name(f".{path.name}.part")
    with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(value)
    partial.replace(path)
