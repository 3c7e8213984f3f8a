"""The service's own copies of bundles: fetched once, verified at each use, dropped with their last release."""

from __future__ import annotations

import contextlib
import re
import secrets
import shutil
from pathlib import Path

from evctl.errors import FailedError, RefusedError
from evctl.rollout.ledger import Ledger, Release
from evctl.rollout.registry import fetch
from evctl.rollout.serving.keeper import bundle_of
from evctl.rollout.target import ServiceTarget


def kept_bundle(folder: Path, target: ServiceTarget, release: Release) -> Path:
    """Return a release's verified bundle; fetched when there is no good copy of it yet.

    Raises:
        RefusedError: what the store holds is not the release's bundle, or cannot be served here.
    """
    from ev_ml.bundle import verify
    from ev_ml.errors import DataError

    kept = bundle_of(folder, release.digest)
    try:
        if verify(kept).digest == release.digest:
            return kept
    except DataError:
        shutil.rmtree(kept, ignore_errors=True)
    partial = kept.with_name(f"{kept.name}.{secrets.token_hex(4)}")
    try:
        fetch(release.uri, target.store, partial)
        if (found := verify(partial).digest) != release.digest:
            raise RefusedError(
                f"{release.uri} holds {found[:12]} now, not {release.digest[:12]}", hint="register the model again"
            )
        partial.replace(kept)
    except FailedError as error:
        raise RefusedError(error.message, hint=error.hint) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return kept


def prune(folder: Path, ledger: Ledger) -> None:
    """Drop copies and logs of releases that the ledger no longer has."""
    digests = {bundle_of(folder, release.digest).name for release in ledger.releases}
    revisions = {release.revision for release in ledger.releases}
    for bundle in folder.glob("bundles/*"):
        if bundle.name.partition(".")[0] not in digests:
            shutil.rmtree(bundle, ignore_errors=True)
    for file in folder.iterdir():
        found = re.match(r"(?:server|port)-(\d+)\b", file.name)
        if found and int(found[1]) not in revisions:
            with contextlib.suppress(OSError):
                file.unlink()
