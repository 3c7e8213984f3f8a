from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import joblib
import numpy as np
import pandas as pd
import pytest

from ev_ml.errors import DataError
from ev_ml.evaluate import LeakageError, assert_disjoint, evaluate, judge
from ev_ml.split import held_out_vehicles, vehicle_key
from ev_ml.train import fit, load_features, train
from tests.ml.conftest import Trained


def test_the_split_does_not_depend_on_the_order_of_the_rows(trained_fleet: Trained) -> None:
    frame = load_features(trained_fleet.features)
    assert held_out_vehicles(frame) == held_out_vehicles(frame.sample(frac=1.0, random_state=3))


def test_each_fault_has_vehicles_on_both_sides_of_the_split(trained_fleet: Trained) -> None:
    frame = load_features(trained_fleet.features)
    held = frame["vehicle_id"].isin(held_out_vehicles(frame))
    assert set(frame.loc[held, "label"]) == set(frame.loc[~held, "label"]) == set(frame["label"])
    assert 0.15 < frame.loc[held, "vehicle_id"].nunique() / frame["vehicle_id"].nunique() < 0.35


def test_one_vehicle_cannot_be_split(trained_fleet: Trained) -> None:
    frame = load_features(trained_fleet.features)
    with pytest.raises(DataError, match="cannot be split"):
        held_out_vehicles(frame[frame["vehicle_id"] == frame["vehicle_id"].iloc[0]])


def test_a_small_fleet_s_model_beats_the_commonest_class_by_far(trained_fleet: Trained) -> None:
    found = evaluate(trained_fleet.model, trained_fleet.features)
    frame = load_features(trained_fleet.features)
    commonest = frame["label"].value_counts(normalize=True).iloc[0]
    assert found.accuracy > commonest + 0.1
    assert found.recall > 0.5


def test_a_model_on_shuffled_labels_fails_the_gate(trained_fleet: Trained, tmp_path: Path) -> None:
    frame = pd.read_parquet(trained_fleet.features)
    frame["label"] = np.random.default_rng(0).permutation(frame["label"].to_numpy())
    frame.to_parquet(tmp_path / "shuffled.parquet")
    train(tmp_path / "shuffled.parquet", tmp_path / "model.joblib")
    found = evaluate(tmp_path / "model.joblib", tmp_path / "shuffled.parquet")
    assert found.accuracy < 0.90
    assert found.recall < 0.3


def test_the_same_features_give_the_same_model_file_in_any_process(trained_fleet: Trained, tmp_path: Path) -> None:
    code = "import sys; from pathlib import Path; from ev_ml.train import train; train(*map(Path, sys.argv[1:]))"
    again = tmp_path / "model.joblib"
    subprocess.run(
        [sys.executable, "-c", code, str(trained_fleet.features), str(again)],
        check=True,
        env={**os.environ, "PYTHONHASHSEED": "7"},
        capture_output=True,
    )
    first, second = (hashlib.sha256(p.read_bytes()).hexdigest() for p in (trained_fleet.model, again))
    assert first == second


def test_the_model_remembers_its_vehicles_by_keys_only(trained_fleet: Trained) -> None:
    model = joblib.load(trained_fleet.model)
    frame = load_features(trained_fleet.features)
    held = held_out_vehicles(frame)
    seen = set(frame["vehicle_id"]) - held
    assert model.training_vehicles == {vehicle_key(v) for v in seen}
    assert not model.training_vehicles & seen


def test_a_held_out_vehicle_that_was_trained_on_is_told(trained_fleet: Trained) -> None:
    model = joblib.load(trained_fleet.model)
    frame = load_features(trained_fleet.features)
    seen = next(iter(set(frame["vehicle_id"]) - held_out_vehicles(frame)))
    with pytest.raises(LeakageError, match="1 held-out vehicle"):
        assert_disjoint(model, frozenset({seen}))


def test_probabilities_are_calibrated_and_thresholds_are_per_class(trained_fleet: Trained) -> None:
    model = joblib.load(trained_fleet.model)
    frame = load_features(trained_fleet.features).head(50)
    found = model.predict_proba(frame)
    assert found.shape == (50, len(model.classes))
    np.testing.assert_allclose(found.sum(axis=1), 1.0)
    assert set(model.thresholds) == set(model.classes)
    assert all(0 < cut < 1 for cut in model.thresholds.values())


def test_an_evaluation_survives_json_and_stays_small(trained_fleet: Trained) -> None:
    model = joblib.load(trained_fleet.model)
    frame = load_features(trained_fleet.features)
    test = frame[frame["vehicle_id"].isin(held_out_vehicles(frame))].reset_index(drop=True)
    found = judge(model, test)
    text = found.to_json()
    assert type(found).from_json(text) == found
    assert len(text) < 200_000
    assert len(found.roc) <= 200 and len(found.pr) <= 200
    assert sum(map(sum, found.confusion)) == len(test) == found.sessions
    for each in found.per_class.values():
        assert each["low"] <= each["recall"] <= each["high"]


def write(frame: pd.DataFrame, path: Path) -> Path:
    frame.to_parquet(path)
    return path


def test_one_class_only_is_refused(trained_fleet: Trained, tmp_path: Path) -> None:
    frame = pd.read_parquet(trained_fleet.features).assign(label="healthy")
    with pytest.raises(DataError, match="healthy"):
        train(write(frame, tmp_path / "f.parquet"), tmp_path / "m.joblib")
    assert not (tmp_path / "m.joblib").exists()


def test_no_labels_are_refused(trained_fleet: Trained, tmp_path: Path) -> None:
    frame = pd.read_parquet(trained_fleet.features).assign(label=None)
    with pytest.raises(DataError, match="no session has a label"):
        train(write(frame, tmp_path / "f.parquet"), tmp_path / "m.joblib")


def test_a_fault_of_too_few_vehicles_is_named(trained_fleet: Trained) -> None:
    frame = load_features(trained_fleet.features)
    rare = frame[frame["label"] == "sensor_fault"]["vehicle_id"].unique()
    with pytest.raises(DataError, match=r"'sensor_fault' has 1 vehicle"):
        fit(frame[~frame["vehicle_id"].isin(rare[1:])])


def test_too_few_vehicles_are_refused(trained_fleet: Trained) -> None:
    frame = load_features(trained_fleet.features)
    some = frame["vehicle_id"].unique()[:3]
    with pytest.raises(DataError, match="at least 6"):
        fit(frame[frame["vehicle_id"].isin(some)])


def test_a_file_that_is_no_features_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "f.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(DataError, match="not a readable Parquet"):
        train(tmp_path / "f.parquet", tmp_path / "m.joblib")
    with pytest.raises(DataError, match="lacks label"):
        train(write(pd.DataFrame({"vehicle_id": ["a"]}), tmp_path / "g.parquet"), tmp_path / "m.joblib")
