"""From what was typed to a profile, an engine and a run."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

from evctl.backends import get_backend
from evctl.backends.base import Backend, Finder, RunQuery, RunState
from evctl.errors import NotFoundError, UsageError
from evctl.index import LAST_GOOD, RunIndex
from evctl.profile import Profile
from evctl.profile_files import load_profile

_WHOLE_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
LOOKED_BACK = 20
"""How many good runs of a server are looked at for `@last-good`."""


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
    """Return the run meant; a run that is named finds its environment by itself unless one is given.

    One that was not started from here is asked for on the environment's server, if it has one.
    """
    special = reference is None or reference.startswith("@")
    try:
        entry = RunIndex().resolve(reference, env_name(env) if special else env)
    except NotFoundError as missing:
        found = profile(env_name(env))
        if found.backend == "local":
            raise
        backend = get_backend(found)
        run_id = _latest(backend, reference) if special else _named(backend, str(reference))
        if run_id is None:
            raise NotFoundError(
                f"{missing.message}, and none on {found.name}'s server either", hint=f"evctl runs --env {found.name}"
            ) from missing
        return FoundRun(run_id, backend, found)
    found = profile(env or entry.env)
    return FoundRun(entry.run_id, get_backend(found), found)


def _named(backend: Backend, reference: str) -> str | None:
    if _WHOLE_ID.fullmatch(reference):
        return reference  # whoever asks about it is told whether there is one
    runs = backend.find(reference) if isinstance(backend, Finder) else ()
    exact = [run.run_id for run in runs if reference in (run.run_id, run.name)]
    if exact or not runs:
        return exact[0] if exact else None
    if len(runs) > 1:
        listed = ", ".join(run.run_id[:12] for run in runs[:8])
        raise UsageError(f"{reference!r} is the beginning of {len(runs)} runs: {listed}", hint="type more of it")
    return runs[0].run_id


def _latest(backend: Backend, reference: str | None) -> str | None:
    if reference != LAST_GOOD:
        return next((run.run_id for run in backend.list(RunQuery(limit=1))), None)
    good = backend.list(RunQuery(limit=LOOKED_BACK, states=frozenset({RunState.SUCCEEDED})))
    return next((run.run_id for run in good if backend.get(run.run_id).model is not None), None)
