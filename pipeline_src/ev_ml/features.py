"""One row a vehicle's session: what the physics of each fault leaves in the telemetry, vectorised over sessions.

Streamed by row group, so memory holds one group whatever the fleet's size. Sums over sessions are `np.add.reduceat`
over the sorted rows. A feature that a session cannot show (a capacity without a change of charge) is NaN.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from ev_ml.errors import DataError
from ev_ml.schema import LABEL, RAW_SCHEMA, REQUIRED
from ev_ml.segments import Segments

FEATURE_UNITS = {
    "spread_mean_v": "V",
    "spread_max_v": "V",
    "spread_std_v": "V",
    "low_deviation_mean_v": "V",
    "high_deviation_mean_v": "V",
    "deviation_asymmetry_v": "V",
    "cell_std_mean_v": "V",
    "low_current_slope_ohm": "ohm",
    "high_current_slope_ohm": "ohm",
    "low_current_correlation": "1",
    "high_current_correlation": "1",
    "low_drift_v_per_h": "V/h",
    "high_drift_v_per_h": "V/h",
    "low_soc_slope_v": "V",
    "high_soc_slope_v": "V",
    "step_resistance_ohm": "ohm",
    "capacity_ah": "Ah",
    "dqdv_ah_per_v": "Ah/V",
    "relaxation_v_per_h": "V/h",
    "temperature_max_mean_c": "degC",
    "temperature_rise_c": "degC",
    "temperature_gradient_mean_c": "degC",
    "temperature_gradient_max_c": "degC",
    "temperature_rate_max_c_per_min": "degC/min",
    "temperature_over_ambient_c": "degC",
    "heat_excess_c_per_kj": "degC/kJ",
    "temperature_max_std_c": "degC",
    "temperature_pair_correlation": "1",
    "insulation_min_kohm": "kohm",
    "pack_cell_ratio": "1",
    "pack_cell_ratio_std": "1",
    "voltage_noise_v": "V",
    "spread_noise_v": "V",
    "current_rms_a": "A",
    "soc_mean_pct": "%",
    "soc_range_pct": "%",
    "ambient_mean_c": "degC",
    "odometer_km": "km",
}
"""Unit by feature, in the model's column order."""

FEATURES = tuple(FEATURE_UNITS)
IDS = ("vehicle_id", "session_id", "session_kind", "session_start", LABEL)

FEATURE_SCHEMA = pa.schema(
    [
        ("vehicle_id", pa.string()),
        ("session_id", pa.string()),
        ("session_kind", pa.string()),
        ("session_start", pa.timestamp("ms", tz="UTC")),
        (LABEL, pa.string()),
        *((name, pa.float64()) for name in FEATURES),
    ]
)

MIN_SOC_CHANGE_PCT = 8.0
"""Below this change of charge a capacity is mostly the charge sensor's noise."""
MIN_STEP_A = 4.0
"""A change of current that counts as a step, for dV/dI."""
MIN_CURRENT_STD_A = 2.0
"""Below this spread of current a slope over current means nothing."""
MIN_SAMPLES = 8


@dataclass(frozen=True, slots=True)
class FeatureReport:
    """What was computed."""

    sessions: int
    features: int

    @property
    def summary(self) -> str:
        """One line for the task tree."""
        return f"{self.sessions:,} sessions x {self.features} features"


def generate(clean: Path, out: Path, *, shard: int = 0, shards: int = 1) -> FeatureReport:
    """Write the features of validated telemetry; with `shards`, of every shards-th row group from `shard`.

    Raises:
        DataError: no session has enough samples.
    """
    source = pq.ParquetFile(clean)
    sessions = 0
    with pq.ParquetWriter(out, FEATURE_SCHEMA, compression="zstd") as writer:
        for group in range(shard, source.num_row_groups, shards):
            table = from_table(source.read_row_group(group))
            if table.num_rows:
                writer.write_table(table, row_group_size=table.num_rows)
            sessions += table.num_rows
    if sessions == 0 and shards == 1:
        raise DataError(f"no session has {MIN_SAMPLES} samples", hint="is the sampling interval right?")
    return FeatureReport(sessions, len(FEATURES))


def merge(parts: Sequence[Path], out: Path) -> FeatureReport:
    """Write the shards' features into one file, row group by row group."""
    sessions = 0
    with pq.ParquetWriter(out, FEATURE_SCHEMA, compression="zstd") as writer:
        for table in _groups(parts):
            writer.write_table(table, row_group_size=table.num_rows)
            sessions += table.num_rows
    return FeatureReport(sessions, len(FEATURES))


def _groups(parts: Sequence[Path]) -> Iterator[pa.Table]:
    for part in parts:
        file = pq.ParquetFile(part)
        for group in range(file.num_row_groups):
            yield file.read_row_group(group)


