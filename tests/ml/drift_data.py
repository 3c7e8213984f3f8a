"""Synthetic features files for the drift tests: blocks of sessions, much alike within a vehicle."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

DAY_MS = 86_400_000
START_MS = 1_700_000_000_000


def write_fleet(
    path: Path,
    *,
    seed: int = 0,
    vehicles: int = 200,
    sessions: int = 6,
    features: int = 12,
    weeks: int = 1,
    alike: float = 0.5,
    change: Mapping[str, Callable[[np.ndarray], np.ndarray]] | None = None,
    group_vehicles: int = 100,
) -> Path:
    """Write a features file. `alike`: share of variance between vehicles; `change` alters columns by name."""
    rng = np.random.default_rng(seed)
    rows = vehicles * weeks * sessions
    vehicle = np.repeat(np.arange(vehicles), weeks * sessions)
    week = np.tile(np.repeat(np.arange(weeks), sessions), vehicles)
    columns: dict[str, np.ndarray] = {}
    for index in range(features):
        own = rng.normal(size=vehicles)[vehicle] * np.sqrt(alike)
        values = own + rng.normal(size=rows) * np.sqrt(1 - alike)
        if index % 3 == 1:
            values = np.exp(values)
        elif index % 3 == 2:
            values = np.where(values < 0, 0.0, values)
        columns[f"f{index:02d}"] = values
    for name, alter in (change or {}).items():
        columns[name] = alter(columns[name])
    stamps = START_MS + week * 7 * DAY_MS + rng.integers(0, 6 * DAY_MS, rows)
    table = pa.table(
        {
            "vehicle_id": [f"vehicle-{seed}-{v}" for v in vehicle],
            "session_id": [f"s{i}" for i in range(rows)],
            "label": ["healthy"] * rows,
            "session_start": pa.array(stamps, pa.timestamp("ms", "UTC")),
            **columns,
        }
    )
    with pq.ParquetWriter(path, table.schema) as writer:
        size = group_vehicles * weeks * sessions
        for start in range(0, rows, size):
            writer.write_table(table.slice(start, size))
    return path
