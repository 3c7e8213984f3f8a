"""A deterministic fleet: who drives what, which vehicle has which fault since when, and what the sensors say.

Each vehicle has a generator of its own (seed, index), so that a larger fleet keeps the smaller one's vehicles. Every fault
changes the physics (`physics.py`), never a column directly, except sensor faults, which are about the columns.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ev_ml.dirt import soil
from ev_ml.physics import (
    CELL_TYPES,
    CELLS,
    Floats,
    open_circuit_voltage,
    pack_temperature,
    rc_voltage,
    resistance_factor,
)
from ev_ml.schema import CLASSES, RAW_SCHEMA, SESSION_KINDS

STEP_S = 30.0
SAMPLES = 136
"""Samples of a session: 68 minutes, the same for every class."""
PLAN = ("drive", "charge", "drive", "drive", "charge", "rest") * 4
"""Sessions of each vehicle, in order; the same for every vehicle and class."""
SESSION_PERIOD_H = 56.0
"""Hours between two sessions' starts: 24 sessions span eight weeks."""
VEHICLES_PER_GROUP = 16
"""Vehicles of a Parquet row group, which is what every later step holds in memory."""
EPOCH = np.datetime64("2026-01-05T06:00:00", "ms")


@dataclass(frozen=True, slots=True)
class FleetSpec:
    """A fleet: its size, where and when it drives, and whose cells it has."""

    vehicles: int
    seed: int
    ambient_mean_c: float = 17.0
    ambient_spread_c: float = 6.0
    supplier: str = "supplier_a"
    faulty_share: float = 0.45
    """Share of vehicles with a fault: enriched for training; real fleets have 0.04-0.08 % (Zhang et al. 2023)."""


FLEETS = {
    "v1": FleetSpec(vehicles=320, seed=20260105),
    "v2": FleetSpec(vehicles=448, seed=20260216),
    "v3": FleetSpec(vehicles=320, seed=20261201, ambient_mean_c=-6.0, ambient_spread_c=5.0, supplier="supplier_b"),
}
"""v1: the first fleet. v2: a larger one of the same population. v3: winter, and another cell supplier."""


@dataclass(frozen=True, slots=True)
class _Sensors:
    """How one vehicle's sensors lie; neutral unless it has a sensor fault."""

    pack_bias_v: float = 0.0
    stuck_temperature: bool = False
    voltage_noise: float = 1.0


@dataclass(frozen=True, slots=True)
class _Vehicle:
    """What is drawn once for a vehicle."""

    index: int
    label: str
    onset: int
    severity: float
    sensors: _Sensors
    health: float
    odometer_km: float
    cell_sigma_v: float
    ambient_c: float


def fleet(name: str, *, vehicles: int | None = None, seed: int | None = None) -> FleetSpec:
    """Return a named fleet, its size or seed overridden. KeyError for an unknown name."""
    spec = FLEETS[name]
    return replace(spec, vehicles=vehicles or spec.vehicles, seed=spec.seed if seed is None else seed)


def simulate(spec: FleetSpec, out: Path) -> int:
    """Write a fleet's raw telemetry as Parquet, whole vehicles a row group; return the rows.

    The same spec gives the same bytes; memory holds one row group.
    """
    order = np.random.default_rng(spec.seed).permutation(spec.vehicles)
    rows = 0
    with pq.ParquetWriter(out, RAW_SCHEMA, compression="zstd", compression_level=1) as writer:
        for start in range(0, spec.vehicles, VEHICLES_PER_GROUP):
            tables = [simulate_vehicle(spec, int(i)) for i in order[start : start + VEHICLES_PER_GROUP]]
            table = pa.concat_tables(tables)
            writer.write_table(table, row_group_size=table.num_rows)
            rows += table.num_rows
    return rows


def simulate_vehicle(spec: FleetSpec, index: int) -> pa.Table:
    """Return one vehicle's telemetry, dirt included, in `RAW_SCHEMA`."""
    rng = np.random.default_rng(np.random.SeedSequence([spec.seed, index]))
    vehicle = _draw(spec, index, rng)
    columns = _sessions(spec, vehicle, rng)
    return soil(_table(spec, vehicle, columns), rng)


