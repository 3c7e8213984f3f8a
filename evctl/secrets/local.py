"""Secrets on this machine: `EVCTL_HOME/secrets/<name>/<KEY>`, readable by this user alone."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from evctl.errors import UnavailableError, UsageError
from evctl.state import home

if TYPE_CHECKING:
    from evctl.profile import Profile

NAME = re.compile(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?")
KEY = re.compile(r"[-._a-zA-Z0-9]+")


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


def parse_env(text: str, source: str) -> dict[str, str]:
    """Return KEY=value lines as a mapping. An error names the line's number, never its text."""
    values: dict[str, str] = {}
    # an editor's byte order mark is no part of the first key
    for number, line in enumerate(text.removeprefix("\ufeff").splitlines(), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        key, found, value = line.strip().removeprefix("export ").partition("=")
        if not found or not KEY.fullmatch(key.strip()):
            raise UsageError(f"{source}:{number}: not KEY=value", hint="mend the line, then the same command")
        if key.strip() in values:
            raise UsageError(
                f"{source}:{number}: {key.strip()} stands twice", hint="keep one of them, then the same command"
            )
        quoted = len(value) > 1 and value[0] == value[-1] and value[0] in "'\""
        values[key.strip()] = value[1:-1] if quoted else value
    return values


class LocalSecrets:
    """The secrets of a state folder."""

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder or home() / "secrets"

    def apply(self, name: str, values: Mapping[str, str], required: Sequence[str] = ()) -> SecretChange:
        """Make a secret hold exactly these values.

        Raises:
            UsageError: a bad name, or a required key is missing.
        """
        if not NAME.fullmatch(name):
            raise UsageError(
                f"{name!r} is no name of a secret: lower case letters, digits, - and .", hint="evctl secrets list"
            )
        lacking = [key for key in required if not values.get(key)]
        if lacking:
            raise UsageError(f"secret {name} needs {', '.join(lacking)}", hint="add it to the file")
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
