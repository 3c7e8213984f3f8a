"""Our client against the real ML Metadata 1.17: what it reads gives the trees and outputs that the recordings give."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from evctl.backends.base import Outputs, Run
from evctl.backends.kubeflow.artifacts import outputs_of
from evctl.backends.kubeflow.join import join
from evctl.backends.metadata.client import MetadataStore
from evctl.backends.metadata.values import RunMetadata
from evctl.errors import TimedOutError, UnavailableError
from tests.fakes import real_mlmd
from tests.fakes.mlmd_server import MlmdServer
from tests.kubeflow import recorded

pytestmark = pytest.mark.kubeflow
RECORDED = tuple(name for name in recorded.SITUATIONS if (recorded.ROOT / "runs" / name / "mlmd.json").exists())


@pytest.fixture(scope="module")
def store() -> Iterator[MetadataStore]:
    with real_mlmd.serving(recorded.ROOT / "runs") as host:
        client = MetadataStore(host, timeout_s=20)
        yield client
        client.close()


def seen(run: Run) -> list[Any]:
    # times are the store's own
    return [(t.path, t.name, t.state, t.kind, t.cached, t.attempts, t.reason, t.pod, t.note) for t in run.tasks]


def given(outputs: Outputs) -> Any:
    return outputs.parameters, [(a.task, a.name, a.type, a.uri, dict(a.metadata), a.store) for a in outputs.artifacts]


@pytest.mark.parametrize("name", RECORDED)
def test_the_real_store_gives_the_recorded_tree_and_outputs(name: str, store: MetadataStore) -> None:
    from_recording = recorded.situation(name)
    read = store.read(name)
    assert read is not None and from_recording.metadata is not None
    assert seen(join(replace(from_recording, metadata=read))) == seen(join(from_recording))
    expected = replace(from_recording.metadata, store=read.store)
    assert given(outputs_of("id", read)) == given(outputs_of("id", expected))


def test_a_run_that_no_driver_has_begun_is_none(store: MetadataStore) -> None:
    assert store.read("no-such-run") is None


def test_more_executions_than_a_page_holds_all_come(store: MetadataStore, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = store.read("succeeded")
    monkeypatch.setattr("evctl.backends.metadata.client.PAGE", 2)
    monkeypatch.setattr("evctl.backends.metadata.client.IDS_AT_ONCE", 3)
    paged = store.read("succeeded")
    assert isinstance(whole, RunMetadata) and paged == whole
    assert whole.requests == 4 and paged is not None and paged.requests > 8


def test_artifacts_are_left_out_where_the_requests_for_them_are_not_to_be_had(
    store: MetadataStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    within = store.read("succeeded", within=4)
    assert within is not None and within.artifacts and within.requests == 4
    monkeypatch.setattr("evctl.backends.metadata.client.PAGE", len(within.executions) - 1)
    without = store.read("succeeded", within=4)
    assert without is not None and without.executions == within.executions
    assert without.artifacts == {} and without.requests == 3


def test_a_store_that_is_gone_is_told_in_time() -> None:
    client = MetadataStore("127.0.0.1:9", timeout_s=1)
    with pytest.raises(UnavailableError, match="does not answer"):
        client.read("any")
    client.close()


def test_a_store_that_takes_its_time_with_each_request_is_given_up_as_a_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    class Slow(MlmdServer):
        def reply(self, method: str, request: Any) -> Any:
            time.sleep(0.4)
            return super().reply(method, request)

    monkeypatch.setattr("evctl.backends.metadata.client.READ_S", 1.0)
    answers = recorded.load("runs/succeeded/mlmd.json")
    with Slow(lambda _: answers, lambda: ["succeeded"]) as server:
        client = MetadataStore(server.host, timeout_s=0.9)
        began = time.monotonic()
        with pytest.raises(TimedOutError, match="does not answer: it timed out"):
            client.read("succeeded")
        assert time.monotonic() - began < 3
        client.close()
