"""Is new data broken rather than drifted: a column in another unit, or values that stopped coming.

Retraining on such data would teach the model the defect, so either of these blocks it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ev_ml.drift_bins import Tally, quantiles
from ev_ml.drift_stats import Floats, Spread
from ev_ml.reference import ReferenceColumn

MOVED = 1.0
"""Reference deviations a column must have moved before its unit is doubted."""

RESTORED = 0.25
"""Deviations within which the conversion must bring it back (a quarter: far less than it moved)."""

OWN_MOVED = 0.5
"""The same for a column's own other unit (miles for km), whose exact factor chance rarely meets."""

OWN_RESTORED = 0.3
"""Share of its move that must be gone once it is converted."""

IMPLAUSIBLE = 20.0
"""Deviations no weather and no new supplier moves a whole fleet by: the simulated v3's largest move is 7."""

MISSING_Z = 3.0
"""Standard errors by which a share of missing values must exceed the reference's."""

ANY_UNIT = (
    (1000.0, 0.0, "1000 times too large"),
    (0.001, 0.0, "1000 times too small"),
    (1e6, 0.0, "a million times too large"),
    (1e-6, 0.0, "a million times too small"),
    (100.0, 0.0, "100 times too large"),
    (0.01, 0.0, "100 times too small"),
    (-1.0, 0.0, "of the opposite sign"),
)
"""What a broken unit does, as (factor, offset): new = factor * right + offset."""

TEMPERATURE = ((1.8, 32.0, "in degrees Fahrenheit"), (1.0, 273.15, "in kelvin"))
DISTANCE = ((1 / 1.609344, 0.0, "in miles"),)


@dataclass(frozen=True, slots=True)
class Defect:
    """What is wrong with one column. `effect` orders them: 1 is as bad as it gets."""

    column: str
    reason: str
    effect: float


def unit_defect(column: ReferenceColumn, new: Tally) -> Defect | None:
    """Say whether a known conversion brings a column that moved far back onto the reference."""
    if new.present == 0 or not any(column.counts):
        return None
    before = quantiles(np.asarray(column.counts), column.edges, column.low, column.high)
    after = quantiles(new.counts, column.edges, column.low, column.high, new.tail)
    scale = column.std or max(abs(column.mean) * 0.01, 1e-12)
    moved = _distance(before, after, scale)
    if OWN_MOVED <= moved < MOVED:
        for factor, offset, words in own_units(column):
            if _distance(before, (after - offset) / factor, scale) <= OWN_RESTORED * moved:
                return Defect(column.name, f"{column.name} looks {words}", 1.0)
    if moved < MOVED:
        return None
    # Far moves are read off the tail's eighths of an octave; that is how exact a conversion can look.
    slack = max(RESTORED, 0.06 * float(np.median(np.abs(before))) / scale)
    if slack > moved / 4:
        return _implausible(column, new, moved)
    for factor, offset, words in candidates(column):
        if _distance(before, (after - offset) / factor, scale) <= slack:
            return Defect(column.name, f"{column.name} looks {words}", 1.0)
    return _implausible(column, new, moved)


def _implausible(column: ReferenceColumn, new: Tally, moved: float) -> Defect | None:
    """A column computed from one in another unit fits no conversion, but lies where no battery does."""
    if moved < IMPLAUSIBLE or new.out_of_range < 0.9 * new.present:
        return None
    reason = f"{column.name} is {moved:.0f} deviations away and outside all that was trained on: a unit or sensor?"
    return Defect(column.name, reason, 1.0)


def candidates(column: ReferenceColumn) -> tuple[tuple[float, float, str], ...]:
    """Return the conversions that make sense for a column's unit."""
    return own_units(column) + ANY_UNIT


def own_units(column: ReferenceColumn) -> tuple[tuple[float, float, str], ...]:
    """Return the conversions from the other units in which this quantity is measured somewhere."""
    unit, name = column.unit.lower(), column.name.lower()
    if unit in {"°c", "c", "degc", "celsius"} or (not unit and name.endswith("_c")):
        return TEMPERATURE
    if unit == "km" or (not unit and name.endswith("_km")):
        return DISTANCE
    return ()


def missing_defect(column: ReferenceColumn, new: Tally, spread: Spread, limit: float) -> Defect | None:
    """Say whether values are missing by more than `limit` beyond the reference, and not by chance."""
    rate = new.missing / max(1, new.missing + new.present)
    rise = rate - column.missing_rate
    if rise <= limit:
        return None
    middle = (rate + column.missing_rate) / 2
    # A reference that lacks nothing shows no variance; then each vehicle either has the values or not.
    variance = max(spread.missing_var, middle * (1 - middle) * spread.size)
    if rise <= spread.week_missing + MISSING_Z * float(np.sqrt(variance)):
        return None
    reason = f"{column.name} is missing in {rate:.0%} of the rows, {column.missing_rate:.0%} in the reference"
    return Defect(column.name, reason, rate)


def _distance(before: Floats, after: Floats, scale: float) -> float:
    """Return the mean distance of two quantile functions' middle 90 percent, sorted, in deviations."""
    after = np.sort(after)
    cut = len(before) // 20
    return float(np.mean(np.abs(before[cut:-cut] - after[cut:-cut]))) / scale