def from_raw_frame(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the features of raw telemetry in memory (what `predict` sends). DataError names a missing column."""
    missing = [name for name in REQUIRED if name not in frame]
    if missing:
        raise DataError(f"column {missing[0]} is missing", hint=f"the raw columns are {', '.join(REQUIRED)}")
    frame = frame.assign(timestamp=pd.to_datetime(frame["timestamp"], utc=True, format="ISO8601"))
    if LABEL not in frame:
        frame = frame.assign(**{LABEL: None})
    frame = frame.sort_values(["vehicle_id", "session_id", "timestamp"])
    return from_table(pa.Table.from_pandas(frame[RAW_SCHEMA.names], RAW_SCHEMA, preserve_index=False)).to_pandas()


def from_table(table: pa.Table) -> pa.Table:
    """Return the feature rows of raw rows sorted by vehicle, session and time, in `FEATURE_SCHEMA`."""
    segments = Segments.of(table, MIN_SAMPLES)
    if segments is None:
        return FEATURE_SCHEMA.empty_table()
    values = _features(segments)
    first = table.take(pa.array(segments.starts))
    return pa.table(
        [
            *(first.column(name) for name in ("vehicle_id", "session_id", "session_kind")),
            first.column("timestamp"),
            first.column(LABEL),
            *(pa.array(values[name]) for name in FEATURES),
        ],
        schema=FEATURE_SCHEMA,
    )


def _features(s: Segments) -> dict[str, np.ndarray]:
    current, mean = s["pack_current_a"], s["cell_voltage_mean_v"]
    low, high = mean - s["cell_voltage_min_v"], s["cell_voltage_max_v"] - mean
    hot, cold, ambient = s["temperature_max_c"], s["temperature_min_c"], s["ambient_c"]
    spread, gradient = low + high, hot - cold
    ratio = s["pack_voltage_v"] / mean
    moving = s.std(current) > MIN_CURRENT_STD_A
    charge_ah = s.last(s.running(current * s.step_h))
    soc_change = s.last(s["soc_pct"]) - s.first(s["soc_pct"])
    swing = np.abs(soc_change) > MIN_SOC_CHANGE_PCT
    step = np.abs(s.diff(current)) > MIN_STEP_A
    rise = s.last(hot) - s.first(hot)
    energy_kj = s.sum(current**2 * s.step_h) * 3.6
    volts = s.last(mean) - s.first(mean)

    def where(valid: np.ndarray, value: np.ndarray) -> np.ndarray:
        return np.where(valid, value, np.nan)

    with np.errstate(divide="ignore", invalid="ignore"):
        return {
            "spread_mean_v": s.mean(spread),
            "spread_max_v": s.maximum(spread),
            "spread_std_v": s.std(spread),
            "low_deviation_mean_v": s.mean(low),
            "high_deviation_mean_v": s.mean(high),
            "deviation_asymmetry_v": s.mean(low - high),
            "cell_std_mean_v": s.mean(s["cell_voltage_std_v"]),
            "low_current_slope_ohm": where(moving, s.slope(low, current)),
            "high_current_slope_ohm": where(moving, s.slope(high, current)),
            "low_current_correlation": where(moving, s.correlation(low, current)),
            "high_current_correlation": where(moving, s.correlation(high, current)),
            "low_drift_v_per_h": s.slope(low, s.hours),
            "high_drift_v_per_h": s.slope(high, s.hours),
            "low_soc_slope_v": where(swing, 100 * s.slope(low, s["soc_pct"])),
            "high_soc_slope_v": where(swing, 100 * s.slope(high, s["soc_pct"])),
            "step_resistance_ohm": where(
                s.sum(step) >= 3,
                -s.sum(step * s.diff(mean) * s.diff(current)) / s.sum(step * s.diff(current) ** 2),
            ),
            "capacity_ah": where(swing, -100.0 * charge_ah / soc_change),
            "dqdv_ah_per_v": where(swing & (np.abs(volts) > 0.05), -charge_ah / volts),
            "relaxation_v_per_h": s.slope(mean, s.hours),
            "temperature_max_mean_c": s.mean(hot),
            "temperature_rise_c": rise,
            "temperature_gradient_mean_c": s.mean(gradient),
            "temperature_gradient_max_c": s.maximum(gradient),
            "temperature_rate_max_c_per_min": s.maximum(s.diff(hot) / (s.step_h * 60)),
            "temperature_over_ambient_c": s.mean(hot - ambient),
            "heat_excess_c_per_kj": where(moving & (energy_kj > 0), s.mean(hot - ambient) / energy_kj),
            "temperature_max_std_c": s.std(hot),
            "temperature_pair_correlation": s.correlation(hot, cold),
            "insulation_min_kohm": s.minimum(s["insulation_kohm"]),
            "pack_cell_ratio": s.mean(ratio),
            "pack_cell_ratio_std": s.std(ratio),
            "voltage_noise_v": s.mean(np.abs(s.diff(s.diff(mean)))),
            "spread_noise_v": s.mean(np.abs(s.diff(s.diff(spread)))),
            "current_rms_a": np.sqrt(s.mean(current**2)),
            "soc_mean_pct": s.mean(s["soc_pct"]),
            "soc_range_pct": s.maximum(s["soc_pct"]) - s.minimum(s["soc_pct"]),
            "ambient_mean_c": s.mean(ambient),
            "odometer_km": s.first(s["odometer_km"]),
        }
