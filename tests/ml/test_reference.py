"""The reference profile of a real fleet and model: small, nobody's, and calibrated so that it neither cries nor sleeps."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import joblib
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from ev_ml.drift import DriftConfig, DriftReport, compare
from ev_ml.drift_profile import DriftProfile
from ev_ml.features import generate
from ev_ml.reference import Predict, ReferenceProfile
from ev_ml.reference_of import reference_document
from ev_ml.simulate import fleet, simulate
from ev_ml.validate import validate
from tests.ml.conftest import Trained

WEEK_MS = 7 * 86_400_000


@pytest.fixture(scope="module")
def document(trained_fleet: Trained) -> dict[str, object]:
    return reference_document(trained_fleet.features, trained_fleet.model)


def weeks_of(version: str, folder: Path, draws: int) -> Iterator[pa.Table]:
    """Yield single weeks of most vehicles of another fleet, drawn at random."""
    simulate(fleet(version, vehicles=80, seed=4242), folder / "raw.parquet")
    validate(folder / "raw.parquet", folder / "clean.parquet")
    generate(folder / "clean.parquet", folder / "features.parquet")
    table = pq.read_table(folder / "features.parquet")
    week = table["session_start"].cast(pa.int64()).to_numpy() // WEEK_MS
    names = np.unique(table["vehicle_id"].to_pylist())
    weeks = [w for w in np.unique(week) if np.count_nonzero(week == w) >= 2 * len(names)]
    rng = np.random.default_rng(0)
    for _ in range(draws):
        some = pc.is_in(table["vehicle_id"], pa.array(rng.choice(names, 70, replace=False)))
        yield table.filter(pc.and_(some, pa.array(week == rng.choice(weeks)))).combine_chunks()


def week_verdicts(document: dict[str, object], trained: Trained, version: str, folder: Path, draws: int) -> list[str]:
    """Check such weeks with the model's score."""
    reference, model = ReferenceProfile.from_json(document), joblib.load(trained.model)
    return [report(reference, week, model.predict_proba).verdict for week in weeks_of(version, folder, draws)]


def report(reference: ReferenceProfile, table: pa.Table, predict: Predict | None = None) -> DriftReport:
    profile = DriftProfile(reference)
    for batch in table.to_batches():
        profile.add(batch, predict)
    return compare(reference, profile, DriftConfig(min_rows=100))


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


@pytest.mark.parametrize("name", ["current_rms_a", "soc_span_pct", "insulation_mean_kohm", "volt_per_soc"])
def test_half_a_deviation_in_one_feature_is_found_in_a_week_that_drove_and_charged_otherwise(
    document: dict[str, object], tmp_path: Path, name: str
) -> None:
    reference = ReferenceProfile.from_json(document)
    std = next(column.std for column in reference.features if column.name == name)
    for week in weeks_of("v1", tmp_path, draws=4):
        moved = pa.array(week[name].to_numpy() + 0.5 * std)
        found = report(reference, week.set_column(week.schema.get_field_index(name), name, moved))
        assert next(feature for feature in found.features if feature.name == name).drifted


def test_every_week_of_the_winter_fleet_is_drift(
    document: dict[str, object], trained_fleet: Trained, tmp_path: Path
) -> None:
    assert set(week_verdicts(document, trained_fleet, "v3", tmp_path, draws=20)) == {"DRIFT"}


def test_parts_of_a_fleet_merge_to_the_same_counts_of_each_kind(document: dict[str, object], tmp_path: Path) -> None:
    reference = ReferenceProfile.from_json(document)
    [week] = weeks_of("v1", tmp_path, draws=1)
    whole, merged = DriftProfile(reference), DriftProfile(reference)
    for batch in week.to_batches():
        whole.add(batch)
    for start in range(0, week.num_rows, 37):
        part = DriftProfile(reference)
        for batch in week.slice(start, 37).to_batches():
            part.add(batch)
        merged.merge(part)
    assert merged.counts() == whole.counts()
    assert whole.counts()["kinds"]
