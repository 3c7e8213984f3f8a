"""What the platform spec gives a task and kfp.local does not read: its timeout, and its secrets as files or variables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Mount:
    """One task's share. `variables` are (secret, key, name of the variable); `timeout_s` is seconds."""

    timeout_s: float | None = None
    files: tuple[str, ...] = ()
    variables: tuple[tuple[str, str, str], ...] = ()


def mounts_of(documents: Sequence[Mapping[str, Any]]) -> dict[str, Mount]:
    """Return what each task is given, by the product's name, from a package's YAML documents."""
    platform = documents[1] if len(documents) > 1 else {}
    executors = platform.get("platforms", {}).get("kubernetes", {}).get("deploymentSpec", {}).get("executors", {})
    return {label.removeprefix("exec-").replace("-", "_"): _mount(config) for label, config in executors.items()}


def _mount(config: Mapping[str, Any]) -> Mount:
    deadline = config.get("activeDeadlineSeconds")
    return Mount(
        float(deadline) if deadline else None,
        tuple(each["secretName"] for each in config.get("secretAsVolume", ())),
        tuple(
            (each["secretName"], key["secretKey"], key["envVar"])
            for each in config.get("secretAsEnv", ())
            for key in each.get("keyToEnv", ())
        ),
    )


@dataclass(frozen=True, slots=True)
class SecretCopies:
    """Copies of the secrets that a run's tasks ask for, below a folder that is removed when the run ends."""

    source: Path
    target: Path

    def folder(self, task: str, mount: Mount) -> Path:
        """Return a task's own copy of its secrets' files, readable by this user alone."""
        folder = self.target / task
        folder.mkdir(mode=0o700, exist_ok=True)
        for name in mount.files:
            source = self.source / name
            for file in sorted(source.iterdir()) if source.is_dir() else ():
                copy = folder / file.name
                copy.touch(mode=0o600)
                copy.write_bytes(file.read_bytes())
        return folder

    def variables(self, mount: Mount) -> dict[str, str]:
        """Return the variables a task is given; one whose secret is not on this machine is left as it is."""
        found = {}
        for secret, key, name in mount.variables:
            file = self.source / secret / key
            if file.is_file():
                found[name] = file.read_text()
        return found
