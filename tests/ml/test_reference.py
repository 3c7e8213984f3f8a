"""The reference profile of a real fleet and model: small, nobody's, and calibrated so that it neither cries nor sleeps."""

from __future__ import annotations

import json
import re
from pathlib import Path

import joblib
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from ev_ml.drift import DriftConfig, compare
from ev_ml.drift_profile import profile_of
from ev_ml.features import generate
from ev_ml.reference import ReferenceProfile
from ev_ml.reference_of import reference_document
from ev_ml.simulate import fleet, simulate
from ev_ml.validate import validate
from tests.ml.conftest import Trained

WEEK_MS = 7 * 86_400_000


@pytest.fixture(scope="module")
def document(trained_fleet: Trained) -> dict[str, object]:
    return reference_document(trained_fleet.features, trained_fleet.model)


def week_verdicts(document: dict[str, object], trained: Trained, version: str, folder: Path, draws: int) -> list[str]:
    """Check single weeks of half the vehicles of another fleet, drawn at random."""
    reference, model = ReferenceProfile.from_json(document), joblib.load(trained.model)
    simulate(fleet(version, vehicles=80, seed=4242), folder / "raw.parquet")
    validate(folder / "raw.parquet", folder / "clean.parquet")
    generate(folder / "clean.parquet", folder / "features.parquet")
    table = pq.read_table(folder / "features.parquet")
    week = table["session_start"].cast(pa.int64()).to_numpy() // WEEK_MS
    names = np.unique(table["vehicle_id"].to_pylist())
    weeks = [w for w in np.unique(week) if np.count_nonzero(week == w) >= 2 * len(names)]
    rng, verdicts = np.random.default_rng(0), []
    for _ in range(draws):
        some = pc.is_in(table["vehicle_id"], pa.array(rng.choice(names, 70, replace=False)))
        pq.write_table(table.filter(pc.and_(some, pa.array(week == rng.choice(weeks)))), folder / "week.parquet")
        found = profile_of(folder / "week.parquet", reference, predict=model.predict_proba)
        verdicts.append(compare(reference, found, DriftConfig(min_rows=100)).verdict)
    return verdicts


def test_a_fleets_reference_is_small_and_names_no_vehicle_and_no_session(
    document: dict[str, object], trained_fleet: Trained
) -> None:
    text = json.dumps(document)
    assert len(text) < 200_000
    table = pq.read_table(trained_fleet.features)
    for column in ("vehicle_id", "session_id"):
        known = {str(value) for value in table[column].unique().to_pylist()}
        assert not known & set(re.findall(r'"([^"]*)"', text))
    assert not any(str(value) in text for value in table["vehicle_id"].unique().to_pylist())


def test_a_fleets_reference_holds_no_row(document: dict[str, object], trained_fleet: Trained) -> None:
    """Of a feature that is different in every row only the bins' edges and the range are kept."""
    values = set(pq.read_table(trained_fleet.features)["spread_mean_v"].to_pylist())
    column = next(c for c in document["features"] if c["name"] == "spread_mean_v")  # type: ignore[attr-defined]
    numbers = {float(n) for n in re.findall(r"-?\d+\.\d+(?:e-?\d+)?", json.dumps(column))}
    assert len(values) > 2000
    assert len(values & numbers) <= 22


def test_its_thresholds_come_from_week_by_vehicle_blocks(document: dict[str, object], trained_fleet: Trained) -> None:
    """The odometer hardly moves within a vehicle, so a vehicle's rows together weigh as one."""
    reference = ReferenceProfile.from_json(document)
    columns = {column.name: column for column in reference.features}
    odometer = columns["odometer_km"].null
    blocks = len(np.unique(pq.read_table(trained_fleet.features)["vehicle_id"].to_pylist())) * reference.weeks
    assert odometer.block_rows == pytest.approx(reference.rows / blocks, rel=0.2)
    # one block's mean varies as one vehicle does: variance 1 on the scale of the fleet's deviations
    assert odometer.shift_var == pytest.approx(1.0, abs=0.25)
    assert columns["insulation_mean_kohm"].null.shift_var < odometer.shift_var


def test_undrifted_weeks_of_another_fleet_raise_no_false_alarm(
    document: dict[str, object], trained_fleet: Trained, tmp_path: Path
) -> None:
    verdicts = week_verdicts(document, trained_fleet, "v1", tmp_path, draws=50)
    assert sum(verdict != "OK" for verdict in verdicts) <= 1


def test_every_week_of_the_winter_fleet_is_drift(
    document: dict[str, object], trained_fleet: Trained, tmp_path: Path
) -> None:
    assert set(week_verdicts(document, trained_fleet, "v3", tmp_path, draws=20)) == {"DRIFT"}
