"""What the release verbs share: the target of a profile, who asks, and the question before a change."""

from __future__ import annotations

import contextlib
import getpass
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from evctl.backends.base import Run
from evctl.commands import resolve
from evctl.errors import EvctlError, NotFoundError, RefusedError
from evctl.index import RunIndex
from evctl.output import columns
from evctl.profile import Profile
from evctl.rollout.ledger import Release
from evctl.rollout.promotion import Outcome
from evctl.rollout.target import ServiceTarget


@dataclass(frozen=True, slots=True)
class Candidate:
    """A model that is to be promoted, and the run that made it."""

    uri: str
    run_id: str | None


def target_of(profile: Profile) -> ServiceTarget:
    """Return the service of a profile."""
    return ServiceTarget.of(profile.service())


def by() -> str:
    """Return who asks."""
    return os.environ.get("EVCTL_USER") or getpass.getuser()


def confirm(profile: Profile, question: str, *, yes: bool) -> None:
    """Ask on a terminal where the profile wants it; without one `--yes` is needed."""
    if yes or not profile.confirm:
        return
    if not sys.stdin.isatty():
        raise RefusedError(f"{profile.name} asks before it changes what serves", hint="the same command with --yes")
    print(f"{question} [y/N] ", end="", file=sys.stderr, flush=True)
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise RefusedError("not confirmed; nothing was changed", hint="the same with --yes")


def candidate(reference: str | None, env: str | None) -> tuple[Profile, Candidate]:
    """Return the model meant by a run, a model version or a URI. RefusedError for a run whose model may not serve."""
    if reference and not reference.startswith("@"):
        profile = resolve.profile(env)
        store = target_of(profile).store
        if uri := reference if "://" in reference else _registered(reference, store):
            run_id = _made_by(uri, store)
            # a run made elsewhere is not known here; its registration says that the gate let it pass
            with contextlib.suppress(NotFoundError):
                _check(_run(str(run_id), env))
            return profile, Candidate(uri, run_id)
    try:
        found = resolve.run(reference, env)
    except NotFoundError as error:
        if reference and not reference.startswith("@"):
            raise _unknown(reference, env) from error
        raise
    run = found.backend.get(found.run_id)
    _check(run)
    if run.model is None:
        raise RefusedError(f"run {run.run_id} registered no model", hint=f"evctl status {run.run_id}")
    return found.profile, Candidate(run.model.uri, run.run_id)


def _registered(reference: str, store: Mapping[str, Any]) -> str | None:
    from ev_ml.bundle import MODEL_NAME
    from evctl.rollout.registry import models

    found = (each for each in models(store, MODEL_NAME) if reference in (each["version"], each["digest"]))
    return next((str(each["uri"]) for each in found), None)


def _made_by(uri: str, store: Mapping[str, Any]) -> str | None:
    from evctl.rollout.registry import manifest_of

    try:
        run_id = manifest_of(uri, store)["provenance"].get("run_id")
    except NotFoundError as error:
        raise RefusedError(f"{error.message}: nothing there can be promoted", hint=error.hint) from error
    return str(run_id) if run_id else None


def _unknown(reference: str, env: str | None) -> EvctlError:
    from ev_ml.bundle import MODEL_NAME
    from evctl.rollout.registry import partial

    store = target_of(resolve.profile(env)).store
    if "/" not in reference and partial(store, MODEL_NAME, reference):
        return RefusedError(
            f"model {reference} is no finished model: its upload was cut short, or its manifest is gone",
            hint="register it again: evctl retry its run, or evctl run",
        )
    return NotFoundError(f"no run and no model {reference!r}", hint="evctl runs, evctl models list")


def _run(run_id: str, env: str | None) -> Run:
    entry = RunIndex().resolve(run_id, None)
    found = resolve.run(entry.run_id, env)
    return found.backend.get(found.run_id)


def _check(run: Run) -> None:
    from evctl.rollout import policy

    policy.check_run(
        run.run_id,
        finished=run.finished,
        registered=run.model is not None,
        gate=run.gate.decision,
        reasons=run.gate.reasons,
    )


def outcome_lines(done: Outcome) -> list[str]:
    """Return what a person reads of a promotion or rollback."""
    if not done.changed:
        return [f"unchanged: {done.model} is live already (revision {done.revision})"]
    percent = done.verified.get("percent", 100)
    if percent != 100:
        return [
            f"canary: {done.model} gets {percent} % of the requests (revision {done.revision}, "
            f"beside {done.previous}), proved in {done.duration_s:.1f} s",
            f"  next: evctl promote {done.model}   or: evctl rollback",
        ]
    before = f", before: {done.previous}" if done.previous else ""
    if done.begun_by:
        return [
            f"finished: {done.model} is live (revision {done.revision}{before}), begun by {done.begun_by}, "
            f"proved in {done.duration_s:.1f} s"
        ]
    return [f"live: {done.model} (revision {done.revision}{before}), proved in {done.duration_s:.1f} s"]


def release_document(release: Release) -> dict[str, object]:
    """Return one entry of `history`."""
    keys = ("revision", "model", "digest", "run_id", "status", "at", "by", "reason")
    return {key: getattr(release, key) for key in keys}


def release_lines(releases: list[Release]) -> list[str]:
    """Return the ledger as a table, newest first."""
    if not releases:
        return ["no release yet; evctl promote makes the first"]
    head = ("REVISION", "MODEL", "STATUS", "AT", "BY", "RUN", "REASON")
    rows = [(str(r.revision), r.model, r.status, r.at, r.by, (r.run_id or "-")[:8], r.reason) for r in releases]
    return columns([head, *rows])
