"""The dirt of real telemetry: gaps, duplicates, sentinels, wrong order, stuck values, in small shares."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

GAP_SHARE = 0.0008
DUPLICATE_SHARE = 0.0001
SENTINEL_SHARE = 0.0003
SWAP_SHARE = 0.0001
STUCK_SHARE = 0.02
"""Share of vehicles with one stretch of a repeated value."""
STUCK_SAMPLES = 8
SENTINELS = {"cell_voltage_max_v": 65.535, "temperature_max_c": 215.0, "pack_current_a": -3276.8}
"""What a battery management system sends for "no value" (unsigned all-ones and its like)."""


def soil(table: pa.Table, rng: np.random.Generator) -> pa.Table:
    """Return the table with a little of each kind of dirt; every class gets the same."""
    rows = table.num_rows
    for name, sentinel in SENTINELS.items():
        hit = rng.random(rows) < SENTINEL_SHARE / len(SENTINELS)
        if hit.any():
            values = table.column(name).to_numpy().copy()
            values[hit] = sentinel
            table = table.set_column(table.schema.get_field_index(name), name, pa.array(values))
    if rng.random() < STUCK_SHARE:
        at = int(rng.integers(0, rows - STUCK_SAMPLES))
        values = table.column("ambient_c").to_numpy().copy()
        values[at : at + STUCK_SAMPLES] = values[at]
        table = table.set_column(table.schema.get_field_index("ambient_c"), "ambient_c", pa.array(values))
    order = np.arange(rows)
    for swapped in np.flatnonzero(rng.random(rows - 1) < SWAP_SHARE):
        order[[swapped, swapped + 1]] = order[[swapped + 1, swapped]]
    kept = order[rng.random(rows) >= GAP_SHARE]
    twice = kept[rng.random(len(kept)) < DUPLICATE_SHARE]
    return table.take(pa.array(np.concatenate([kept, twice])))
