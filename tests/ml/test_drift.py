from __future__ import annotations

import itertools
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ev_ml.drift import DriftConfig, DriftReport, compare
from ev_ml.drift_bins import inner_edges, tally
from ev_ml.drift_profile import DriftProfile, profile_of
from ev_ml.drift_stats import standardised
from ev_ml.errors import DataError
from ev_ml.reference import ReferenceProfile, ReferenceProfileError, build_reference
from tests.ml.drift_data import write_fleet

CONFIG = DriftConfig()
CLASSES = ("healthy", "internal_short")


def predict(frame):
    fault = 1 / (1 + np.exp(-3 * np.nan_to_num(frame["f00"].to_numpy())))
    return np.stack([1 - fault, fault], axis=1)


@pytest.fixture(scope="module")
def features(tmp_path_factory) -> Path:
    return write_fleet(tmp_path_factory.mktemp("reference") / "features.parquet", vehicles=256, weeks=4)


@pytest.fixture(scope="module")
def reference(features) -> ReferenceProfile:
    return build_reference(features, predict=predict, classes=CLASSES, units={"f03": "V"})


def check(reference, path, config=CONFIG, **kwargs) -> DriftReport:
    return compare(reference, profile_of(path, reference, predict=predict, **kwargs), config)


def test_a_reference_survives_its_file_and_stays_under_a_megabyte(reference, tmp_path):
    path = tmp_path / "reference.json"
    reference.write(path)
    assert ReferenceProfile.read(path) == reference
    assert path.stat().st_size < 1_000_000


def test_a_reference_holds_no_vehicle_ids_and_no_rows(reference, features):
    text = json.dumps(reference.to_json())
    assert "vehicle-0-" not in text
    values = pq.read_table(features, columns=["f00"])["f00"].to_numpy()
    kept = set(reference.features[0].edges) | {reference.features[0].low, reference.features[0].high}
    assert len(kept) <= 21
    assert len(kept) < len(values) / 50


def test_a_wide_reference_stays_under_a_megabyte(tmp_path):
    path = write_fleet(tmp_path / "f.parquet", vehicles=40, features=200)
    build_reference(path).write(tmp_path / "reference.json")
    assert (tmp_path / "reference.json").stat().st_size < 1_000_000


def test_the_score_reference_is_of_held_out_vehicles_only(features):
    found = build_reference(
        features,
        predict=predict,
        classes=CLASSES,
        held_out=lambda ids: np.array([str(i).endswith("7") for i in ids]),
    )
    assert found.score_vehicles == sum(str(i).endswith("7") for i in range(256))
    assert sum(found.score.counts) == found.score_vehicles * 24
    assert found.vehicles == 256


def test_counts_of_the_training_data_are_the_reference_itself(reference, features):
    profile = profile_of(features, reference, predict=predict)
    for column in reference.features:
        assert tuple(profile.features[column.name].counts) == column.counts
    assert tuple(profile.score.counts) == reference.score.counts
    assert profile.vehicles == reference.vehicles


def test_parts_merge_to_exactly_the_profile_of_the_whole(reference, tmp_path):
    path = write_fleet(
        tmp_path / "new.parquet",
        seed=5,
        change={"f00": lambda x: np.where(x > 1, np.nan, x), "f01": lambda x: x * 1000, "f02": lambda x: -x},
    )
    table = pq.read_table(path)
    whole = DriftProfile(reference)
    for batch in table.to_batches():
        whole.add(batch, predict)
    parts = []
    for start, stop in ((0, 7), (7, 900), (900, table.num_rows)):  # through the middle of vehicles
        part = DriftProfile(reference)
        for batch in table.slice(start, stop - start).to_batches(max_chunksize=333):
            part.add(batch, predict)
        parts.append(part)
    merged = DriftProfile(reference)
    for part in reversed(parts):
        merged.merge(part)
    assert merged.counts() == whole.counts()
    assert compare(reference, merged, CONFIG) == compare(reference, whole, CONFIG)
    threaded, single = profile_of(path, reference, threads=2), profile_of(path, reference, threads=1)
    assert threaded.counts() == single.counts()


