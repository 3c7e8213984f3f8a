"""What a session's features are: name, unit, formula. Each formula runs over all sessions of a batch at once.

Signatures of the faults: mean-difference models and voltage spread (Zheng et al. 2013, J. Power Sources
223:136), capacity by Ah per state of charge, resistance at current steps, the thermal mass of `physics.py`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ev_ml.segments import Floats, Ints, Mask, Segments, divide, where

STEP_A = 8.0
"""Smallest change of current taken as a step: well above a sensor's noise (0.2 A), below a driver's."""
QUIET_A = 2.0
"""Largest current of a pack at rest: its electronics' own."""
LOW_SOC_PCT, HIGH_SOC_PCT = 30.0, 75.0
"""Ends of charge, where cells of unlike capacity part."""
SPECIFIC_HEAT_J_PER_K, MASS_KG, COOLING_W_PER_K = 900.0, 1.2, 55.0
"""Nominal thermal figures of a cell and a pack (`physics.py`): for heat that current doesn't explain."""
NOMINAL_OHM, ACTIVATION_K, REFERENCE_K = 0.0018, 2400.0, 298.15
MIN_STD_V, MIN_STD_A, MIN_STD_SOC_PCT = 0.01, 3.0, 1.5
"""Less variation than this gives no slope."""


@dataclass(frozen=True)
class Batch:
    """Columns of some vehicles' rows in order, their sessions, and how many cells each session's pack has."""

    columns: dict[str, Floats]
    hours: Floats
    """Since the session's first sample."""
    sessions: Segments
    cells: Floats
    """Per session; NaN when no voltage is known."""
    kind: tuple[Mask, Mask, Mask]
    """Per session: drive, charge, rest."""


def cells_in_series(columns: dict[str, Floats], sessions: Segments, vehicle: Ints) -> Floats:
    """Return per session the vehicle's cell count: the slope of pack over mean cell voltage.

    Over all of a vehicle's sessions; a slope, because a pack sensor's bias would shift the ratio by a cell.
    `vehicle` numbers each session's vehicle.
    """
    pack, cell = columns["pack_voltage_v"], columns["cell_voltage_mean_v"]
    missing = np.isnan(pack) | np.isnan(cell)
    pack, cell = np.where(missing, np.nan, pack), np.where(missing, np.nan, cell)
    dx, dy = cell - sessions.spread(sessions.mean(cell)), pack - sessions.spread(sessions.mean(pack))
    varies, follows = sessions.total(dx * dx), sessions.total(dx * dy)
    ratio = np.nan_to_num(divide(sessions.mean(pack), sessions.mean(cell)))
    known = (~np.isnan(sessions.mean(cell))).astype(np.float64)
    size = int(vehicle.max()) + 1

    def by_vehicle(values: Floats) -> Floats:
        return np.bincount(vehicle, weights=values, minlength=size).astype(np.float64)

    slope = divide(by_vehicle(follows), by_vehicle(varies))
    plain = divide(by_vehicle(ratio * known), by_vehicle(known))
    spread_v = np.sqrt(divide(by_vehicle(varies), by_vehicle(sessions.count(cell))))
    with np.errstate(invalid="ignore"):
        trusted = (spread_v > 0.05) & (np.abs(slope - plain) < 0.1 * plain)
    cells: Floats = np.round(np.where(trusted, slope, plain)).astype(np.float64)
    return cells[vehicle]


def compute(batch: Batch) -> dict[str, Floats]:
    """Return every feature of `FEATURES`, one value a session."""
    out: dict[str, Floats] = {}
    for part in (_spread, _odd_cell, _steps, _charge, _heat, _sensors, _context):
        out.update(part(batch))
    return {name: np.where(np.isfinite(out[name]), out[name], np.nan) for name in FEATURES}


def _gaps(batch: Batch) -> tuple[Floats, Floats]:
    """Return mean minus lowest, and highest minus mean cell, in V."""
    c = batch.columns
    return (
        c["cell_voltage_mean_v"] - c["cell_voltage_min_v"],
        c["cell_voltage_max_v"] - c["cell_voltage_mean_v"],
    )


def _spread(batch: Batch) -> dict[str, Floats]:
    s, c = batch.sessions, batch.columns
    low, high = _gaps(batch)
    spread = low + high
    std = c["cell_voltage_std_v"]
    return {
        "spread_mean_v": s.mean(spread),
        "spread_std_v": s.std(spread),
        "spread_max_v": s.high(spread),
        "low_gap_mean_v": s.mean(low),
        "low_gap_max_v": s.high(low),
        "high_gap_mean_v": s.mean(high),
        "high_gap_max_v": s.high(high),
        "gap_skew_v": s.mean(low - high),
        "gap_skew_std_v": s.std(low - high),
        "cell_std_mean_v": s.mean(std),
        "cell_std_max_v": s.high(std),
    }


