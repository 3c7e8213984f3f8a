"""Where evctl keeps what it knows on this machine: `EVCTL_HOME`, else the XDG state folder."""

from __future__ import annotations

import os
from pathlib import Path


def home() -> Path:
    """Return the state folder (not created here): `EVCTL_HOME`, else `$XDG_STATE_HOME/evctl`."""
    if explicit := os.environ.get("EVCTL_HOME"):
        return Path(explicit).expanduser().absolute()
    base = os.environ.get("XDG_STATE_HOME")
    return (Path(base) if base else Path.home() / ".local" / "state") / "evctl"
