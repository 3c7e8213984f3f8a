"""How a release ends: proved, failed and taken back, left by a promoter that died, or begun as a canary."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NoReturn

from evctl.errors import ConflictError, EvctlError, FailedError, RefusedError
from evctl.rollout.ledger import Ledger, LedgerStore, Release, Status
from evctl.rollout.locking import Held, LostLeaseError
from evctl.rollout.serving.base import ServingWorld
from evctl.rollout.target import ServiceTarget

Tell = Callable[[str], None]


def end(store: LedgerStore, release: Release, status: Status, reason: str | None = None) -> None:
    """Close a pending release. ConflictError when somebody else closed it: their lease was valid, ours had ended."""
    ledger, token = store.read()
    now = ledger.get(release.revision)
    if now is not None and now.status != "pending":
        raise ConflictError(
            f"revision {release.revision} was ended by somebody else meanwhile: {now.status}", hint="evctl history"
        )
    store.write(ledger.ended(release.revision, status, reason), token)


def fail(
    world: ServingWorld, store: LedgerStore, begun: Release, before: Release | None, error: BaseException, tell: Tell
) -> NoReturn:
    """Restore what served before, record why, and raise: FailedError for what failed, else the error itself."""
    why = _why(error)
    # to prove the one before may take minutes: the reason is known now
    tell(f"failed: {why}" + (f"; bringing {before.model} back" if before else ""))
    told, back = restored(world, begun, before)
    canary = begun.canary is not None
    if back or not canary:
        end(store, begun, "failed", f"{why}; {told}")
    if isinstance(error, EvctlError):
        # what may still get requests can be taken back: a canary stays known for that, a release by its digest
        hint = "evctl history" if back or before is None else "evctl rollback"
        raise FailedError(f"{begun.model} was not promoted: {why}; {told}", hint=hint) from error
    raise error


def restored(world: ServingWorld, failed: Release, before: Release | None) -> tuple[str, bool]:
    """Take a failed release back. Returns what serves now, in words, and whether that was achieved."""
    try:
        world.undo(failed, before)
    except EvctlError as error:
        return f"and the previous release could not be restored: {error.message}", False
    return f"{before.model} serves again, proved" if before else "nothing served before", True


@dataclass(frozen=True, slots=True)
class Recovered:
    """What became of a release whose promoter died."""

    release: Release
    before: Release | None
    """What was live then."""
    finished: bool
    told: str


def recover(target: ServiceTarget, world: ServingWorld, store: LedgerStore, tell: Tell) -> Recovered | None:
    """Finish or undo the release of a promoter that died. Returns what was done; None where there was nothing to do."""
    ledger, _ = store.read()
    left, before = ledger.pending, ledger.live
    if left is None or left.canary is not None:
        return None
    serving = world.read()
    under_way = serving.state == "serving" or bool(serving.extra.get("rolling"))
    if under_way and serving.digest == left.digest and left.asked is None:
        try:
            for line in world.prove(left, target.proof_timeout_s):
                tell(line)
            world.commit(left)
            end(store, left, "live")
            done = Recovered(left, before, True, f"{_half_way(left)}: finished")
        except FailedError as error:
            done = _undone(world, store, left, before, error.message)
    else:
        done = _undone(world, store, left, before, "its promoter died")
    tell(done.told)
    return done


def _undone(world: ServingWorld, store: LedgerStore, left: Release, live: Release | None, why: str) -> Recovered:
    world.undo(left, live)
    end(store, left, "failed", why)
    return Recovered(left, live, False, f"{_half_way(left)}: undone, {why}")


def _half_way(left: Release) -> str:
    return f"revision {left.revision} ({left.model}) was left half-way by {left.by}"


def running_canary(store: LedgerStore, begun: Release, percent: int) -> Release:
    """Record that a proved release gets a share of the requests until it is promoted or taken back."""
    ledger, token = store.read()
    running = replace(begun, canary=percent, reason=f"canary, {percent} % of the requests")
    store.write(ledger.changed(running), token)
    return running


def go_on(
    world: ServingWorld,
    held: Held,
    running: Release,
    digest: str,
    *,
    canary: int | None,
    tell: Tell,
) -> Release:
    """Give a running canary another share, or all requests. RefusedError when another model is meant.

    A share that it does not come to leaves it the one that was proved; it ends where that is not to be had again either.
    """
    if running.digest != digest:
        raise RefusedError(
            f"a canary of {running.model} gets {running.canary} % of the requests",
            hint=f"evctl promote {running.model} finishes it, evctl rollback takes it back",
        )
    store = held.store
    before = store.read()[0].live
    world.may_change(canary=canary)
    tell(f"revision {running.revision}: {running.model} from {running.canary} % to {canary or 100} %")
    try:
        held.check()
        world.commit(running, canary=canary)
        if canary is not None:
            return running_canary(store, running, canary)
    except (LostLeaseError, RefusedError):
        raise  # nothing of it was written
    except BaseException as error:
        if canary is not None:
            _keep_share(world, held, running, canary, error, tell)
        fail(world, store, running, before, error, tell)
    end(store, running, "live", "")
    return replace(running, canary=None)


def _keep_share(
    world: ServingWorld, held: Held, running: Release, asked: int, error: BaseException, tell: Tell
) -> None:
    """Give a canary its former share again and raise; return where that fails: what was proved is not so any more."""
    why = _why(error)
    tell(f"failed: {why}; giving {running.model} its {running.canary} % again")
    try:
        held.check()
        world.commit(running, canary=running.canary)
    except LostLeaseError:
        raise
    except EvctlError as again:
        tell(f"failed: {again.message}")
        return
    told = f"it has its {running.canary} % again, proved"
    if isinstance(error, EvctlError):
        raise FailedError(
            f"{running.model} did not come to {asked} % of the requests: {why}; {told}",
            hint=f"evctl promote {running.model} --canary {asked} tries it again, evctl rollback takes the canary back",
        ) from error
    tell(told)
    raise error


def _why(error: BaseException) -> str:
    return error.message if isinstance(error, EvctlError) else f"interrupted ({type(error).__name__})"


def take_back(world: ServingWorld, store: LedgerStore, running: Release, live: Release, tell: Tell) -> None:
    """End a canary: the live release gets all requests again, proved."""
    world.may_change(canary=None)
    tell(f"taking back the canary of {running.model}")
    world.undo(running, live)
    end(store, running, "rolled_back", f"canary of {running.canary} % taken back")


def refuse_beside_canary(ledger: Ledger) -> None:
    """Raise RefusedError while a canary runs."""
    if running := ledger.pending:
        raise RefusedError(
            f"a canary of {running.model} gets {running.canary} % of the requests",
            hint="evctl rollback takes it back, evctl promote finishes it",
        )
