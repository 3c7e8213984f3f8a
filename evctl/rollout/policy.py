"""May this model be promoted, and is what serves what was promoted? Pure: facts in, an answer out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from evctl.errors import RefusedError
from evctl.rollout.ledger import Ledger, Release
from evctl.rollout.serving.base import Serving, Share


def check_run(run_id: str, *, finished: bool, registered: bool, gate: str, reasons: tuple[str, ...] = ()) -> None:
    """Refuse the model of a run that has not ended, whose gate said no, or that registered none.

    A run that failed after the registration is no reason: its model passed the gate.
    """
    if not finished:
        raise RefusedError(f"run {run_id} has not finished", hint=f"evctl status {run_id} --watch")
    if gate == "refused":
        raise RefusedError(f"the gate refused run {run_id}: {'; '.join(reasons)}", hint=f"evctl status {run_id}")
    if not registered:
        raise RefusedError(f"run {run_id} registered no model", hint=f"evctl status {run_id}")


def check_versions(manifest: Mapping[str, Any], here: Mapping[str, str]) -> None:
    """Refuse a model pickled with other library versions than will load it."""
    wrong = [f"{k} {v} (here {here[k]})" for k, v in manifest["versions"].items() if here.get(k, v) != v]
    if wrong:
        raise RefusedError(
            f"model {manifest['version']} was pickled with {', '.join(wrong)}",
            hint="train again with this installation, or serve it with the image it was trained in",
        )


def check_champion(
    candidate: Mapping[str, Any], live: Release | None, *, max_drop: float, override: str | None
) -> str | None:
    """Refuse a candidate clearly worse than what serves, on recall recorded at training. Returns the override's note."""
    if live is None or "recall" not in live.metrics:
        return None
    ours, theirs = float(candidate.get("recall", 0.0)), float(live.metrics["recall"])
    if theirs - ours <= max_drop:
        return None
    told = f"recall {ours:.3f} is {theirs - ours:.3f} below the live model's {theirs:.3f} ({max_drop:.3f} is allowed)"
    if override is None:
        raise RefusedError(told, hint='--override-champion "why" promotes it all the same, and is recorded')
    return f"champion overridden: {override} ({told})"


def by_hand(serving: Serving, ledger: Ledger) -> tuple[Share, ...]:
    """Return the parts of the requests that no release of the ledger was given: somebody set them by hand."""
    begun = ledger.pending

    def known(share: Share) -> bool:
        return begun is not None and share.revision == str(begun.revision) and begun.canary in (None, share.percent)

    return tuple(each for each in serving.shares if not known(each))
