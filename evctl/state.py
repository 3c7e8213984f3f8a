"""Where evctl keeps what it knows on this machine, and where it looks for profiles."""

from __future__ import annotations

import os
from pathlib import Path


def home() -> Path:
    """Return the state folder (not created here): `EVCTL_HOME`, else `$XDG_STATE_HOME/evctl`."""
    if explicit := os.environ.get("EVCTL_HOME"):
        return Path(explicit).expanduser().absolute()
    base = os.environ.get("XDG_STATE_HOME")
    return (Path(base) if base else Path.home() / ".local" / "state") / "evctl"


def profiles_folder() -> Path:
    """Return the folder profiles are read from: `EVCTL_PROFILES`, else `./profiles`, else those that ship with evctl."""
    if named := os.environ.get("EVCTL_PROFILES"):
        return Path(named)
    here = Path.cwd() / "profiles"
    if here.is_dir():
        return here
    shipped = Path(__file__).parent / "_profiles"
    return shipped if shipped.is_dir() else Path(__file__).parent.parent / "profiles"


def profile_names() -> list[str]:
    """Return the known profiles' names."""
    return sorted(path.stem for path in profiles_folder().glob("*.yaml") if path.is_file())
