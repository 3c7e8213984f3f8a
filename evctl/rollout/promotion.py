"""Promote and roll back: plan, lock, record, apply, proof, live; on failure what was before, proved again.

The pipeline's deploy step calls `deploy`; the commands call `promote` and `rollback` with what `open_world` gives.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from evctl.errors import NotFoundError, RefusedError
from evctl.rollout import policy
from evctl.rollout.ledger import Ledger, Release
from evctl.rollout.locking import Held, LostLeaseError, locked
from evctl.rollout.recovery import end, fail, go_on, recover, refuse_beside_canary, running_canary, take_back
from evctl.rollout.registry import manifest_of, missing_files
from evctl.rollout.serving.base import ServingWorld
from evctl.rollout.target import ServiceTarget

Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a promotion or a rollback did."""

    changed: bool
    revision: int
    model: str
    previous: str | None
    verified: Mapping[str, Any] = field(default_factory=dict)
    duration_s: float = 0.0
    notes: tuple[str, ...] = ()
    begun_by: str | None = None
    """Who began what was finished here: a promoter that died over it."""

    def to_json(self) -> dict[str, Any]:
        """Return the stable document of `promote` and `rollback`."""
        return {
            "changed": self.changed,
            "revision": self.revision,
            "model": self.model,
            "previous": self.previous,
            "verified": dict(self.verified),
            "duration_s": round(self.duration_s, 3),
        }


def open_world(target: ServiceTarget) -> ServingWorld:
    """Return the world a target is in. UnavailableError where there is no access to its cluster."""
    if target.backend == "local":
        from evctl.rollout.serving.local import LocalWorld

        return LocalWorld(target)
    from evctl.rollout.serving.kserve import ClusterWorld

    return ClusterWorld(target)


def deploy(service: Mapping[str, Any], model_uri: str, run_id: str, by: str) -> dict[str, Any]:
    """Promote what the pipeline has just registered; prints each step. Returns the document of `promote`."""
    target = ServiceTarget.of(service)
    done = promote(
        target, open_world(target), model_uri, run_id=run_id, by=by, tell=lambda line: print(line, flush=True)
    )
    return done.to_json()


def promote(
    target: ServiceTarget,
    world: ServingWorld,
    model_uri: str,
    *,
    by: str,
    run_id: str | None = None,
    override: str | None = None,
    canary: int | None = None,
    tell: Tell = lambda line: None,
) -> Outcome:
    """Make a registered model the one that serves, proved. Already live is `changed=False`.

    Raises:
        RefusedError: policy or preflight. ConflictError: somebody else is promoting. FailedError: it did not prove
        itself; what served before serves again, or the message says that it does not.
    """
    start = time.monotonic()
    manifest = _manifest(model_uri, target)
    if target.backend == "local":
        from ev_ml.bundle import versions

        policy.check_versions(manifest, versions())
    with locked(world, by) as held:
        store = held.store
        left = recover(target, world, store, tell)
        notes = (left.told,) if left else ()
        ledger, _ = store.read()
        live, serving = ledger.live, world.read()
        if running := ledger.pending:
            done = go_on(world, held, running, manifest["digest"], canary=canary, tell=tell)
            return _outcome(done, live, start, notes)
        same = live and live.digest == manifest["digest"] == serving.digest and serving.state == "serving"
        if live and same and not policy.by_hand(serving, ledger):
            if left and left.finished:
                return replace(_outcome(live, left.before, start, notes), begun_by=left.release.by)
            return _unchanged(live, start, notes)
        note = policy.check_champion(manifest["metrics"], live, max_drop=target.max_recall_drop, override=override)
        release = _release(world, manifest, model_uri, run_id=run_id, by=by, reason=note or "")
        done = _roll(target, world, held, release, canary=canary, tell=tell)
    return _outcome(done, live, start, notes)


def _manifest(model_uri: str, target: ServiceTarget) -> dict[str, Any]:
    try:
        manifest = manifest_of(model_uri, target.store)
    except NotFoundError as error:
        raise RefusedError(f"{error.message}: its upload was cut short, or it was emptied", hint=error.hint) from error
    if gone := missing_files(model_uri, manifest, target.store):
        raise RefusedError(f"{model_uri} lacks {', '.join(gone)}: it was emptied", hint="evctl models list")
    return manifest


