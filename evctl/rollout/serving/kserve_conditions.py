"""Does a Deployment's bad condition speak of the release that is meant, or of the one that failed before it? Pure.

The Deployment controller keeps a condition until the next sync of the ReplicaSet that it is about, and copies a failure of
any ReplicaSet, old ones too: right after a change the last rollout's failure stands beside the new generation
(`6_rollback_after_corrupt`, at 1.0 s).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from evctl.errors import trim

Object = Mapping[str, Any]
BAD = (("ReplicaFailure", "True"), ("Progressing", "False"))
UNANSWERED = "failed calling webhook"
"""How the API server says that a webhook is away, KServe's own while its controller is started again: no refusal."""
STAYS_S = 10.0
"""A condition that outlives this long after a change is of the change: stale ones go with the next sync, in seconds."""


def failed(
    deployment: Object, fresh: Sequence[Object], others: Sequence[Object], *, changed: str, since: float
) -> str | None:
    """Return why the Deployment cannot bring the release about, in its own words.

    Args:
        fresh: the release's pods. others: those of other releases.
        changed: when the release was written, by the API server's clock; "" if that is not known.
        since: seconds since then, by ours.
    """
    status, generation = deployment.get("status") or {}, deployment["metadata"]["generation"]
    if int(status.get("observedGeneration") or 0) < generation:
        return None
    for condition in status.get("conditions") or ():
        if (condition["type"], condition["status"]) not in BAD or UNANSWERED in str(condition.get("message")):
            continue
        if not _is_stale(condition, deployment["metadata"]["name"], fresh, others, changed=changed, since=since):
            return f"{condition.get('reason')}: {trim(str(condition.get('message')), 200)}"
    return None


def unanswered(deployment: Object) -> str:
    """Return that no pod can be made while a webhook is away, in words to be added to others; it is tried again."""
    for condition in (deployment.get("status") or {}).get("conditions") or ():
        message = str(condition.get("message"))
        if condition["status"] == "True" and UNANSWERED in message:
            return f"; no pod can be made for now: {trim(message, 200)}"
    return ""


def _is_stale(
    condition: Object, name: str, fresh: Sequence[Object], others: Sequence[Object], *, changed: str, since: float
) -> bool:
    """Is it another ReplicaSet's? By the one that it names, else by its time."""
    if named := re.search(rf"\b{re.escape(name)}-([a-z0-9]+)", str(condition.get("message"))):
        ours, theirs = _hashes(fresh), _hashes(others)
        if ours or named[1] in theirs:
            return named[1] not in ours
    at = max(str(condition.get(key) or "") for key in ("lastUpdateTime", "lastTransitionTime"))
    return bool(at and changed) and at < changed and since < STAYS_S


def _hashes(pods: Sequence[Object]) -> set[str]:
    found = {(pod["metadata"].get("labels") or {}).get("pod-template-hash") for pod in pods}
    return {str(each) for each in found if each}
