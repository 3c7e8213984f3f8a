"""The raw telemetry's columns: names carry the units, ranges are what a real sensor can report."""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa

CLASSES = (
    "healthy",
    "internal_short",
    "cell_imbalance",
    "resistance_rise",
    "sensor_fault",
    "capacity_fade",
)
"""Labels of a vehicle's session; the first is the absence of a fault."""

SESSION_KINDS = ("drive", "charge", "rest")
LABEL = "label"
KEYS = ("vehicle_id", "session_id", "timestamp")


@dataclass(frozen=True, slots=True)
class Channel:
    """One measured column: its unit and the closed range outside of which a value is not a measurement."""

    name: str
    unit: str
    low: float
    high: float


CHANNELS = (
    Channel("pack_voltage_v", "V", 50.0, 1000.0),
    Channel("pack_current_a", "A", -800.0, 800.0),
    Channel("soc_pct", "%", 0.0, 100.0),
    Channel("cell_voltage_min_v", "V", 1.5, 5.0),
    Channel("cell_voltage_max_v", "V", 1.5, 5.0),
    Channel("cell_voltage_mean_v", "V", 1.5, 5.0),
    Channel("cell_voltage_std_v", "V", 0.0, 1.0),
    Channel("temperature_min_c", "degC", -40.0, 120.0),
    Channel("temperature_max_c", "degC", -40.0, 120.0),
    Channel("ambient_c", "degC", -50.0, 60.0),
    Channel("insulation_kohm", "kohm", 0.0, 100_000.0),
    Channel("odometer_km", "km", 0.0, 2_000_000.0),
)
"""Measured columns. Current is positive in discharge."""

CHANNEL_NAMES = tuple(channel.name for channel in CHANNELS)

RAW_SCHEMA = pa.schema(
    [
        ("vehicle_id", pa.string()),
        ("timestamp", pa.timestamp("ms", tz="UTC")),
        ("session_id", pa.string()),
        ("session_kind", pa.string()),
        *((name, pa.float64()) for name in CHANNEL_NAMES),
        (LABEL, pa.string()),
    ]
)
"""One row a sample. `label` is per vehicle and session; a user's unlabelled data may lack it."""

REQUIRED = tuple(name for name in RAW_SCHEMA.names if name != LABEL)
