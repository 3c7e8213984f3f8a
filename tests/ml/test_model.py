"""Training, the honest judgement, and the bundle."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, replace
from pathlib import Path

import joblib
import numpy as np
import pandas as pd
import pytest

from ev_ml import bundle
from ev_ml.errors import DataError
from ev_ml.evaluate import Evaluation, LeakageError, evaluate, judge
from ev_ml.reference_of import reference_document
from ev_ml.split import held_out_vehicles
from ev_ml.train import fit, load_features, train


@pytest.fixture(scope="module")
def trained(small_fleet: Path) -> Path:
    train(small_fleet / "features.parquet", small_fleet / "model.joblib")
    return small_fleet


@pytest.fixture(scope="module")
def built(trained: Path) -> Path:
    found = evaluate(trained / "model.joblib", trained / "features.parquet")
    bundle.build(
        trained / "bundle",
        model=trained / "model.joblib",
        features=trained / "features.parquet",
        evaluation=asdict(found),
        reference=reference_document(trained / "features.parquet", trained / "model.joblib"),
        provenance={"data_version": "v1", "run_id": "r"},
    )
    return trained / "bundle"


@pytest.mark.slow
def test_a_model_on_shuffled_labels_fails_the_gate_and_the_real_one_does_far_better(trained: Path) -> None:
    frame = load_features(trained / "features.parquet")
    held_out = held_out_vehicles(frame)
    inside = frame["vehicle_id"].isin(held_out)
    shuffled = frame[~inside].copy()
    shuffled["label"] = np.random.default_rng(0).permutation(shuffled["label"].to_numpy())
    nonsense = judge(fit(shuffled), frame[inside].reset_index(drop=True))
    real = evaluate(trained / "model.joblib", trained / "features.parquet")
    assert nonsense.accuracy < 0.80
    assert nonsense.recall < 0.2
    assert real.accuracy > nonsense.accuracy + 0.1


def test_the_split_does_not_depend_on_the_rows_order(small_fleet: Path) -> None:
    frame = load_features(small_fleet / "features.parquet")
    assert held_out_vehicles(frame) == held_out_vehicles(frame.sample(frac=1, random_state=1))


def test_a_model_that_has_seen_a_held_out_vehicle_is_not_judged(trained: Path, tmp_path: Path) -> None:
    model = joblib.load(trained / "model.joblib")
    frame = load_features(trained / "features.parquet")
    from ev_ml.split import vehicle_key

    leaky = replace(model, training_vehicles=frozenset(vehicle_key(v) for v in frame["vehicle_id"].unique()))
    joblib.dump(leaky, tmp_path / "leaky")
    with pytest.raises(LeakageError):
        evaluate(tmp_path / "leaky", trained / "features.parquet")


def test_one_class_only_is_a_clear_error(small_fleet: Path, tmp_path: Path) -> None:
    frame = pd.read_parquet(small_fleet / "features.parquet")
    frame[frame["label"] == "healthy"].to_parquet(tmp_path / "features")
    with pytest.raises(DataError, match="one class|label 'healthy'"):
        train(tmp_path / "features", tmp_path / "model")


def test_an_evaluation_survives_json(trained: Path) -> None:
    found = evaluate(trained / "model.joblib", trained / "features.parquet")
    assert Evaluation.from_json(found.to_json()) == found
    assert np.sum(found.confusion) == found.sessions


def test_a_bundle_verifies_loads_and_answers_its_golden_rows(built: Path) -> None:
    loaded = bundle.load(built)
    assert loaded.manifest.version == f"v1-{loaded.manifest.digest[:12]}"
    assert (built / "reference.json").stat().st_size < 1_000_000


@pytest.mark.parametrize("name", ["model.joblib", "golden.json", "reference.json"])
def test_one_flipped_byte_is_found_before_anything_is_unpickled(name: str, built: Path, tmp_path: Path) -> None:
    import shutil

    copy = tmp_path / "bundle"
    shutil.copytree(built, copy)
    content = bytearray((copy / name).read_bytes())
    content[len(content) // 2] ^= 1
    (copy / name).write_bytes(content)
    with pytest.raises(bundle.DigestMismatch, match=re.escape(name)):
        bundle.verify(copy)


def test_an_unfinished_bundle_and_one_of_other_versions_are_refused(built: Path, tmp_path: Path) -> None:
    import shutil

    with pytest.raises(bundle.IncompleteBundle):
        bundle.verify(tmp_path)
    copy = tmp_path / "bundle"
    shutil.copytree(built, copy)
    manifest = json.loads((copy / "manifest.json").read_text())
    manifest["versions"]["scikit-learn"] = "1.5.2"
    (copy / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(bundle.VersionMismatch, match=r"scikit-learn 1\.5\.2"):
        bundle.verify(copy)
