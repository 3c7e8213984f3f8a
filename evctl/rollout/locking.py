"""One promotion at a time: the lease is held and renewed for as long as one runs, and asked for before what counts."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

from evctl.errors import ConflictError, UnavailableError
from evctl.rollout.ledger import Lease, LedgerStore
from evctl.rollout.serving.base import ServingWorld

RENEW_S = 10.0


class LostLeaseError(ConflictError):
    """Somebody else took the lease over: what was begun is theirs to finish or undo."""


class Held:
    """A held lease and the ledger it protects."""

    def __init__(self, lease: Lease, store: LedgerStore) -> None:
        self.store = store
        self._lease, self._one = lease, threading.Lock()
        self._stop = threading.Event()

    def check(self) -> None:
        """Raise LostLeaseError unless the lease is ours: a promoter that slept past its end must change nothing."""
        try:
            self._renew()
        except UnavailableError:
            return  # nobody can take it over there either, and the ledger's compare-and-swap has the last word
        except ConflictError as error:
            raise LostLeaseError(
                f"{error.message}; what was begun here is theirs to finish or undo", hint="evctl history"
            ) from error

    def keep(self) -> None:
        """Renew until `stop`; a server that is away for a while, or a full disk, is asked again."""
        while not self._stop.wait(RENEW_S):
            try:
                self._renew()
            except (UnavailableError, OSError):
                continue
            except ConflictError:
                return  # `check` and the ledger tell whoever goes on

    def stop(self) -> None:
        """End `keep`."""
        self._stop.set()

    def _renew(self) -> None:
        with self._one:
            self._lease.renew()


@contextlib.contextmanager
def locked(world: ServingWorld, by: str) -> Iterator[Held]:
    """Hold the lease of a world's promotions. ConflictError naming the holder and until when, if somebody else does."""
    lease = world.lease(by)
    lease.acquire()
    held = Held(lease, world.ledger())
    renewing = threading.Thread(target=held.keep, daemon=True)
    renewing.start()
    try:
        yield held
    finally:
        held.stop()
        renewing.join()
        lease.release()
