"""One promotion at a time: the lease is held and renewed for as long as one runs, and asked for before what counts."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator

from evctl.errors import ConflictError, EvctlError, NotAllowedError, UnavailableError
from evctl.rollout.ledger import Lease, LedgerStore
from evctl.rollout.serving.base import ServingWorld

RENEW_S = 5.0
"""A quarter of the cluster's lease."""
AGAIN_S = 1.0
"""After a renewal that failed: whoever is back first, when the server is, is to be us."""
LOGIN_S = 30.0
"""How long a login that has expired may take to be renewed before what counts is done."""


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
        end = time.monotonic() + LOGIN_S
        while True:
            try:
                self._renew()
                return
            except UnavailableError:
                return  # nobody can take it over there either, and the ledger's compare-and-swap has the last word
            except NotAllowedError:
                if time.monotonic() > end:
                    raise  # somebody with a login may have taken it over
                time.sleep(AGAIN_S)
            except ConflictError as error:
                raise LostLeaseError(
                    f"{error.message}; what was begun here is theirs to finish or undo", hint="evctl history"
                ) from error

    def keep(self) -> None:
        """Renew until `stop`; a server that is away, a login that has expired for a while, a full disk: asked again."""
        pause = RENEW_S
        while not self._stop.wait(pause):
            try:
                self._renew()
                pause = RENEW_S
            except ConflictError:
                return  # `check` and the ledger tell whoever goes on
            except (EvctlError, OSError):
                pause = min(AGAIN_S, RENEW_S)

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
