from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import joblib
import pytest

from ev_ml.bundle import (
    DigestMismatch,
    GoldenMismatch,
    IncompleteBundle,
    Manifest,
    VersionMismatch,
    build,
    check_golden,
    load,
    verify,
)
from ev_ml.evaluate import evaluate
from ev_ml.train import load_features
from tests.ml.conftest import Trained

REFERENCE = {"schema_version": 1}


def bundle(folder: Path, trained_fleet: Trained, evaluation: dict, run_id: str = "run-1") -> Manifest:
    return build(
        folder,
        model=trained_fleet.model,
        features=trained_fleet.features,
        evaluation=evaluation,
        reference=REFERENCE,
        provenance={"data_version": "v1", "run_id": run_id},
    )


@pytest.fixture(scope="module")
def evaluation(trained_fleet: Trained) -> dict:
    return dataclasses.asdict(evaluate(trained_fleet.model, trained_fleet.features))


@pytest.fixture
def folder(tmp_path: Path, trained_fleet: Trained, evaluation: dict) -> Path:
    bundle(tmp_path / "bundle", trained_fleet, evaluation)
    return tmp_path / "bundle"


def test_a_bundle_loads_and_answers_as_the_model_did(folder: Path, trained_fleet: Trained) -> None:
    loaded = load(folder)
    rows = load_features(trained_fleet.features).head(20)
    assert (loaded.model.predict_proba(rows) == joblib.load(trained_fleet.model).predict_proba(rows)).all()
    assert loaded.manifest.version == f"v1-{loaded.manifest.digest[:12]}"
    assert set(loaded.manifest.versions) >= {"python", "scikit-learn", "numpy", "joblib", "pandas"}


def test_the_run_that_built_it_does_not_change_the_version(
    tmp_path: Path, trained_fleet: Trained, evaluation: dict
) -> None:
    first = bundle(tmp_path / "a", trained_fleet, evaluation, "run-1")
    second = bundle(tmp_path / "b", trained_fleet, evaluation, "run-2")
    assert first.version == second.version
    assert first.provenance["run_id"] != second.provenance["run_id"]


def test_no_vehicle_is_named_in_a_bundle(folder: Path, trained_fleet: Trained) -> None:
    vehicle = load_features(trained_fleet.features)["vehicle_id"].iloc[0]
    for path in folder.iterdir():
        assert vehicle.encode() not in path.read_bytes()


@pytest.mark.parametrize("name", ["model.joblib", "golden.json", "reference.json", "manifest.json"])
def test_a_missing_file_makes_it_incomplete(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(IncompleteBundle):
        verify(folder)


@pytest.mark.parametrize("name", ["model.joblib", "golden.json", "reference.json"])
def test_a_changed_file_is_found_before_anything_is_unpickled(
    folder: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("unpickled")

    (folder / name).write_bytes((folder / name).read_bytes() + b" ")
    monkeypatch.setattr(joblib, "load", refuse)
    with pytest.raises(DigestMismatch, match=name):
        load(folder)


def test_a_manifest_with_another_schema_does_not_pass(folder: Path) -> None:
    document = json.loads((folder / "manifest.json").read_text())
    document["features"][0]["unit"] = "mV"
    (folder / "manifest.json").write_text(json.dumps(document))
    with pytest.raises(DigestMismatch):
        verify(folder)


def test_another_scikit_learn_is_refused(folder: Path) -> None:
    document = json.loads((folder / "manifest.json").read_text())
    document["versions"]["scikit-learn"] = "1.5.2"
    (folder / "manifest.json").write_text(json.dumps(document))
    with pytest.raises(VersionMismatch, match=r"1\.5\.2"):
        load(folder)


def test_a_torn_manifest_is_no_bundle(folder: Path) -> None:
    (folder / "manifest.json").write_text('{"name": "ev')
    with pytest.raises(IncompleteBundle, match="not readable"):
        verify(folder)


def test_a_model_that_answers_otherwise_fails_its_golden_rows(folder: Path) -> None:
    loaded = load(folder)
    golden = json.loads((folder / "golden.json").read_text())
    golden["probabilities"][0] = golden["probabilities"][0][::-1]
    (folder / "golden.json").write_text(json.dumps(golden))
    with pytest.raises(GoldenMismatch):
        check_golden(loaded, folder)
