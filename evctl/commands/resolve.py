"""From what was typed to a profile, an engine and a run."""

from __future__ import annotations

import os
from dataclasses import dataclass

from evctl.backends import get_backend
from evctl.backends.base import Backend
from evctl.index import RunIndex
from evctl.profile import Profile
from evctl.profile_files import load_profile


@dataclass(frozen=True, slots=True)
class FoundRun:
    """A run and the engine that has it."""

    run_id: str
    backend: Backend
    profile: Profile


def env_name(env: str | None) -> str:
    """Return the environment's name; never prod by default."""
    return env or os.environ.get("EVCTL_ENV") or "local"


def profile(env: str | None) -> Profile:
    """Return the environment's profile."""
    return load_profile(env_name(env)).profile


def run(reference: str | None, env: str | None) -> FoundRun:
    """Return the run meant; a run that is named finds its environment by itself unless one is given."""
    special = reference is None or reference.startswith("@")
    entry = RunIndex().resolve(reference, env_name(env) if special else env)
    found = profile(env or entry.env)
    return FoundRun(entry.run_id, get_backend(found), found)