def _odd_cell(batch: Batch) -> dict[str, Floats]:
    """How the lowest and highest cell part from the mean over current, charge and time."""
    s, c = batch.sessions, batch.columns
    low, high = _gaps(batch)
    skew = low - high
    current, soc, hours = c["pack_current_a"], c["soc_pct"], batch.hours
    quiet = np.abs(current) < QUIET_A
    return {
        "low_gap_per_amp_ohm": s.slope(current, low, min_std=MIN_STD_A),
        "high_gap_per_amp_ohm": s.slope(current, high, min_std=MIN_STD_A),
        "spread_per_abs_amp_ohm": s.slope(np.abs(current), low + high, min_std=MIN_STD_A),
        "skew_per_soc_v": s.slope(soc, skew, min_std=MIN_STD_SOC_PCT),
        "low_soc_skew_v": s.mean(where(soc < LOW_SOC_PCT, skew)),
        "high_soc_skew_v": s.mean(where(soc > HIGH_SOC_PCT, skew)),
        "low_gap_drift_v_per_h": s.slope(hours, low, min_std=0.01),
        "rest_low_gap_v": s.mean(where(quiet, low)),
        "rest_high_gap_v": s.mean(where(quiet, high)),
        "rest_low_gap_drift_v_per_h": s.slope(where(quiet, hours), low, min_std=0.05),
        "low_mean_correlation": s.correlation(c["cell_voltage_min_v"], c["cell_voltage_mean_v"]),
    }


def _steps(batch: Batch) -> dict[str, Floats]:
    """Differential voltages: what a step of current does."""
    s, c = batch.sessions, batch.columns
    low, high = _gaps(batch)
    di = s.steps(c["pack_current_a"])
    with np.errstate(invalid="ignore"):
        di = where(np.abs(di) > STEP_A, di)
    power = s.total(di * di)

    def per_step(x: Floats) -> Floats:
        return divide(s.total(di * s.steps(x)), power)

    resistance = -per_step(c["cell_voltage_mean_v"])
    kelvin = s.mean(c["temperature_max_c"]) + 273.15
    at_25 = resistance / np.exp(ACTIVATION_K * (1.0 / kelvin - 1.0 / REFERENCE_K))
    return {
        "step_resistance_ohm": resistance,
        "step_resistance_25c_ohm": at_25,
        "low_step_resistance_ohm": per_step(low),
        "high_step_resistance_ohm": per_step(high),
        "odd_step_resistance_ratio": divide(per_step(low) - per_step(high), resistance),
    }


def _charge(batch: Batch) -> dict[str, Floats]:
    s, c = batch.sessions, batch.columns
    seconds = s.steps(batch.hours)
    # the sample before says what flowed since: as a battery management system counts
    before = np.empty_like(seconds)
    before[0], before[1:] = np.nan, c["pack_current_a"][:-1]
    charge = s.running(before * seconds)
    return {
        "ah_per_soc": -s.slope(c["soc_pct"], charge, min_std=MIN_STD_SOC_PCT),
        "dq_dv_ah_per_v": -s.slope(c["cell_voltage_mean_v"], charge, min_std=MIN_STD_V),
        "volt_per_soc": s.slope(c["soc_pct"], c["cell_voltage_mean_v"], min_std=MIN_STD_SOC_PCT),
    }


def _heat(batch: Batch) -> dict[str, Floats]:
    s, c = batch.sessions, batch.columns
    hot, cold, ambient = c["temperature_max_c"], c["temperature_min_c"], c["ambient_c"]
    hours = s.last(batch.hours)
    kelvin = s.mean(hot) + 273.15
    ohm = NOMINAL_OHM * np.exp(ACTIVATION_K * (1.0 / kelvin - 1.0 / REFERENCE_K))
    mass = SPECIFIC_HEAT_J_PER_K * MASS_KG * batch.cells
    seconds = hours * 3600.0
    joule = batch.cells * s.mean(np.square(c["pack_current_a"])) * ohm * seconds
    rise = s.last(hot) - s.first(hot)
    shed = COOLING_W_PER_K * s.mean(hot - ambient) * seconds
    return {
        "temperature_gap_mean_c": s.mean(hot - cold),
        "temperature_gap_std_c": s.std(hot - cold),
        "temperature_rise_c": rise,
        "temperature_over_ambient_c": s.mean(hot - ambient),
        "heat_unexplained_c": rise + divide(shed - joule, mass),
        "temperature_max_std_c": s.std(hot),
        "temperature_min_std_c": s.std(cold),
    }