def rollback(
    target: ServiceTarget,
    world: ServingWorld,
    *,
    by: str,
    to: int | None = None,
    tell: Tell = lambda line: None,
) -> Outcome:
    """Bring back the last good release, or revision `to`, as a new revision. RefusedError if there is none.

    That is the live one itself where the service has another that failed and could not be taken back.
    """
    start = time.monotonic()
    with locked(world, by) as held:
        store = held.store
        left = recover(target, world, store, tell)
        notes = (left.told,) if left else ()
        ledger, _ = store.read()
        live = ledger.live
        if live and to is None and (running := ledger.pending):
            take_back(world, store, running, live, tell)
            verified = _verified(live)
            return Outcome(True, live.revision, live.model, running.model, verified, time.monotonic() - start, notes)
        refuse_beside_canary(ledger)
        stray = ledger.stray(world.read().digest) if to is None else None
        wanted = live if live and stray else _rollback_to(ledger, to)
        if live and to is not None and live.revision == to and world.read().state == "serving":
            return _unchanged(live, start, notes)
        release = Release(
            revision=0, model=wanted.model, uri=wanted.uri, digest=wanted.digest, run_id=wanted.run_id,
            status="pending", at=_now(), by=by, reason=f"rollback to revision {wanted.revision}", spec=wanted.spec,
            metrics=wanted.metrics, rollback_of=None if stray else live.revision if live else 0,
            restores=wanted.restores or wanted.revision,
        )  # fmt: skip
        done = _roll(target, world, held, release, canary=None, tell=tell)
    return _outcome(done, live, start, notes)


def switch(target: ServiceTarget, world: ServingWorld, *, on: bool, by: str, tell: Tell = lambda line: None) -> None:
    """Start the live release again, or stop it, under the lease. NotFoundError when there is none to start."""
    with locked(world, by) as held:
        if not on:
            world.stop()
            return
        recover(target, world, held.store, tell)
        ledger, _ = held.store.read()
        refuse_beside_canary(ledger)
        live = ledger.live
        if live is None:
            raise NotFoundError("there is no release to start", hint="evctl promote")
        if world.read().state != "serving":
            tell(f"starting {live.model}")
            world.start(live)


def _rollback_to(ledger: Ledger, to: int | None) -> Release:
    if to is None:
        wanted = ledger.previous_good()
        if wanted is None:
            raise RefusedError("there is no older good release to roll back to", hint="evctl history")
        return wanted
    wanted = ledger.get(to)
    if wanted is None:
        raise NotFoundError(f"there is no revision {to}", hint="evctl history")
    if wanted.status == "failed":
        raise RefusedError(f"revision {to} never proved itself: {wanted.reason}", hint="evctl history")
    return wanted


def _roll(
    target: ServiceTarget,
    world: ServingWorld,
    held: Held,
    release: Release,
    *,
    canary: int | None,
    tell: Tell,
) -> Release:
    for warning in world.preflight(release, canary=canary):
        tell(f"warning: {warning}")
    store = held.store
    ledger, token = store.read()
    before = ledger.live
    ledger, begun = ledger.begin(replace(release, asked=canary), target.history_limit)
    store.write(ledger, token)
    tell(f"revision {begun.revision}: {begun.model}")
    try:
        world.apply(begun, canary=canary)
        for line in world.prove(begun, target.proof_timeout_s):
            tell(line)
        held.check()
        world.commit(begun, canary=canary)
        if canary is not None:
            return running_canary(store, begun, canary)
    except LostLeaseError:
        raise
    except BaseException as error:
        fail(world, store, begun, before, error, tell)
    end(store, begun, "live")
    return begun


def _release(
    world: ServingWorld, manifest: Mapping[str, Any], uri: str, *, run_id: str | None, by: str, reason: str
) -> Release:
    return Release(
        revision=0, model=manifest["version"], uri=uri, digest=manifest["digest"],
        run_id=run_id or manifest["provenance"].get("run_id"), status="pending", at=_now(), by=by, reason=reason,
        spec=world.spec(manifest, uri), metrics=manifest["metrics"],
    )  # fmt: skip


def _outcome(done: Release, before: Release | None, start: float, notes: tuple[str, ...]) -> Outcome:
    previous = before.model if before else None
    return Outcome(True, done.revision, done.model, previous, _verified(done), time.monotonic() - start, notes)


def _unchanged(live: Release, start: float, notes: tuple[str, ...]) -> Outcome:
    return Outcome(False, live.revision, live.model, live.model, _verified(live), time.monotonic() - start, notes)


def _verified(release: Release) -> dict[str, Any]:
    return {"version": release.model, "digest": release.digest, "golden": True, "percent": release.canary or 100}


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