@settings(max_examples=40, deadline=None)
@given(
    rows=st.lists(
        st.tuples(
            st.integers(0, 9),
            st.integers(0, 5),
            st.one_of(st.none(), st.floats(allow_nan=True, allow_infinity=True, width=64)),
            st.floats(-4, 4),
        ),
        min_size=1,
        max_size=60,
    ),
    cuts=st.lists(st.integers(0, 60), max_size=4),
)
def test_however_the_rows_are_cut_the_parts_merge_to_the_same_counts(reference, rows, cuts):
    columns = {
        "vehicle_id": pa.array([f"v{vehicle}" for vehicle, *_ in rows]),
        "session_start": pa.array([week * 7 * 86_400_000 for _, week, *_ in rows], pa.timestamp("ms", "UTC")),
    }
    for index, column in enumerate(reference.features):
        columns[column.name] = pa.array([row[2 + index % 2] for row in rows], pa.float64())
    batch = pa.record_batch(columns)
    whole = DriftProfile(reference)
    whole.add(batch, predict)
    bounds = sorted({0, len(rows), *(min(cut, len(rows)) for cut in cuts)})
    merged = DriftProfile(reference)
    for start, stop in reversed(list(itertools.pairwise(bounds))):
        part = DriftProfile(reference)
        part.add(batch.slice(start, stop - start), predict)
        merged.merge(part)
    assert merged.counts() == whole.counts()


def test_new_vehicles_of_the_same_fleet_are_ok(reference, tmp_path):
    report = check(reference, write_fleet(tmp_path / "n.parquet", seed=1))
    assert report.verdict == "OK"
    assert report.reasons == ()


def test_undrifted_weeks_raise_no_false_alarms(reference, tmp_path):
    verdicts = [
        check(reference, write_fleet(tmp_path / "n.parquet", seed=100 + week, vehicles=80)).verdict
        for week in range(50)
    ]
    assert sum(verdict != "OK" for verdict in verdicts) <= 1


def test_half_a_deviation_in_one_feature_is_found_and_named_first(reference, tmp_path):
    found = 0
    for seed in range(20):
        path = write_fleet(tmp_path / "n.parquet", seed=200 + seed, change={"f03": lambda x: x + 0.5})
        report = check(reference, path)
        found += report.features[0].name == "f03" and report.features[0].drifted
        assert report.verdict in {"WARN", "OK"}
    assert found >= 19


def test_a_share_of_features_that_moved_is_drift_and_they_come_by_effect(reference, tmp_path):
    change = {"f03": lambda x: x + 0.6, "f06": lambda x: x + 1.2}
    report = check(reference, write_fleet(tmp_path / "n.parquet", seed=3, change=change))
    assert report.verdict == "DRIFT"
    assert [feature.name for feature in report.features[:2]] == ["f06", "f03"]
    effects = [feature.effect for feature in report.features]
    assert effects == sorted(effects, reverse=True)
    assert "f06, f03" in report.reasons[0]


def test_a_feature_has_drifted_exactly_when_its_value_reaches_its_threshold(reference, tmp_path):
    for size in (0.0, 0.15, 0.3, 0.5):
        change = {f"f{i:02d}": lambda x, size=size: x + size for i in (0, 3, 6)}
        report = check(reference, write_fleet(tmp_path / "n.parquet", seed=9, change=change))
        for feature in report.features:
            assert feature.drifted == (feature.value >= feature.threshold)


def test_a_moved_score_alone_is_drift(reference, tmp_path):
    path = write_fleet(tmp_path / "n.parquet", seed=4)

    def surer(frame):
        fault = np.clip(predict(frame)[:, 1] + 0.3, 0, 1)
        return np.stack([1 - fault, fault], axis=1)

    report = compare(reference, profile_of(path, reference, predict=surer), CONFIG)
    assert report.verdict == "DRIFT"
    assert report.score.drifted
    assert not any(feature.drifted for feature in report.features)
    assert "score" in report.reasons[0]


def test_too_few_rows_or_vehicles_are_no_verdict(reference, tmp_path):
    path = write_fleet(tmp_path / "n.parquet", vehicles=5, sessions=100, change={"f00": lambda x: x + 9})
    report = check(reference, path)
    assert report.verdict == "INSUFFICIENT_DATA"
    assert report.reasons == ("5 vehicles, at least 20 are needed",)
    few = check(reference, write_fleet(tmp_path / "n.parquet", vehicles=30, sessions=1))
    assert few.reasons == ("30 rows, at least 200 are needed",)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda x: x * 1000, "1000 times too large"),
        (lambda x: x / 1000, "1000 times too small"),
        (lambda x: x * 100, "100 times too large"),
    ],
)
def test_another_unit_is_a_defect_not_drift(tmp_path, change, words):
    base = lambda x: 3.7 + 0.05 * x  # noqa: E731
    reference = build_reference(write_fleet(tmp_path / "r.parquet", vehicles=100, change={"f00": base}))
    path = write_fleet(tmp_path / "n.parquet", seed=2, change={"f00": lambda x: change(base(x))})
    report = compare(reference, profile_of(path, reference), CONFIG)
    assert report.verdict == "DATA_QUALITY"
    assert report.reasons == (f"f00 looks {words}",)


