"""One column against the reference's bins: integer counts only, so parts add up exactly."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ev_ml.drift_stats import QUANTILES, Floats

KIND_COLUMNS = ("is_drive", "is_charge", "is_rest")
"""The features that say what a session is."""

TAIL_STEPS = 8
"""Bins an octave for values outside the reference's range: enough to recognise another unit."""

TAIL_LIMIT = 1200
"""No double has an exponent beyond 1100."""


@dataclass(slots=True)
class Tally:
    """Counts of one column: per bin, missing or not finite, and outside the reference's range by size."""

    counts: NDArray[np.int64]
    missing: int = 0
    tail: Counter[int] = field(default_factory=Counter)
    kinds: NDArray[np.int64] | None = None
    """The counts by kind of session, shape (kinds, bins); None where kinds are not told apart."""

    @property
    def present(self) -> int:
        """Rows that have a value."""
        return int(self.counts.sum())

    @property
    def out_of_range(self) -> int:
        """Rows outside the reference's smallest and largest value."""
        return sum(self.tail.values())

    def merge(self, other: Tally) -> None:
        """Add another part's counts."""
        self.counts = self.counts + other.counts
        self.missing += other.missing
        self.tail.update(other.tail)
        if self.kinds is not None and other.kinds is not None:
            self.kinds = self.kinds + other.kinds


def inner_edges(sample: Floats, bins: int) -> tuple[float, ...]:
    """Return the inner edges of quantile bins; none is empty on the sample, and ties stay together.

    An edge lies half-way between two values that occur: a sensor's steps then move bins when they move by half a step,
    up or down, and no edge is anybody's measurement.
    """
    values = sample[np.isfinite(sample)]
    if values.size == 0:
        return ()
    cuts = np.unique(np.quantile(values, np.arange(1, bins) / bins, method="higher"))
    known = np.unique(values)
    at = np.searchsorted(known, cuts[cuts > known[0]])
    return tuple(float(edge) for edge in np.unique(known[at - 1] / 2 + known[at] / 2))


def bin_index(values: Floats, edges: Sequence[float]) -> NDArray[np.intp]:
    """Return each value's bin; a value on an edge belongs to the bin above."""
    return np.searchsorted(np.asarray(edges), values, side="right")


def tally(values: Floats, edges: Sequence[float], low: float, high: float) -> Tally:
    """Count one column of one batch."""
    finite = np.isfinite(values)
    present = int(np.count_nonzero(finite))
    kept = values if present == values.size else values[finite]
    # One vectorised comparison an edge is several times faster than a binary search a value.
    above = [present, *(int(np.count_nonzero(kept >= edge)) for edge in edges), 0]
    counts: NDArray[np.int64] = np.array([a - b for a, b in pairwise(above)], dtype=np.int64)
    result = Tally(counts, values.size - present)
    if present and (kept.min() < low or kept.max() > high):
        result.tail.update(tail_keys(kept[(kept < low) | (kept > high)]))
    return result


def tally_kinds(values: Floats, kinds: NDArray[np.intp], edges: Sequence[float], low: float, high: float) -> Tally:
    """Count one column of one batch by kind of session."""
    parts = [tally(values[kinds == kind], edges, low, high) for kind in range(len(KIND_COLUMNS))]
    whole = parts[0]
    whole.kinds = np.stack([part.counts for part in parts])
    for part in parts[1:]:
        whole.merge(part)
    return whole


def tail_keys(values: Floats) -> dict[int, int]:
    """Count values by sign and size: 0 is zero, else sign * (TAIL_LIMIT * TAIL_STEPS + floor(8 log2 |x|))."""
    size = np.abs(values)
    with np.errstate(divide="ignore", invalid="ignore"):  # zero has no octave; where() does not take it
        octaves = np.floor(TAIL_STEPS * np.log2(size))
        keys = np.where(size > 0, np.sign(values) * (octaves + TAIL_LIMIT * TAIL_STEPS), 0).astype(np.int64)
    found, counts = np.unique(keys, return_counts=True)
    return {int(k): int(c) for k, c in zip(found, counts, strict=True)}


def tail_value(key: int) -> float:
    """Return the value a tail key stands for."""
    if key == 0:
        return 0.0
    size: float = 2.0 ** min((abs(key) + 0.5) / TAIL_STEPS - TAIL_LIMIT, 1020.0)
    return size if key > 0 else -size


def quantiles(
    counts: NDArray[np.int64],
    edges: Sequence[float],
    low: float,
    high: float,
    tail: Mapping[int, int] | None = None,
) -> Floats:
    """Return the values at `QUANTILES`, linear within a bin; those outside stand where their size says."""
    outside = sorted((tail_value(key), count) for key, count in (tail or {}).items())
    below = [(value, count) for value, count in outside if value < low]
    above = [(value, count) for value, count in outside if value >= low]
    inner = np.asarray(counts, dtype=np.float64).copy()
    inner[0] -= sum(count for _, count in below)
    inner[-1] -= sum(count for _, count in above)
    knots: list[tuple[float, float]] = []
    reached = 0.0
    for value, count in below:
        knots += [(reached, value), (reached + count, value)]
        reached += count
    bounds = [low, *edges, high]
    for index, count in enumerate(inner):
        if count > 0:
            knots += [(reached, bounds[index]), (reached + count, bounds[index + 1])]
            reached += count
    for value, count in above:
        knots += [(reached, value), (reached + count, value)]
        reached += count
    if not knots:
        return np.full(QUANTILES.shape, np.nan)
    mass, values = np.asarray(knots).T
    found: Floats = np.interp(QUANTILES * reached, mass, values)
    return found


def to_float(column: Any) -> Floats:
    """Return an Arrow column as float64, nulls as NaN; no copy where none is needed."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_dictionary(column.type) or not (
        pa.types.is_floating(column.type) or pa.types.is_integer(column.type) or pa.types.is_boolean(column.type)
    ):
        column = pc.cast(column, pa.float64())
    elif not pa.types.is_float64(column.type):
        column = column.cast(pa.float64())
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks() if column.num_chunks != 1 else column.chunk(0)
    return np.asarray(column.to_numpy(zero_copy_only=False), dtype=np.float64)


def row_weeks(table: Any) -> NDArray[np.int64]:
    """Return each row's week since 1970 from `session_start`; 0 where there is none."""
    if "session_start" not in table.schema.names:
        return np.zeros(table.num_rows, dtype=np.int64)
    import pyarrow as pa

    stamps = table.column("session_start").cast(pa.timestamp("s", "UTC"), safe=False).cast(pa.int64())
    seconds = np.nan_to_num(stamps.to_numpy(zero_copy_only=False).astype(np.float64), nan=0.0)
    weeks: NDArray[np.int64] = (seconds // (7 * 86_400)).astype(np.int64)
    return weeks


def row_kinds(table: Any) -> NDArray[np.intp] | None:
    """Return each row's kind of session, an index into `KIND_COLUMNS`; None where the columns are not there."""
    if not set(KIND_COLUMNS) <= set(table.schema.names):
        return None
    columns = [np.nan_to_num(to_float(table.column(name))) for name in KIND_COLUMNS]
    found: NDArray[np.intp] = np.argmax(np.stack(columns), axis=0)
    return found