def _sensors(batch: Batch) -> dict[str, Floats]:
    """Do the sensors agree with each other, do they jump, are they stuck?"""
    s, c = batch.sessions, batch.columns
    low, high = _gaps(batch)
    residual = c["pack_voltage_v"] - s.spread(batch.cells) * c["cell_voltage_mean_v"]

    def jitter(x: Floats) -> Floats:
        # second differences see noise, not slow physics; of white noise they have six times its variance
        return np.sqrt(s.mean(np.square(s.steps(s.steps(x)))) / 6.0)

    hot_steps = s.steps(c["temperature_max_c"])
    same = np.where(np.isnan(hot_steps), np.nan, (hot_steps == 0.0).astype(np.float64))
    return {
        "pack_residual_mean_v": s.mean(residual),
        "pack_residual_abs_v": np.abs(s.mean(residual)),
        "pack_residual_std_v": s.std(residual),
        "low_gap_jitter_v": jitter(low),
        "high_gap_jitter_v": jitter(high),
        "pack_residual_jump_v": s.high(np.abs(s.steps(residual))),
        "temperature_stuck_share": s.mean(same),
        "insulation_mean_kohm": s.mean(c["insulation_kohm"]),
        "insulation_min_kohm": s.low(c["insulation_kohm"]),
    }


def _context(batch: Batch) -> dict[str, Floats]:
    s, c = batch.sessions, batch.columns
    drive, charge, rest = (mask.astype(np.float64) for mask in batch.kind)
    current = c["pack_current_a"]
    return {
        "ambient_mean_c": s.mean(c["ambient_c"]),
        "current_mean_a": s.mean(current),
        "current_rms_a": np.sqrt(s.mean(np.square(current))),
        "soc_start_pct": s.first(c["soc_pct"]),
        "soc_span_pct": s.high(c["soc_pct"]) - s.low(c["soc_pct"]),
        "odometer_km": s.mean(c["odometer_km"]),
        "is_drive": drive,
        "is_charge": charge,
        "is_rest": rest,
    }


FEATURE_UNITS: dict[str, str] = {
    "spread_mean_v": "V",
    "spread_std_v": "V",
    "spread_max_v": "V",
    "low_gap_mean_v": "V",
    "low_gap_max_v": "V",
    "high_gap_mean_v": "V",
    "high_gap_max_v": "V",
    "gap_skew_v": "V",
    "gap_skew_std_v": "V",
    "cell_std_mean_v": "V",
    "cell_std_max_v": "V",
    "low_gap_per_amp_ohm": "ohm",
    "high_gap_per_amp_ohm": "ohm",
    "spread_per_abs_amp_ohm": "ohm",
    "skew_per_soc_v": "V/%",
    "low_soc_skew_v": "V",
    "high_soc_skew_v": "V",
    "low_gap_drift_v_per_h": "V/h",
    "rest_low_gap_v": "V",
    "rest_high_gap_v": "V",
    "rest_low_gap_drift_v_per_h": "V/h",
    "low_mean_correlation": "1",
    "step_resistance_ohm": "ohm",
    "step_resistance_25c_ohm": "ohm",
    "low_step_resistance_ohm": "ohm",
    "high_step_resistance_ohm": "ohm",
    "odd_step_resistance_ratio": "1",
    "ah_per_soc": "Ah/%",
    "dq_dv_ah_per_v": "Ah/V",
    "volt_per_soc": "V/%",
    "temperature_gap_mean_c": "degC",
    "temperature_gap_std_c": "degC",
    "temperature_rise_c": "degC",
    "temperature_over_ambient_c": "degC",
    "heat_unexplained_c": "degC",
    "temperature_max_std_c": "degC",
    "temperature_min_std_c": "degC",
    "pack_residual_mean_v": "V",
    "pack_residual_abs_v": "V",
    "pack_residual_std_v": "V",
    "low_gap_jitter_v": "V",
    "high_gap_jitter_v": "V",
    "pack_residual_jump_v": "V",
    "temperature_stuck_share": "1",
    "insulation_mean_kohm": "kohm",
    "insulation_min_kohm": "kohm",
    "ambient_mean_c": "degC",
    "current_mean_a": "A",
    "current_rms_a": "A",
    "soc_start_pct": "%",
    "soc_span_pct": "%",
    "odometer_km": "km",
    "is_drive": "1",
    "is_charge": "1",
    "is_rest": "1",
}
FEATURES = tuple(FEATURE_UNITS)
"""Names of the features, in the order of the model's columns."""
