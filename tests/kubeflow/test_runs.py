"""`evctl runs` over real sockets: filters, pages, a hundred thousand runs."""

from __future__ import annotations

import json
import time
import tracemalloc
import uuid
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest

from evctl.backends.base import RunQuery, RunState, RunSummary
from evctl.backends.kubeflow.backend import KubeflowBackend
from evctl.backends.kubeflow.listing import page_size, predicates_of, select
from tests.fakes.kfp_life import stamp
from tests.fakes.kfp_server import Handler
from tests.fakes.kfp_state import Refusal, Synthetic
from tests.kubeflow.conftest import Kubeflow

pytestmark = pytest.mark.kubeflow
Evctl = Callable[..., tuple[int, str, str]]
NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
MANY = 100_000


def row(minutes: int, state: RunState = RunState.SUCCEEDED) -> RunSummary:
    return RunSummary(f"r{minutes}", "n", "dev", state, NOW - timedelta(minutes=minutes))


def test_rows_are_read_no_further_than_the_limit_and_the_age() -> None:
    read: list[int] = []

    def rows() -> Any:
        for at in range(1000):
            read.append(at)
            yield row(at)

    assert len(select(rows(), RunQuery(limit=3), NOW)) == 3 and len(read) == 3
    read.clear()
    young = select(rows(), RunQuery(limit=100, since=timedelta(minutes=10)), NOW)
    assert [each.run_id for each in young] == [f"r{at}" for at in range(11)] and len(read) == 12


def test_only_the_states_asked_for_are_kept_whatever_the_server_filtered() -> None:
    rows = [row(0, RunState.FAILED), row(1, RunState.CANCELED), row(2)]
    wanted = RunQuery(states=frozenset({RunState.CANCELED}))
    assert [each.run_id for each in select(iter(rows), wanted, NOW)] == ["r1"]
    (asked,) = predicates_of(wanted)
    assert asked["stringValues"]["values"] == ["CANCELED", "FAILED"]  # KFP calls a terminated run failed
    assert predicates_of(RunQuery()) == []


def test_no_more_is_asked_for_than_is_shown() -> None:
    assert page_size(RunQuery(limit=20)) == 20 and page_size(RunQuery(limit=5000)) == 200


@pytest.fixture
def full(kubeflow: Kubeflow) -> Kubeflow:
    kubeflow.profile()
    experiment = kubeflow.world.experiment("ev-battery-dev")["experiment_id"]
    kubeflow.world.synthetic = Synthetic(MANY, experiment)
    return kubeflow


def test_the_first_page_of_a_hundred_thousand_runs_comes_within_a_second(full: Kubeflow) -> None:
    backend = full.backend()
    backend.list(RunQuery(limit=1))
    full.api.requests.clear()
    began = time.perf_counter()
    found = backend.list(RunQuery())
    assert time.perf_counter() - began < 1
    assert [each.name for each in found] == [f"synthetic-{at}" for at in range(20)]
    assert len(full.api.requests) == 2  # the experiment, and one page


class Pages:
    """The API's answers without a server, whose own memory would be counted too."""

    def __init__(self, runs: int) -> None:
        self.runs = Synthetic(runs, "e", details=2)

    def request(self, method: str, path: str, *, query: Any = None, body: Any = None, raw: bool = False) -> Any:
        if path.endswith("/healthz"):
            return {}
        if path.endswith("/experiments"):
            return {"experiments": [{"experiment_id": "e"}]}
        start = int(query.get("page_token") or 0)
        stop = min(start + int(query["page_size"]), len(self.runs))
        page = json.loads(json.dumps([self.runs[at] for at in range(start, stop)]))
        return {"runs": page, **({"next_page_token": str(stop)} if stop < len(self.runs) else {})}