def _draw(spec: FleetSpec, index: int, rng: np.random.Generator) -> _Vehicle:
    faulty = rng.random() < spec.faulty_share
    label = CLASSES[int(rng.integers(1, len(CLASSES)))] if faulty else CLASSES[0]
    sensors = _Sensors()
    if label == "sensor_fault":
        kind = int(rng.integers(3))
        sign = float(rng.choice([-1.0, 1.0]))
        sensors = _Sensors(
            pack_bias_v=sign * rng.uniform(3.0, 9.0) if kind == 0 else 0.0,
            stuck_temperature=kind == 1,
            voltage_noise=float(rng.uniform(4.0, 9.0)) if kind == 2 else 1.0,
        )
    return _Vehicle(
        index=index,
        label=label,
        onset=int(rng.integers(0, len(PLAN) // 2)),
        severity=float(rng.uniform(0.55, 1.3)),
        sensors=sensors,
        health=float(rng.uniform(0.87, 1.0)),
        odometer_km=float(rng.uniform(2_000, 140_000)),
        cell_sigma_v=float(rng.uniform(0.0025, 0.0045)),
        ambient_c=float(rng.normal(spec.ambient_mean_c, spec.ambient_spread_c)),
    )


def _current(rng: np.random.Generator, capacity_ah: float) -> tuple[Floats, Floats]:
    """Return (current in A, starting state of charge in %) of the plan's sessions."""
    sessions = len(PLAN)
    kinds = np.array(PLAN)
    level = np.repeat(rng.gamma(2.2, 0.16, (sessions, SAMPLES // 4)), 4, axis=1)
    brake = np.repeat(rng.random((sessions, SAMPLES // 4)) < 0.18, 4, axis=1)
    drive = np.where(brake, -0.35 * level, level) * capacity_ah
    rate = rng.uniform(0.25, 0.55, (sessions, 1)) * capacity_ah
    taper = np.clip(1.25 - np.linspace(0, 0.55, SAMPLES), 0.0, 1.0)
    pauses = np.repeat(rng.random((sessions, SAMPLES // 8)) < 0.08, 8, axis=1)
    charge = np.where(pauses, 0.0, -rate * taper)
    rest = np.full((sessions, SAMPLES), 0.4) + rng.normal(0, 0.05, (sessions, SAMPLES))
    current = np.where(kinds[:, None] == "drive", drive, np.where(kinds[:, None] == "charge", charge, rest))
    start = np.where(
        kinds == "charge",
        rng.uniform(12, 40, sessions),
        np.where(kinds == "drive", rng.uniform(62, 95, sessions), rng.uniform(25, 90, sessions)),
    )
    return current, start


def _sessions(spec: FleetSpec, vehicle: _Vehicle, rng: np.random.Generator) -> dict[str, Floats]:
    """Return the measured columns of one vehicle, each (sessions, samples)."""
    cell = CELL_TYPES[spec.supplier]
    sessions = np.arange(len(PLAN), dtype=np.float64)
    active = sessions >= vehicle.onset
    ramp = vehicle.severity * np.clip(0.5 + 0.08 * (sessions - vehicle.onset), 0.0, 1.0) * active
    strength = {name: (ramp if vehicle.label == name else np.zeros_like(ramp))[:, None] for name in CLASSES[1:]}

    capacity = cell.capacity_ah * vehicle.health * (1.0 - 0.34 * np.clip(strength["capacity_fade"], 0, 1.4))
    r_age = (1.0 + 1.2 * (1.0 - vehicle.health)) * (1.0 + 0.35 * strength["capacity_fade"])
    current, start = _current(rng, cell.capacity_ah)
    hours = np.arange(SAMPLES, dtype=np.float64) * STEP_S / 3600.0
    drawn_ah = np.concatenate([np.zeros((len(PLAN), 1)), np.cumsum(current[:, :-1], axis=1)], axis=1) * STEP_S / 3600.0
    # a driver stops before the pack is empty, a charger before it is over-full
    soc_free = start[:, None] - 100.0 * drawn_ah / capacity
    held = (soc_free < 4.0) | (soc_free > 98.5)
    current = np.where(np.maximum.accumulate(held, axis=1), 0.3, current)
    drawn_ah = np.concatenate([np.zeros((len(PLAN), 1)), np.cumsum(current[:, :-1], axis=1)], axis=1) * STEP_S / 3600.0
    soc = np.clip(start[:, None] - 100.0 * drawn_ah / capacity, 0.0, 100.0)

    day = 3.5 * np.sin(2 * np.pi * (sessions * SESSION_PERIOD_H / 24.0))[:, None]
    ambient = vehicle.ambient_c + day + rng.normal(0, 1.2, (len(PLAN), 1)) + np.zeros((1, SAMPLES))
    short_w = 9.0 * strength["internal_short"][:, 0]
    nominal_r = cell.r0_ohm * r_age * resistance_factor(ambient)
    temperature = pack_temperature(current, nominal_r[:, 0], short_w, ambient, STEP_S)
    factor = r_age * resistance_factor(temperature)
    r0, r1 = cell.r0_ohm * factor, cell.r1_ohm * factor
    polarisation = rc_voltage(current, r1, STEP_S)
    mean_v = open_circuit_voltage(cell.chemistry, soc) - current * r0 - polarisation
    odd = _odd_cell(
        cell.chemistry, strength, soc, current, r0, polarisation, hours, sessions - vehicle.onset, cell.capacity_ah
    )
    return _measure(vehicle, strength, rng, current, soc, mean_v, odd, temperature, ambient, sessions)


def _odd_cell(
    chemistry: str,
    strength: dict[str, Floats],
    soc: Floats,
    current: Floats,
    r0: Floats,
    polarisation: Floats,
    hours: Floats,
    since_onset: Floats,
    capacity_ah: float,
) -> Floats:
    """Return the faulty cell's voltage, (sessions, samples); the mean cell's where there is no such fault.

    Internal short: a leak lowers this cell's charge over the session and, until balancing catches up, between
    sessions. Imbalance: smaller capacity, so it is ahead at both ends of charge. Resistance rise: an extra drop
    proportional to the current, which changes sign between discharge and charge.
    """
    leak_a = 1.6 * strength["internal_short"]
    between = np.minimum(leak_a * 4.0 * np.clip(since_onset + 1, 0, 6)[:, None] / 6.0, 3.2)
    deficit = 100.0 * (between + leak_a * hours) / capacity_ah
    shrink = np.clip(0.11 * strength["cell_imbalance"], 0, 0.35)
    stretched = 55.0 + (soc - 55.0) / (1.0 - shrink)
    cell_soc = np.where(shrink > 0, stretched, soc) - deficit
    extra = 1.1 * strength["resistance_rise"]
    return open_circuit_voltage(chemistry, np.clip(cell_soc, 0, 100)) - current * r0 * (1.0 + extra) - polarisation


def _measure(
    vehicle: _Vehicle,
    strength: dict[str, Floats],
    rng: np.random.Generator,
    current: Floats,
    soc: Floats,
    mean_v: Floats,
    odd: Floats,
    temperature: Floats,
    ambient: Floats,
    sessions: Floats,
) -> dict[str, Floats]:
    """Return what the sensors report: spread of the cells, noise, quantisation, and sensor faults."""
    shape = current.shape
    lying = (strength["sensor_fault"] > 0).astype(np.float64)
    noise = 1.0 + (vehicle.sensors.voltage_noise - 1.0) * lying * np.clip(strength["sensor_fault"], 0.5, 1.3)
    spread = vehicle.cell_sigma_v * (1.0 + 0.004 * np.abs(current) / 10.0)
    low = np.minimum(mean_v - 2.4 * spread, odd) + rng.normal(0, 0.0010, shape) * noise
    high = np.maximum(mean_v + 2.4 * spread, odd) + rng.normal(0, 0.0010, shape) * noise
    middle = mean_v + rng.normal(0, 0.0006, shape) * noise
    deviation = np.sqrt(spread**2 + (odd - mean_v) ** 2 / CELLS)
    pack = CELLS * mean_v + rng.normal(0, 0.15, shape) + vehicle.sensors.pack_bias_v * strength["sensor_fault"]
    hot = temperature + 1.5 + 0.004 * np.abs(current) + 2.2 * strength["internal_short"]
    cold = temperature - 1.2
    if vehicle.sensors.stuck_temperature:
        hot = np.where(lying > 0, hot[:, :1] + rng.normal(0, 1.5), hot)
    km = (
        vehicle.odometer_km
        + sessions[:, None] * 38.0
        + np.where(np.array(PLAN)[:, None] == "drive", 0.3, 0.0) * np.arange(shape[1])
    )
    insulation = np.exp(rng.normal(np.log(2500.0), 0.18, (shape[0], 1)) + rng.normal(0, 0.03, shape))
    insulation = insulation * (1.0 - 0.15 * np.clip(strength["internal_short"], 0, 1.5))
    return {
        "pack_voltage_v": np.round(pack, 1),
        "pack_current_a": np.round(current + rng.normal(0, 0.15, shape), 1),
        "soc_pct": np.round(soc + rng.normal(0, 0.15, (shape[0], 1)), 1).clip(0, 100),
        "cell_voltage_min_v": np.round(np.minimum(low, middle), 3),
        "cell_voltage_max_v": np.round(np.maximum(high, middle), 3),
        "cell_voltage_mean_v": np.round(middle, 4),
        "cell_voltage_std_v": np.round(np.abs(deviation + rng.normal(0, 0.0002, shape)), 4),
        "temperature_min_c": np.round((cold + rng.normal(0, 0.15, shape)) * 2) / 2,
        "temperature_max_c": np.round((hot + rng.normal(0, 0.15, shape)) * 2) / 2,
        "ambient_c": np.round(ambient + rng.normal(0, 0.2, shape), 1),
        "insulation_kohm": np.round(insulation),
        "odometer_km": np.round(km, 1),
    }


def _table(spec: FleetSpec, vehicle: _Vehicle, columns: dict[str, Floats]) -> pa.Table:
    name = hashlib.sha256(f"vehicle {spec.seed} {vehicle.index}".encode()).hexdigest()[:12]
    count = len(PLAN) * SAMPLES
    started = EPOCH + (np.arange(len(PLAN)) * SESSION_PERIOD_H * 3_600_000).astype("timedelta64[ms]")
    stamps = started[:, None] + (np.arange(SAMPLES) * STEP_S * 1000).astype("timedelta64[ms]")
    sessions = pa.DictionaryArray.from_arrays(
        np.repeat(np.arange(len(PLAN), dtype=np.int32), SAMPLES), [f"{name}-{k:03d}" for k in range(len(PLAN))]
    )
    kinds = pa.DictionaryArray.from_arrays(
        np.repeat(np.array([SESSION_KINDS.index(k) for k in PLAN], dtype=np.int32), SAMPLES), list(SESSION_KINDS)
    )
    labels = [vehicle.label if k >= vehicle.onset else CLASSES[0] for k in range(len(PLAN))]
    coded = pa.DictionaryArray.from_arrays(
        np.repeat(np.array([CLASSES.index(x) for x in labels], dtype=np.int32), SAMPLES), list(CLASSES)
    )
    return pa.table(
        [
            pa.array([name] * count, pa.string()),
            pa.array(stamps.ravel(), pa.timestamp("ms", tz="UTC")),
            sessions.cast(pa.string()),
            kinds.cast(pa.string()),
            *(pa.array(columns[column].ravel(), pa.float64()) for column in columns),
            coded.cast(pa.string()),
        ],
        schema=RAW_SCHEMA,
    )