def test_fahrenheit_is_a_defect_and_winter_is_drift(tmp_path):
    summer = lambda x: 22 + 6 * x  # noqa: E731
    path = write_fleet(tmp_path / "r.parquet", vehicles=100, change={"f00": summer})
    reference = build_reference(path, units={"f00": "°C"})
    fahrenheit = write_fleet(tmp_path / "f.parquet", seed=2, change={"f00": lambda x: summer(x) * 1.8 + 32})
    report = compare(reference, profile_of(fahrenheit, reference), CONFIG)
    assert report.verdict == "DATA_QUALITY"
    assert report.reasons == ("f00 looks in degrees Fahrenheit",)
    winter = write_fleet(tmp_path / "w.parquet", seed=2, change={"f00": lambda x: summer(x) - 25})
    assert compare(reference, profile_of(winter, reference), CONFIG).verdict in {"DRIFT", "WARN"}


def test_an_odometer_in_miles_is_a_defect_and_a_younger_fleet_is_none(tmp_path):
    def km(x):
        return 70_000 + 20_000 * np.clip(x, -3, 3)

    path = write_fleet(tmp_path / "r.parquet", vehicles=200, change={"f00": km})
    reference = build_reference(path, units={"f00": "km"})
    miles = write_fleet(tmp_path / "m.parquet", seed=2, change={"f00": lambda x: km(x) / 1.609344})
    report = compare(reference, profile_of(miles, reference), CONFIG)
    assert report.verdict == "DATA_QUALITY"
    assert report.reasons == ("f00 looks in miles",)
    younger = write_fleet(tmp_path / "y.parquet", seed=2, change={"f00": lambda x: km(x) - 15_000})
    assert compare(reference, profile_of(younger, reference), CONFIG).verdict == "WARN"


def test_a_share_of_missing_values_is_a_defect(reference, tmp_path):
    def drop(x):
        return np.where(np.arange(len(x)) % 3 == 0, np.nan, x)

    report = check(reference, write_fleet(tmp_path / "n.parquet", seed=2, change={"f04": drop}))
    assert report.verdict == "DATA_QUALITY"
    assert report.reasons == ("f04 is missing in 33% of the rows, 0% in the reference",)


def test_what_validation_found_broken_is_told_before_anything_else(reference, tmp_path):
    profile = profile_of(write_fleet(tmp_path / "n.parquet", vehicles=3), reference)
    report = compare(reference, profile, CONFIG, defects=("pack_voltage_v is out of range in 100% of the rows",))
    assert report.verdict == "DATA_QUALITY"


def test_a_feature_that_was_constant_and_is_no_more_is_found(tmp_path):
    reference = build_reference(write_fleet(tmp_path / "r.parquet", change={"f00": lambda x: x * 0 + 1}))
    same = write_fleet(tmp_path / "n.parquet", seed=2, change={"f00": lambda x: x * 0 + 1})
    assert compare(reference, profile_of(same, reference), CONFIG).verdict == "OK"
    moved = write_fleet(tmp_path / "n.parquet", seed=2, change={"f00": lambda x: x * 0 + 1.1})
    first = compare(reference, profile_of(moved, reference), CONFIG).features[0]
    assert (first.name, first.metric, first.drifted) == ("f00", "out_of_range", True)


def test_infinite_and_missing_values_count_as_missing(reference, tmp_path):
    bad = lambda x: np.where(np.arange(len(x)) % 50 == 0, np.inf, x)  # noqa: E731
    profile = profile_of(write_fleet(tmp_path / "n.parquet", seed=2, change={"f00": bad}), reference)
    assert profile.features["f00"].missing == profile.rows // 50
    assert compare(reference, profile, CONFIG).verdict == "OK"


def test_a_missing_column_is_told_by_name(reference, tmp_path):
    path = write_fleet(tmp_path / "n.parquet")
    table = pq.read_table(path).drop_columns(["f07"])
    pq.write_table(table, path)
    with pytest.raises(DataError, match="f07"):
        profile_of(path, reference)


def test_integers_nulls_and_float32_are_read_as_numbers(tmp_path):
    path = write_fleet(tmp_path / "r.parquet")
    reference = build_reference(path)
    table = pq.read_table(path)
    narrow = table.set_column(table.schema.get_field_index("f00"), "f00", table["f00"].cast(pa.float32())).set_column(
        table.schema.get_field_index("f01"), "f01", pa.nulls(table.num_rows, pa.int32())
    )
    pq.write_table(narrow, path)
    profile = profile_of(path, reference)
    assert profile.features["f01"].missing == table.num_rows
    assert compare(reference, profile, CONFIG).verdict == "DATA_QUALITY"


@pytest.mark.parametrize("text", ["", "{", "[]", '{"schema_version": 1}', '{"schema_version": 99}', "null"])
def test_a_broken_reference_file_is_one_clear_error(tmp_path, text):
    (tmp_path / "reference.json").write_text(text)
    with pytest.raises(ReferenceProfileError):
        ReferenceProfile.read(tmp_path / "reference.json")