def test_memory_does_not_grow_with_the_runs_that_are_looked_through(kubeflow: Kubeflow) -> None:
    def peak(runs: int) -> int:
        backend = KubeflowBackend(kubeflow.profile(), Pages(runs))
        tracemalloc.start()
        # nothing matches, so every page is looked through
        assert not backend.list(RunQuery(states=frozenset({RunState.CANCELED}), limit=5))
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    peak(400)
    assert peak(3_000) < 1.2 * peak(600)


def test_filters_reach_the_rows(full: Kubeflow, evctl: Evctl) -> None:
    code, out, err = evctl("runs", "--env", "dev", "--state", "FAILED", "--limit", "3", "-o", "json")
    assert code == 0, err
    assert [each["name"] for each in json.loads(out)["runs"]] == ["synthetic-9", "synthetic-19", "synthetic-29"]
    assert {each["experiment"] for each in json.loads(out)["runs"]} == {"ev-battery-dev"}
    assert evctl("runs", "--env", "dev", "--limit", "2", "-q")[1].split() == [
        full.world.synthetic[0]["run_id"], full.world.synthetic[1]["run_id"],
    ]  # fmt: skip
    assert json.loads(evctl("runs", "--env", "dev", "--since", "1m", "-o", "json")[1]) == {"runs": []}


def test_more_runs_than_a_page_holds_come_once_each_and_newest_first(full: Kubeflow) -> None:
    found = full.backend().list(RunQuery(limit=450))
    assert [each.name for each in found] == [f"synthetic-{at}" for at in range(450)]


def test_a_server_that_cannot_filter_by_state_is_looked_through(full: Kubeflow, evctl: Evctl) -> None:
    def refuses(handler: Any, method: str, path: str) -> bool:
        if path.endswith("/runs") and "filter" in full.api.requests[-1].query:
            handler.reply(400, {"code": 3, "message": "no such field: state"})
            return True
        return False

    full.api.faults.append(refuses)
    code, out, _ = evctl("runs", "--env", "dev", "--state", "FAILED", "--limit", "2", "-o", "json")
    assert code == 0
    assert [each["name"] for each in json.loads(out)["runs"]] == ["synthetic-9", "synthetic-19"]


def test_an_environment_without_an_experiment_has_no_runs(kubeflow: Kubeflow, evctl: Evctl) -> None:
    kubeflow.profile()
    code, out, _ = evctl("runs", "--env", "dev", "-o", "json")
    assert code == 0 and json.loads(out) == {"runs": []}


def test_a_page_that_is_refused_is_an_error_and_no_short_list(full: Kubeflow, evctl: Evctl) -> None:
    real = full.world.list_runs

    def broken(query: Any) -> Any:
        if query.get("page_token"):
            raise Refusal(403, {"code": 7, "message": "not yours", "details": []})
        return real(query)

    full.world.list_runs = broken  # type: ignore[method-assign]
    assert evctl("runs", "--env", "dev", "--limit", "300")[0] == 4


def test_a_server_whose_clock_is_an_hour_ahead_hides_and_shows_nothing_by_it(
    kubeflow: Kubeflow, evctl: Evctl, monkeypatch: pytest.MonkeyPatch
) -> None:
    kubeflow.profile()
    experiment = kubeflow.world.experiment("ev-battery-dev")["experiment_id"]
    ahead = datetime.now(UTC) + timedelta(hours=1)
    monkeypatch.setattr(Handler, "date_time_string", lambda self, at=None: format_datetime(ahead, usegmt=True))
    for name, age in (("young", timedelta(minutes=10)), ("old", timedelta(minutes=50))):
        run_id = kubeflow.world.recorded("succeeded", run_id=str(uuid.uuid4()), experiment=experiment)
        kubeflow.world.run(run_id).document |= {"display_name": name, "created_at": stamp(ahead - age)}
    _, out, _ = evctl("runs", "--env", "dev", "--since", "30m", "-o", "json")
    assert [each["name"] for each in json.loads(out)["runs"]] == ["young"]
