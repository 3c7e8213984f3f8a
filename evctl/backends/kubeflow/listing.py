"""The list of runs: filters, pages, and finding one run by what was typed."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Any

from evctl.backends.base import RunQuery, RunState, RunSummary
from evctl.backends.kubeflow.api import PAGE, Api, contains, equals, one_of
from evctl.backends.kubeflow.join import finished_at, run_state
from evctl.backends.kubeflow.nodes import moment
from evctl.errors import UsageError

_ASKED = {
    RunState.PENDING: ("PENDING", "RUNTIME_STATE_UNSPECIFIED"),
    RunState.RUNNING: ("RUNNING", "PAUSED", "CANCELING"),
    RunState.SUCCEEDED: ("SUCCEEDED",),
    RunState.SKIPPED: ("SKIPPED",),
    RunState.FAILED: ("FAILED",),
    # a terminated run ends FAILED (kubeflow-facts 7)
    RunState.CANCELED: ("CANCELED", "FAILED"),
}
FOUND, LOOKED_AT = 50, 1000
"""How many runs of a name or an id's beginning are listed, and looked at where the server cannot filter."""


def predicates_of(query: RunQuery) -> list[dict[str, Any]]:
    """Return what the server can filter by itself."""
    states = sorted({word for state in query.states for word in _ASKED[state]})
    return [one_of("state", states)] if states else []


def summary(run: Mapping[str, Any], env: str, cancelled: Collection[str], experiment: str | None) -> RunSummary:
    """Return a row. What a run decided is not in the API's list; `status` asks for it."""
    run_id = str(run.get("run_id") or "")
    state = run_state(run, cancel_requested=run_id in cancelled)
    version = ((run.get("runtime_config") or {}).get("parameters") or {}).get("data_version")
    return RunSummary(
        run_id,
        str(run.get("display_name") or ""),
        env,
        state,
        moment(run.get("created_at")) or datetime.fromtimestamp(0, UTC),
        finished_at(run),
        str(version) if version is not None else None,
        experiment,
    )


def select(rows: Iterator[RunSummary], query: RunQuery, now: datetime) -> list[RunSummary]:
    """Return the rows asked for; `rows` come newest first and are not read further than needed."""
    oldest = now - query.since if query.since else datetime.min.replace(tzinfo=UTC) + timedelta(days=1)
    found: list[RunSummary] = []
    for row in rows:
        if row.created_at < oldest:
            break
        if not query.states or row.state in query.states:
            found.append(row)
            if len(found) >= query.limit:
                break
    return found


def page_size(query: RunQuery) -> int:
    """Return how many runs a request asks for: each carries its spec and nodes, so no more than are shown."""
    return PAGE if RunState.CANCELED in query.states else min(query.limit, PAGE)


def matching(api: Api, reference: str) -> Sequence[Mapping[str, Any]]:
    """Return the runs of a name, or whose id begins so, in the whole server, newest first."""
    named = _looked(api, [equals("display_name", reference)], lambda run: run.get("display_name") == reference)
    if named:
        return named
    return _looked(api, [contains("run_id", reference)], lambda run: str(run.get("run_id", "")).startswith(reference))


def _looked(
    api: Api, predicates: Sequence[Mapping[str, Any]], good: Callable[[Mapping[str, Any]], bool]
) -> list[Mapping[str, Any]]:
    try:
        return [run for run in islice(api.runs(predicates=predicates, page=FOUND), FOUND) if good(run)]
    except UsageError:  # a server that cannot filter by this: look at the newest here
        return [run for run in islice(api.runs(), LOOKED_AT) if good(run)][:FOUND]
