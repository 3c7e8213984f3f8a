"""ML Metadata's five calls: held against the fake, the real store of 1.17, and EVCTL_MLMD_HOST where it is set."""

from __future__ import annotations

import json
import os
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, replace

import pytest

from evctl.backends.kubeflow.artifacts import outputs_of
from evctl.backends.kubeflow.join import join
from evctl.backends.metadata.client import MetadataStore
from evctl.backends.metadata.values import RunMetadata
from tests.fakes import real_mlmd
from tests.fakes.kfp_life import load
from tests.fakes.mlmd_server import MlmdServer
from tests.kubeflow import recorded

pytestmark = pytest.mark.kubeflow
RECORDED = [name for name in recorded.SITUATIONS if (recorded.ROOT / "runs" / name / "mlmd.json").exists()]
HOSTS = ["fake", "real store", *(["cluster"] if os.environ.get("EVCTL_MLMD_HOST") else [])]


@dataclass(frozen=True)
class Store:
    client: MetadataStore
    runs: tuple[str, ...]
    recorded: bool


def answers(name: str) -> dict[str, object] | None:
    return dict(load(f"runs/{name}/mlmd.json")) if name in RECORDED else None


@pytest.fixture(scope="module", params=HOSTS)
def store(request: pytest.FixtureRequest) -> Iterator[Store]:
    if request.param == "fake":
        # two situations are the same run in two lives, and share ids: one of each
        apart = ("succeeded", "gate_refused", "retries_exhausted")
        with MlmdServer(lambda n: answers(n) if n in apart else None, lambda: list(apart)) as server:
            yield Store(MetadataStore(server.host), apart, True)
    elif request.param == "real store":
        with real_mlmd.serving(recorded.ROOT / "runs") as host:
            yield Store(MetadataStore(host, timeout_s=20), tuple(RECORDED), True)
    else:
        host = os.environ["EVCTL_KFP_HOST"].rstrip("/")
        request = urllib.request.Request(f"{host}/apis/v2beta1/runs?page_size=20&sort_by=created_at%20desc")
        if token := os.environ.get("EVCTL_KFP_TOKEN"):
            request.add_header("Authorization", f"Bearer {token}")
        with urllib.request.urlopen(request, timeout=20) as answer:
            runs = json.load(answer).get("runs", [])
        ended = tuple(run["run_id"] for run in runs if run["state"] == "SUCCEEDED")[:3]
        yield Store(MetadataStore(os.environ["EVCTL_MLMD_HOST"], timeout_s=20), ended, False)


def test_a_run_that_is_unknown_is_none_and_no_error(store: Store) -> None:
    assert store.client.read("00000000-0000-0000-0000-000000000000") is None


def test_a_run_has_a_root_and_every_task_lies_in_a_dag(store: Store) -> None:
    for run in store.runs:
        read = store.client.read(run)
        assert read is not None
        dags = {e.id for e in read.executions if e.is_dag}
        assert [e.task for e in read.executions if e.parent is None] == [""]
        assert all(e.parent in dags for e in read.executions if e.task)
        assert all(link.artifact in read.artifacts and link.name for link in read.links)


def test_pages_of_two_hold_the_same_as_one(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    if not store.runs:
        pytest.skip("the server has no run that succeeded")
    whole = store.client.read(store.runs[0])
    monkeypatch.setattr("evctl.backends.metadata.client.PAGE", 2)
    monkeypatch.setattr("evctl.backends.metadata.client.IDS_AT_ONCE", 3)
    paged = store.client.read(store.runs[0])
    assert whole is not None and paged is not None
    assert paged.executions == whole.executions and set(paged.links) == set(whole.links)


def test_what_was_recorded_is_read_back_as_the_same_tree_and_outputs(store: Store) -> None:
    for name in store.runs if store.recorded else ():
        read, known = store.client.read(name), recorded.situation(name)
        assert isinstance(read, RunMetadata) and known.metadata is not None
        mine, theirs = join(replace(known, metadata=read)), join(known)
        assert [(t.name, t.state, t.pod) for t in mine.tasks] == [(t.name, t.state, t.pod) for t in theirs.tasks]
        assert outputs_of("id", read).parameters == outputs_of("id", known.metadata).parameters
