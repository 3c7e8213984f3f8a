"""Bad data: a clear error, or set aside and counted."""

from __future__ import annotations

import gzip
from pathlib import Path

import pandas as pd
import pytest

from ev_ml.errors import DataError
from ev_ml.ingest import UnknownDataVersion, ingest
from ev_ml.sources import convert
from ev_ml.validate import validate


def as_csv(small_fleet: Path, target: Path, rows: int = 3000) -> pd.DataFrame:
    frame = pd.read_parquet(small_fleet / "raw.parquet").head(rows)
    frame.to_csv(target, index=False)
    return frame


def test_an_unknown_data_version_lists_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(UnknownDataVersion, match="v1, v2, v3"):
        ingest("v9", tmp_path / "out", data={})


def test_a_users_csv_comes_in_through_a_column_map(small_fleet: Path, tmp_path: Path) -> None:
    frame = as_csv(small_fleet, tmp_path / "in.csv").rename(columns={"pack_voltage_v": "U"})
    frame.drop(columns="label").to_csv(tmp_path / "in.csv", index=False)
    rows = convert(str(tmp_path / "in.csv"), tmp_path / "out", columns={"pack_voltage_v": "U"})
    assert rows == 3000
    back = pd.read_parquet(tmp_path / "out")
    assert back["label"].isna().all()
    assert sorted(back["pack_voltage_v"]) == sorted(frame["U"])


def test_a_missing_column_is_named_with_the_map_to_set(small_fleet: Path, tmp_path: Path) -> None:
    as_csv(small_fleet, tmp_path / "in.csv").drop(columns="soc_pct").to_csv(tmp_path / "in.csv", index=False)
    with pytest.raises(DataError, match="soc_pct is missing") as caught:
        convert(str(tmp_path / "in.csv"), tmp_path / "out")
    assert "columns: {soc_pct" in str(caught.value.hint)


@pytest.mark.parametrize("content", [b"", b"PAR1 cut off", b"vehicle_id,timestamp\n"], ids=["empty", "cut", "header"])
def test_a_file_that_is_no_telemetry_is_a_clear_error(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "in").write_bytes(content)
    with pytest.raises(DataError):
        convert(str(tmp_path / "in"), tmp_path / "out")


def test_a_decompression_bomb_is_stopped(tmp_path: Path) -> None:
    with gzip.open(tmp_path / "in.csv.gz", "wb") as file:
        for _ in range(200):
            file.write(b"0" * 1_000_000)
    with pytest.raises(DataError, match="unpacks to more"):
        convert(str(tmp_path / "in.csv.gz"), tmp_path / "out")


def test_dirt_is_set_aside_with_counts_and_examples(small_fleet: Path, tmp_path: Path) -> None:
    report = validate(small_fleet / "raw.parquet", tmp_path / "clean", min_vehicles=20)
    assert 0 < report.share < 0.002
    assert report.rows - report.kept == sum(report.reasons.values())
    assert report.examples["out of 1.5..5 V:cell_voltage_max_v"] == "65.535"
    assert any(reason.startswith("duplicate") for reason in report.reasons)


def test_nan_everywhere_fails_and_names_the_column(small_fleet: Path, tmp_path: Path) -> None:
    frame = pd.read_parquet(small_fleet / "raw.parquet")
    frame["soc_pct"] = float("nan")
    frame.to_parquet(tmp_path / "raw")
    with pytest.raises(DataError, match="missing:soc_pct"):
        validate(tmp_path / "raw", tmp_path / "clean")


def test_one_vehicle_is_too_few(small_fleet: Path, tmp_path: Path) -> None:
    frame = pd.read_parquet(small_fleet / "raw.parquet")
    frame[frame["vehicle_id"] == frame["vehicle_id"].iloc[0]].to_parquet(tmp_path / "raw")
    with pytest.raises(DataError, match="1 vehicle"):
        validate(tmp_path / "raw", tmp_path / "clean")
