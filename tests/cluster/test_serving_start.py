"""`evctl serving start` on the cluster: the live release again, or nothing at all."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import obstore
import pytest

from evctl.errors import EvctlError, FailedError, NotFoundError
from evctl.rollout.promotion import rollback, switch
from evctl.rollout.serving.base import ProofError
from evctl.rollout.serving.kserve import ClusterWorld
from evctl.rollout.store import Store
from tests.cluster.stage import CREATE, Stage

FILES = ("manifest.json", "golden.json", "model.joblib")
EMPTIED = [
    (FILES, 3, "holds no finished model"),
    (FILES[1:2], 5, "lacks golden.json: it was emptied"),
    (FILES[2:], 5, "lacks model.joblib: it was emptied"),
]


def path(stage: Stage) -> str:
    base = f"/apis/serving.kserve.io/v1beta1/namespaces/{stage.target.namespace}/inferenceservices"
    return f"{base}/{stage.target.name}"


def empty(stage: Stage, model: str, *files: str) -> None:
    store = Store(stage.target.store)
    keys = [stage.models[model].uri.removeprefix(store.uri) + name for name in files]
    obstore.delete(store._store, [store._prefix + key for key in keys])


def start(stage: Stage) -> None:
    switch(stage.target, stage.world(), on=True, by="anna", tell=stage.told.append)


@pytest.fixture
def deleted(serving: Stage) -> Stage:
    """Model a was promoted, and somebody deleted its service."""
    serving.plays("a", CREATE)
    serving.api().delete(path(serving))
    return serving


def test_a_service_that_was_deleted_is_made_again_proved(deleted: Stage) -> None:
    start(deleted)
    now = deleted.world().read()
    assert (now.state, now.digest) == ("serving", deleted.models["a"].digest)


@pytest.mark.parametrize(("files", "code", "reason"), EMPTIED)
def test_a_release_whose_model_the_store_has_no_more_is_told_before_anything_is_written(
    files: tuple[str, ...], code: int, reason: str, deleted: Stage
) -> None:
    empty(deleted, "a", *files)
    with pytest.raises(EvctlError, match=reason) as told:
        start(deleted)
    with pytest.raises(NotFoundError):
        deleted.service()
    assert told.value.exit_code == code
    assert told.value.hint == "evctl models list, then evctl promote one of them"
    assert deleted.statuses() == ["live"]


@pytest.mark.parametrize(("files", "code", "reason"), EMPTIED)
def test_a_rollback_to_such_a_release_changes_nothing_either(
    files: tuple[str, ...], code: int, reason: str, serving: Stage
) -> None:
    serving.promote("b")
    before = serving.service()["metadata"]["generation"]
    empty(serving, "a", *files)
    with pytest.raises(EvctlError, match=reason) as told:
        rollback(serving.target, serving.world(), by="anna")
    assert serving.statuses() == ["superseded", "live"]
    assert serving.service()["metadata"]["generation"] == before
    assert told.value.exit_code == code


def test_a_service_that_start_made_and_that_does_not_prove_itself_is_deleted_again(deleted: Stage) -> None:
    deleted.plays("a", "5_update_corrupt")
    with pytest.raises(FailedError, match="kserve-container ended twice") as told:
        start(deleted)
    version, name = deleted.models["a"].version, deleted.target.name
    assert told.value.message.startswith(f"{version} was not started: ")
    assert told.value.message.endswith(f"; InferenceService {name}, made for it, was deleted again")
    assert told.value.hint == "evctl serving start tries it again; evctl rollback and evctl promote bring another model"
    with pytest.raises(NotFoundError):
        deleted.service()
    assert deleted.statuses() == ["live"]


def test_a_service_that_stood_before_start_is_left_where_it_does_not_prove_itself(serving: Stage) -> None:
    live = serving.world().ledger().read()[0].live
    assert live
    serving.server.ways[live.uri] = "wrong"
    with pytest.raises(ProofError, match="golden rows differ"):
        serving.world().start(live)
    assert serving.service()["metadata"]["annotations"]["evctl/revision"] == "1"


@pytest.mark.parametrize("way", ["changed", "made anew"])
def test_a_service_that_somebody_else_changed_meanwhile_is_left_as_it_is(
    way: str, deleted: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    def prove(world: ClusterWorld, *args: Any, **options: Any) -> Iterator[str]:
        api, made = deleted.api(), deleted.service()
        if way == "changed":
            api.patch(path(deleted), {"spec": {"predictor": {"minReplicas": 2}}}, fieldManager="bob")
        else:
            kept = {key: made["metadata"][key] for key in ("name", "namespace", "annotations")}
            api.delete(path(deleted))
            api.create(path(deleted).rpartition("/")[0], {**made, "metadata": kept, "status": {}})
        yield "waiting"
        raise ProofError("it does not answer")

    monkeypatch.setattr(ClusterWorld, "prove", prove)
    with pytest.raises(
        FailedError, match=r"it does not answer; InferenceService .* was changed by .* meanwhile"
    ) as told:
        start(deleted)
    assert told.value.message.endswith("; it was left as it is")
    assert told.value.hint == "evctl serving; evctl history"
    assert deleted.service()["metadata"]["annotations"]["evctl/revision"] == "1"
