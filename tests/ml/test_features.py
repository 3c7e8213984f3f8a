from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from ev_ml.errors import DataError
from ev_ml.features import FEATURE_UNITS, FEATURES, from_raw_frame, generate, merge
from ev_ml.simulate import fleet, simulate
from ev_ml.validate import validate

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
from naive_features import naive_features


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("features")
    # three row groups, so that shards have something to share
    simulate(fleet("v1", vehicles=36), folder / "raw.parquet")
    validate(folder / "raw.parquet", folder / "clean.parquet", min_vehicles=1)
    return folder / "clean.parquet"


@pytest.fixture(scope="module")
def few(clean: Path) -> pd.DataFrame:
    frame = pq.ParquetFile(clean).read_row_group(0).to_pandas()
    return frame[frame["vehicle_id"].isin(frame["vehicle_id"].unique()[:4])].reset_index(drop=True)


def numbers(frame: pd.DataFrame) -> np.ndarray:
    return frame[list(FEATURES)].to_numpy(dtype=float)


def test_features_equal_those_of_a_plain_pandas_loop(few: pd.DataFrame) -> None:
    fast, slow = from_raw_frame(few), naive_features(few)
    assert fast["session_id"].tolist() == slow["session_id"].tolist()
    for name in FEATURES:
        np.testing.assert_allclose(fast[name], slow[name], rtol=1e-5, atol=1e-7, err_msg=name)


def test_every_feature_has_a_unit_and_a_value_in_some_session(few: pd.DataFrame) -> None:
    assert tuple(FEATURE_UNITS) == FEATURES
    assert from_raw_frame(few)[list(FEATURES)].notna().any().all()


def test_the_order_of_the_rows_does_not_matter(few: pd.DataFrame) -> None:
    order = ["vehicle_id", "session_id"]
    shuffled = from_raw_frame(few.sample(frac=1.0, random_state=1)).sort_values(order)
    plain = from_raw_frame(few).sort_values(order)
    assert shuffled["label"].tolist() == plain["label"].tolist()
    np.testing.assert_allclose(numbers(shuffled), numbers(plain), rtol=1e-9)


def test_a_vehicle_s_features_do_not_depend_on_other_vehicles(few: pd.DataFrame) -> None:
    one = few["vehicle_id"].iloc[0]
    alone = from_raw_frame(few[few["vehicle_id"] == one])
    together = from_raw_frame(few)
    np.testing.assert_allclose(numbers(alone), numbers(together[together["vehicle_id"] == one]), rtol=1e-6)


def test_merged_shards_are_what_one_shard_writes(clean: Path, tmp_path: Path) -> None:
    whole = generate(clean, tmp_path / "whole.parquet")
    parts = [tmp_path / f"{shard}.parquet" for shard in range(2)]
    for shard, part in enumerate(parts):
        generate(clean, part, shard=shard, shards=2)
    merged = merge(parts, tmp_path / "merged.parquet")
    assert merged.sessions == whole.sessions == 36 * 24
    assert (tmp_path / "merged.parquet").read_bytes() == (tmp_path / "whole.parquet").read_bytes()


def test_more_shards_than_row_groups_leave_some_empty(clean: Path, tmp_path: Path) -> None:
    report = generate(clean, tmp_path / "a.parquet", shard=5, shards=6)
    assert report.sessions == 0
    assert pq.read_table(tmp_path / "a.parquet").num_rows == 0


def test_the_same_part_twice_is_refused(clean: Path, tmp_path: Path) -> None:
    generate(clean, tmp_path / "a.parquet")
    with pytest.raises(DataError, match="in two parts"):
        merge([tmp_path / "a.parquet"] * 2, tmp_path / "b.parquet")


def test_missing_values_stay_out_of_the_statistics(few: pd.DataFrame) -> None:
    first = few[few["session_id"] == few["session_id"].iloc[0]].reset_index(drop=True)
    holed = first.copy()
    holed.loc[::7, "ambient_c"] = np.nan
    found = from_raw_frame(holed)["ambient_mean_c"].iloc[0]
    assert found == pytest.approx(holed["ambient_c"].mean())
    all_missing = first.assign(temperature_max_c=np.nan)
    assert np.isnan(from_raw_frame(all_missing)["temperature_rise_c"].iloc[0])


def test_a_session_of_one_sample_has_no_slopes_and_does_not_fail(few: pd.DataFrame) -> None:
    found = from_raw_frame(few.head(1))
    assert len(found) == 1
    assert np.isnan(found["ah_per_soc"].iloc[0])
    assert np.isnan(found["low_gap_jitter_v"].iloc[0])


def test_unlabelled_telemetry_has_features_without_labels(few: pd.DataFrame) -> None:
    found = from_raw_frame(few.drop(columns="label"))
    assert found["label"].isna().all()
    np.testing.assert_allclose(numbers(found), numbers(from_raw_frame(few)))


def test_a_lacking_column_is_named(few: pd.DataFrame) -> None:
    with pytest.raises(DataError, match="lacks soc_pct"):
        from_raw_frame(few.drop(columns="soc_pct"))


def test_text_where_numbers_belong_is_refused(few: pd.DataFrame) -> None:
    with pytest.raises(DataError, match="another type"):
        from_raw_frame(few.assign(soc_pct="much"))


def test_a_truncated_file_is_refused(clean: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.parquet"
    broken.write_bytes(clean.read_bytes()[:-200])
    with pytest.raises(DataError, match="not a readable Parquet"):
        generate(broken, tmp_path / "out.parquet")


def test_an_unlabelled_file_and_one_without_rows(clean: Path, tmp_path: Path) -> None:
    table = pq.read_table(clean)
    pq.write_table(table.drop_columns(["label"]), tmp_path / "unlabelled.parquet")
    assert generate(tmp_path / "unlabelled.parquet", tmp_path / "out.parquet").sessions == 36 * 24
    pq.write_table(table.slice(0, 0), tmp_path / "empty.parquet")
    with pytest.raises(DataError, match="no rows"):
        generate(tmp_path / "empty.parquet", tmp_path / "out.parquet")
    pq.write_table(table.drop_columns(["soc_pct"]), tmp_path / "lacking.parquet")
    with pytest.raises(DataError, match="lacks soc_pct"):
        generate(tmp_path / "lacking.parquet", tmp_path / "out.parquet")
