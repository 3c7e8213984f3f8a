"""Which raw column is in another unit, when the features computed from it look broken.

Found by trial: some vehicles' telemetry is converted back, column by column, and the one conversion that makes the
features look right again names the culprit. The ranges that `validate` keeps to leave few conversions to try.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ev_ml.drift import DriftConfig, compare
from ev_ml.drift_profile import DriftProfile
from ev_ml.features import from_table
from ev_ml.reference import ReferenceProfile
from ev_ml.schema import CHANNELS, Channel

VEHICLES = 12
"""Vehicles a trial is made on."""

FAR = 20.0
"""Deviations beyond which it matters no more how far; what vanished altogether counts as that far."""

IN_RANGE = 0.95
"""Share of converted values that must be possible measurements for a trial to be worth it."""

Conversion = tuple[float, float, str]
"""Factor, offset and words: what was written = factor * what is right + offset."""

THOUSANDS: tuple[Conversion, ...] = ((1000.0, 0.0, "1000 times too large"), (0.001, 0.0, "1000 times too small"))
CONVERSIONS: Mapping[str, tuple[Conversion, ...]] = {
    "V": THOUSANDS,
    "A": (*THOUSANDS, (-1.0, 0.0, "of the opposite sign")),
    "%": ((0.01, 0.0, "100 times too small (a share?)"), (10.0, 0.0, "10 times too large (per mille?)")),
    "degC": ((1.8, 32.0, "in degrees Fahrenheit"), (1.0, 273.15, "in kelvin"), (10.0, 0.0, "10 times too large")),
    "kohm": THOUSANDS,
    "km": ((1 / 1.609344, 0.0, "in miles"), (1000.0, 0.0, "in metres")),
}
TOGETHER = (
    ("temperature_min_c", "temperature_max_c"),
    ("cell_voltage_min_v", "cell_voltage_max_v", "cell_voltage_mean_v", "cell_voltage_std_v"),
)
"""Columns of one sensor system, likely to be converted together."""


@dataclass(frozen=True, slots=True)
class _Health:
    """How broken features look: broken columns, and all columns' mean distance in deviations, each at most `FAR`."""

    defects: int
    distance: float


def sample_of(clean: Path, out: Path) -> None:
    """Keep the telemetry of a few whole vehicles of a clean file for `blame`."""
    kept: list[pa.Table] = []
    room = VEHICLES
    with pq.ParquetFile(clean) as file:
        for group in range(file.num_row_groups):
            table = file.read_row_group(group)
            some = pc.unique(table.column("vehicle_id"))[:room]
            kept.append(table.filter(pc.is_in(table.column("vehicle_id"), some)))
            room -= len(some)
            if room <= 0:
                break
    pq.write_table(pa.concat_tables(kept), out)


def blame(sample: Path, reference: ReferenceProfile, config: DriftConfig) -> str | None:
    """Say which raw column is in which other unit; None when no single conversion explains what is broken."""
    table = pq.read_table(sample)
    lenient = replace(config, min_rows=1, min_vehicles=1)
    now = _health(table, reference, lenient)
    if now.defects == 0:
        return None
    best, words = now, None
    for columns, conversion in _trials(table):
        found = _health(_converted(table, columns, conversion), reference, lenient)
        if (found.defects, found.distance) < (best.defects, best.distance):
            best, words = found, f"{' and '.join(columns)} {'look' if len(columns) > 1 else 'looks'} {conversion[2]}"
    return words if best.defects * 4 <= now.defects else None


def _trials(table: pa.Table) -> Iterator[tuple[tuple[str, ...], Conversion]]:
    channels = {channel.name: channel for channel in CHANNELS}
    for names in (*((name,) for name in channels), *TOGETHER):
        for conversion in CONVERSIONS[channels[names[0]].unit]:
            if all(_possible(table, channels[name], conversion) for name in names):
                yield names, conversion


def _possible(table: pa.Table, channel: Channel, conversion: Conversion) -> bool:
    values = _right(table, channel.name, conversion)
    return bool(np.mean((values >= channel.low) & (values <= channel.high)) >= IN_RANGE)


def _right(table: pa.Table, name: str, conversion: Conversion) -> np.ndarray:
    factor, offset, _ = conversion
    # a spread knows no zero point
    shift = 0.0 if "_std_" in name else offset
    values: np.ndarray = (table.column(name).to_numpy() - shift) / factor
    return values


def _converted(table: pa.Table, names: tuple[str, ...], conversion: Conversion) -> pa.Table:
    for name in names:
        values = pa.array(_right(table, name, conversion))
        table = table.set_column(table.schema.get_field_index(name), table.schema.field(name), values)
    return table


def _health(table: pa.Table, reference: ReferenceProfile, config: DriftConfig) -> _Health:
    profile = DriftProfile(reference)
    for batch in from_table(table).to_batches():
        profile.add(batch)
    report = compare(reference, profile, config)
    defects = len(report.reasons) if report.verdict == "DATA_QUALITY" else 0
    moved = [FAR if each.missing_rate == 1.0 else min(each.wasserstein, FAR) for each in report.features]
    return _Health(defects, float(np.mean(moved)) if moved else 0.0)
