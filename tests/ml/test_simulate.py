"""The simulator: deterministic, physical, and without a leak."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from ev_ml.schema import CLASSES, RAW_SCHEMA
from ev_ml.simulate import FleetSpec, simulate


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(tmp_path: Path) -> None:
    def digest(seed: int, name: str) -> str:
        simulate(FleetSpec(vehicles=6, seed=seed), tmp_path / name)
        return hashlib.sha256((tmp_path / name).read_bytes()).hexdigest()

    assert digest(3, "a") == digest(3, "b")
    assert digest(3, "c") != digest(4, "d")


def test_a_row_group_holds_whole_vehicles(small_fleet: Path) -> None:
    file = pq.ParquetFile(small_fleet / "raw.parquet")
    assert file.schema_arrow.equals(RAW_SCHEMA)
    seen: set[str] = set()
    for group in range(file.num_row_groups):
        here = set(file.read_row_group(group, columns=["vehicle_id"]).column(0).to_pylist())
        assert not here & seen
        seen |= here
    assert len(seen) == 80


def test_every_class_has_the_same_number_of_rows_a_session(small_fleet: Path) -> None:
    raw = pd.read_parquet(small_fleet / "raw.parquet")
    rows = raw.groupby(["vehicle_id", "session_id", "label"]).size().groupby("label").mean()
    assert set(rows.index) == set(CLASSES)
    assert rows.max() - rows.min() < 1.0


def test_a_risen_resistance_pulls_the_low_cell_down_in_discharge_only(small_fleet: Path) -> None:
    features = pd.read_parquet(small_fleet / "features.parquet")
    drives = features[features["is_drive"] > 0].groupby("label")
    slope = drives["low_gap_per_amp_ohm"].median()
    assert slope["resistance_rise"] > 3 * abs(slope["healthy"])


def test_a_faded_pack_gives_fewer_ampere_hours(small_fleet: Path) -> None:
    clean = pd.read_parquet(small_fleet / "features.parquet")
    capacity = clean.groupby("label")["ah_per_soc"].median()
    assert capacity["capacity_fade"] < 0.88 * capacity["healthy"]


def test_an_imbalanced_cell_shows_at_the_ends_of_charge(small_fleet: Path) -> None:
    raw = pd.read_parquet(small_fleet / "clean.parquet")
    odd = raw[raw["label"] == "cell_imbalance"]
    spread = odd["cell_voltage_max_v"] - odd["cell_voltage_min_v"]
    ends, middle = spread[(odd["soc_pct"] < 20) | (odd["soc_pct"] > 90)], spread[odd["soc_pct"].between(48, 62)]
    assert ends.mean() > 1.5 * middle.mean()


def test_the_vehicles_order_says_nothing_of_their_labels(small_fleet: Path) -> None:
    raw = pd.read_parquet(small_fleet / "raw.parquet", columns=["vehicle_id", "label"])
    faulty = raw.groupby("vehicle_id", sort=False)["label"].agg(lambda x: (x != "healthy").any()).to_numpy()
    position = np.arange(len(faulty))
    assert abs(np.corrcoef(position, faulty)[0, 1]) < 0.3