def test_an_empty_features_file_gives_no_reference(tmp_path, features):
    pq.write_table(pq.read_table(features).slice(0, 0), tmp_path / "e.parquet")
    with pytest.raises(ReferenceProfileError, match="no features"):
        build_reference(tmp_path / "e.parquet")


def test_the_report_reads_as_the_documented_json(reference, tmp_path):
    document = check(reference, write_fleet(tmp_path / "n.parquet", seed=1)).to_json()
    assert set(document) >= {"verdict", "features", "score", "rows", "vehicles"}
    assert set(document["features"][0]) >= {"name", "metric", "value", "threshold", "drifted"}
    assert set(document["score"]["classes"]["rates"]) == set(CLASSES)
    json.dumps(document, allow_nan=False)


def test_weeks_that_differ_as_a_whole_raise_the_bar(tmp_path):
    """What all vehicles share in a week (the weather) is no drift, however many vehicles there are."""

    def weather(x):
        return x + np.repeat(np.tile([0.8, -0.8, 0.4, -0.4, 0.6, -0.6], 256), 6)

    path = write_fleet(tmp_path / "r.parquet", vehicles=256, weeks=6, change={"f00": weather})
    reference = build_reference(path)
    calm, stormy = reference.features[3].null, reference.features[0].null
    assert stormy.week_shift > 0.5
    assert calm.week_shift == 0.0
    another = write_fleet(tmp_path / "n.parquet", seed=8, change={"f00": lambda x: x + 0.5})
    judged = {c.name: c for c in compare(reference, profile_of(another, reference), CONFIG).features}
    assert not judged["f00"].drifted


def test_edges_lie_between_a_sensors_steps_and_leave_no_bin_empty():
    steps = np.repeat([0.0, 0.5, 1.0, 1.5], [40, 30, 20, 10])
    edges = inner_edges(steps, 20)
    assert edges == (0.25, 0.75, 1.25)
    assert tally(steps, edges, 0.0, 1.5).counts.tolist() == [40, 30, 20, 10]
    assert tally(steps + 0.3, edges, 0.0, 1.5).counts.tolist() == [0, 40, 30, 30]
    assert inner_edges(np.full(9, 2.0), 20) == inner_edges(np.array([np.nan]), 20) == ()


def test_another_mix_of_kinds_is_no_drift_of_what_is_measured_in_them():
    driven, charged = np.array([80, 20, 0]), np.array([0, 10, 90])
    reference = np.stack([6 * driven, 4 * charged])
    before, after, design = standardised(reference, np.stack([2 * driven, 8 * charged]))
    np.testing.assert_allclose(before, after)
    np.testing.assert_allclose(before, reference.sum(axis=0) / reference.sum())
    assert design == pytest.approx(0.6**2 / 0.2 + 0.4**2 / 0.8)


def test_a_kind_that_is_hardly_there_is_left_out_on_both_sides():
    reference, new = np.array([[60, 40], [0, 100]]), np.array([[70, 30], [0, 1]])
    before, after, design = standardised(reference, new)
    assert (before.tolist(), after.tolist(), design) == ([0.6, 0.4], [0.7, 0.3], 1.0)


def test_without_any_kind_in_common_the_whole_is_compared():
    before, after, design = standardised(np.array([[5, 5], [0, 0]]), np.array([[0, 0], [1, 3]]))
    assert (before.tolist(), after.tolist(), design) == ([0.5, 0.5], [0.25, 0.75], 1.0)


def test_a_config_takes_only_its_own_settings():
    settings = {"min_rows": 7, "persistence": 2, "cooldown_h": 1.0}
    assert DriftConfig.from_settings(settings) == replace(CONFIG, min_rows=7)


def test_memory_does_not_grow_with_rows(reference, tmp_path):
    reference.write(tmp_path / "reference.json")
    part = pq.read_table(write_fleet(tmp_path / "part.parquet", vehicles=2000, sessions=30))
    code = (
        "import sys; from pathlib import Path; from ev_ml.reference import ReferenceProfile\n"
        "from ev_ml.drift_profile import profile_of\n"
        "profile_of(Path(sys.argv[2]), ReferenceProfile.read(Path(sys.argv[1])), threads=2)\n"
        "print(next(l.split()[1] for l in open('/proc/self/status') if l.startswith('VmHWM')))"
    )
    peaks = []
    for groups in (3, 30):
        path = tmp_path / "many.parquet"
        with pq.ParquetWriter(path, part.schema) as writer:
            for _ in range(groups):
                writer.write_table(part)
        command = [sys.executable, "-c", code, str(tmp_path / "reference.json"), str(path)]
        peaks.append(int(subprocess.run(command, capture_output=True, text=True, check=True).stdout))
    assert peaks[1] < peaks[0] * 1.25
