"""The features as one would first write them: a pandas loop over sessions. The oracle of the vectorised ones.

Written from the definitions, not from the vectorised code: numpy and pandas on one session at a time.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

KEYS = ["vehicle_id", "session_id"]


def slope(x, y, least):
    """Least-squares slope of y over x; NaN where x varies too little."""
    both = x.notna() & y.notna()
    x, y = x[both], y[both]
    if len(x) == 0 or not x.std(ddof=0) >= least:
        return np.nan
    return ((x - x.mean()) * (y - y.mean())).mean() / x.var(ddof=0)


def cells_of(vehicle):
    """Cells in series, from all of a vehicle's sessions."""
    groups = [g for _, g in vehicle.groupby("session_id", sort=False)]
    var = sum(((g.cell_voltage_mean_v - g.cell_voltage_mean_v.mean()) ** 2).sum() for g in groups)
    cov = sum(
        ((g.cell_voltage_mean_v - g.cell_voltage_mean_v.mean()) * (g.pack_voltage_v - g.pack_voltage_v.mean())).sum()
        for g in groups
    )
    plain = np.mean([g.pack_voltage_v.mean() / g.cell_voltage_mean_v.mean() for g in groups])
    enough = np.sqrt(var / len(vehicle)) > 0.05
    sloped = cov / var if var else np.nan
    return np.round(sloped if enough and abs(sloped - plain) < 0.1 * plain else plain)


def session_features(g, cells):
    """One session's features by name."""
    current, mean = g.pack_current_a, g.cell_voltage_mean_v
    low, high = mean - g.cell_voltage_min_v, g.cell_voltage_max_v - mean
    spread, skew = low + high, low - high
    seconds = (g.timestamp - g.timestamp.iloc[0]).dt.total_seconds()
    hours, soc = seconds / 3600, g.soc_pct
    quiet = current.abs() < 2.0
    di = current.diff()
    di = di.where(di.abs() > 8.0)
    power = (di**2).sum()

    def per_step(x):
        return (di * x.diff()).sum() / power if power else np.nan

    hot, cold, ambient = g.temperature_max_c, g.temperature_min_c, g.ambient_c
    arrhenius = np.exp(2400.0 * (1 / (hot.mean() + 273.15) - 1 / 298.15))
    resistance = -per_step(mean)
    charge = (current.shift() * hours.diff()).fillna(0).cumsum()
    rise = hot.iloc[-1] - hot.iloc[0]
    joule = cells * (current**2).mean() * 0.0018 * arrhenius * seconds.iloc[-1]
    shed = 55.0 * (hot - ambient).mean() * seconds.iloc[-1]
    residual = g.pack_voltage_v - cells * mean

    def jitter(x):
        return np.sqrt((x.diff().diff() ** 2).mean() / 6)

    return {
        "spread_mean_v": spread.mean(),
        "spread_std_v": spread.std(ddof=0),
        "spread_max_v": spread.max(),
        "low_gap_mean_v": low.mean(),
        "low_gap_max_v": low.max(),
        "high_gap_mean_v": high.mean(),
        "high_gap_max_v": high.max(),
        "gap_skew_v": skew.mean(),
        "gap_skew_std_v": skew.std(ddof=0),
        "cell_std_mean_v": g.cell_voltage_std_v.mean(),
        "cell_std_max_v": g.cell_voltage_std_v.max(),
        "low_gap_per_amp_ohm": slope(current, low, 3.0),
        "high_gap_per_amp_ohm": slope(current, high, 3.0),
        "spread_per_abs_amp_ohm": slope(current.abs(), spread, 3.0),
        "skew_per_soc_v": slope(soc, skew, 1.5),
        "low_soc_skew_v": skew[soc < 30].mean(),
        "high_soc_skew_v": skew[soc > 75].mean(),
        "low_gap_drift_v_per_h": slope(hours, low, 0.01),
        "rest_low_gap_v": low[quiet].mean(),
        "rest_high_gap_v": high[quiet].mean(),
        "rest_low_gap_drift_v_per_h": slope(hours[quiet], low[quiet], 0.05),
        "low_mean_correlation": np.corrcoef(g.cell_voltage_min_v, mean)[0, 1],
        "step_resistance_ohm": resistance,
        "step_resistance_25c_ohm": resistance / arrhenius,
        "low_step_resistance_ohm": per_step(low),
        "high_step_resistance_ohm": per_step(high),
        "odd_step_resistance_ratio": per_step(skew) / resistance,
        "ah_per_soc": -slope(soc, charge, 1.5),
        "dq_dv_ah_per_v": -slope(mean, charge, 0.01),
        "volt_per_soc": slope(soc, mean, 1.5),
        "temperature_gap_mean_c": (hot - cold).mean(),
        "temperature_gap_std_c": (hot - cold).std(ddof=0),
        "temperature_rise_c": rise,
        "temperature_over_ambient_c": (hot - ambient).mean(),
        "heat_unexplained_c": rise + (shed - joule) / (900.0 * 1.2 * cells),
        "temperature_max_std_c": hot.std(ddof=0),
        "temperature_min_std_c": cold.std(ddof=0),
        "pack_residual_mean_v": residual.mean(),
        "pack_residual_abs_v": abs(residual.mean()),
        "pack_residual_std_v": residual.std(ddof=0),
        "low_gap_jitter_v": jitter(low),
        "high_gap_jitter_v": jitter(high),
        "pack_residual_jump_v": residual.diff().abs().max(),
        "temperature_stuck_share": (hot.diff().iloc[1:] == 0).mean(),
        "insulation_mean_kohm": g.insulation_kohm.mean(),
        "insulation_min_kohm": g.insulation_kohm.min(),
        "ambient_mean_c": ambient.mean(),
        "current_mean_a": current.mean(),
        "current_rms_a": np.sqrt((current**2).mean()),
        "soc_start_pct": soc.iloc[0],
        "soc_span_pct": soc.max() - soc.min(),
        "odometer_km": g.odometer_km.mean(),
        "is_drive": float(g.session_kind.iloc[0] == "drive"),
        "is_charge": float(g.session_kind.iloc[0] == "charge"),
        "is_rest": float(g.session_kind.iloc[0] == "rest"),
    }


def naive_features(raw: pd.DataFrame) -> pd.DataFrame:
    """One row per session, in order of appearance, of clean telemetry."""
    rows = []
    for vehicle_id, vehicle in raw.groupby("vehicle_id", sort=False):
        cells = cells_of(vehicle)
        for session_id, session in vehicle.groupby("session_id", sort=False):
            found = session_features(session, cells)
            rows.append({"vehicle_id": vehicle_id, "session_id": session_id, **found})
    return pd.DataFrame(rows)
