"""Promotion of KServe's service on a real API server, with KServe's side played from the recorded timelines."""

from __future__ import annotations

import pytest

from evctl.errors import FailedError
from evctl.rollout.promotion import deploy, rollback
from tests.cluster.stage import CREATE, GOOD, Stage

BACK = "6_rollback_after_corrupt"


@pytest.fixture
def serving(stage: Stage) -> Stage:
    """Model a serves, promoted."""
    stage.plays("a", CREATE, BACK)
    stage.start()
    stage.promote("a")
    return stage


def test_a_first_promotion_makes_the_service_and_its_runtime_named_by_content(stage: Stage) -> None:
    stage.plays("a", CREATE)
    stage.start()
    done = stage.promote("a", run_id="run-7")
    assert (done.changed, done.revision, done.previous) == (True, 1, None)
    service = stage.service()
    notes, model = service["metadata"]["annotations"], service["spec"]["predictor"]["model"]
    assert model["storageUri"] == stage.models["a"].uri
    assert model["runtime"].startswith("ev-battery-")
    assert (notes["evctl/digest"], notes["evctl/revision"]) == (stage.models["a"].digest, "1")
    assert notes["evctl/data-version"] == "v0"
    assert stage.statuses() == ["live"]


def test_a_good_update_is_done_when_the_new_pod_is_ready_and_not_before(serving: Stage) -> None:
    serving.plays("b", GOOD)
    done = serving.promote("b")
    assert (done.changed, done.revision, done.previous) == (True, 2, serving.models["a"].version)
    assert serving.statuses() == ["superseded", "live"]
    ready = serving.when(lambda frame: frame["t"] == 16.0)
    assert serving.frames[-1][0] >= ready, "KServe's Ready at 0.6 s and 4.8 s were no proof"


def test_the_same_model_again_is_unchanged(serving: Stage) -> None:
    assert serving.promote("a").changed is False
    assert serving.statuses() == ["live"]


@pytest.mark.parametrize(
    ("timeline", "back", "reason"),
    [
        ("3_update_bad_uri", "4_rollback_after_bad_uri", "storage-initializer failed"),
        ("5_update_corrupt", "6_rollback_after_corrupt", "kserve-container ended twice"),
    ],
)
def test_a_model_whose_pod_fails_is_taken_back_and_the_one_before_proved(
    timeline: str, back: str, reason: str, stage: Stage
) -> None:
    stage.plays("a", CREATE, back)
    stage.plays("b", timeline)
    stage.start()
    stage.promote("a")
    with pytest.raises(FailedError) as failure:
        stage.promote("b")
    assert reason in failure.value.message
    assert f"{stage.models['a'].version} serves again, proved" in failure.value.message
    assert stage.statuses() == ["live", "failed"]
    assert stage.service()["metadata"]["annotations"]["evctl/revision"] == "1"


def test_an_empty_folder_that_looks_ready_is_found_by_the_golden_request(stage: Stage) -> None:
    stage.plays("a", CREATE, "8_back_to_v1")
    stage.plays("b", "7_update_empty_dir")
    stage.server.ways[stage.models["b"].uri] = "empty"
    stage.start()
    stage.promote("a")
    with pytest.raises(FailedError, match=r"not ready \(404\).*serves again, proved"):
        stage.promote("b")
    assert stage.server.active == stage.models["a"].uri


@pytest.mark.parametrize(
    ("way", "reason"),
    [("wrong", "golden rows differ by 0.25"), ("other", "model v0-000000000000 answers"), ("silent", "no upstream")],
)
def test_a_pod_that_is_ready_but_answers_wrong_is_taken_back(way: str, reason: str, serving: Stage) -> None:
    serving.plays("b", GOOD)
    serving.server.ways[serving.models["b"].uri] = way
    with pytest.raises(FailedError, match=reason):
        serving.promote("b")
    assert serving.statuses() == ["live", "failed"]


def test_a_rollback_is_a_new_revision_of_the_recorded_release(serving: Stage) -> None:
    serving.plays("b", GOOD)
    serving.promote("b")
    done = rollback(serving.target, serving.world(), by="anna")
    assert (done.revision, done.model, done.previous) == (
        3, serving.models["a"].version, serving.models["b"].version,
    )  # fmt: skip
    assert serving.statuses() == ["superseded", "rolled_back", "live"]


def test_a_deleted_service_is_made_again_by_rollback_and_by_start(serving: Stage) -> None:
    serving.plays("b", GOOD)
    serving.plays("a", CREATE)
    serving.promote("b")
    base = f"/apis/serving.kserve.io/v1beta1/namespaces/{serving.target.namespace}/inferenceservices"
    serving.api().delete(f"{base}/{serving.target.name}")
    assert serving.world().read().state == "absent"
    assert rollback(serving.target, serving.world(), by="anna").model == serving.models["a"].version
    assert serving.world().read().digest == serving.models["a"].digest


def test_a_first_model_that_fails_leaves_no_service_behind(stage: Stage) -> None:
    stage.plays("b", "5_update_corrupt")
    stage.start()
    with pytest.raises(FailedError, match="nothing served before"):
        stage.promote("b")
    assert stage.world().read().state == "absent"


def test_the_pipelines_deploy_step_is_the_same_promotion(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stage.plays("a", CREATE)
    stage.start()
    monkeypatch.setenv("KUBECONFIG", str(stage.kubeconfig))
    service = {**stage.target.settings, "store": dict(stage.target.store)}
    done = deploy(service, stage.models["a"].uri, "run-9", "pipeline prod")
    assert (done["changed"], done["model"]) == (True, stage.models["a"].version)
    assert "golden rows answered as recorded" in capsys.readouterr().out
    release = stage.world().ledger().read()[0].live
    assert release
    assert (release.run_id, release.by) == ("run-9", "pipeline prod")


def test_an_embedded_profiles_predictor_brings_its_source_in_its_runtime(stage: Stage) -> None:
    stage.plays("a", CREATE)
    stage.start()
    stage.promote_in(stage.world(image=None, stock_image="python:3.11-slim"), "a")
    name = stage.service()["spec"]["predictor"]["model"]["runtime"]
    base = f"/apis/serving.kserve.io/v1alpha1/namespaces/{stage.target.namespace}/servingruntimes"
    container = stage.api().get(f"{base}/{name}")["spec"]["containers"][0]
    assert container["image"] == "python:3.11-slim"
    assert "kserve==" in container["command"][-1]
    assert any("installs its packages at each start" in line for line in stage.told)
