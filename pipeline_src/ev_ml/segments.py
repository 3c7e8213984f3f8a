"""Statistics of many sessions at once: columns over all rows in, one value a session out.

Rows of a session are consecutive. A value that is not a number is left out; NaN where none is left.
"""

from __future__ import annotations

from functools import cached_property

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Mask = NDArray[np.bool_]


class Segments:
    """Consecutive runs of rows: `starts` are their first rows, `rows` the rows in all."""

    def __init__(self, starts: Ints, rows: int) -> None:
        self.starts = starts
        self.rows = rows
        self.lengths: Ints = np.diff(np.append(starts, rows)).astype(np.int64)

    def __len__(self) -> int:
        return len(self.starts)

    @cached_property
    def of_row(self) -> Ints:
        """Number of the segment of each row."""
        return np.repeat(np.arange(len(self), dtype=np.int64), self.lengths)

    @cached_property
    def first_rows(self) -> Mask:
        """Which rows begin a segment."""
        mask = np.zeros(self.rows, dtype=np.bool_)
        mask[self.starts] = True
        return mask

    def spread(self, values: Floats) -> Floats:
        """Return each segment's value on each of its rows."""
        return np.repeat(values, self.lengths)

    def total(self, x: Floats) -> Floats:
        """Return sums, a missing value counting nothing."""
        return np.asarray(np.add.reduceat(np.where(np.isnan(x), 0.0, x), self.starts))

    def count(self, x: Floats) -> Floats:
        """Return how many values there are."""
        return np.asarray(np.add.reduceat((~np.isnan(x)).astype(np.float64), self.starts))

    def mean(self, x: Floats) -> Floats:
        """Return means."""
        return divide(self.total(x), self.count(x))

    def std(self, x: Floats) -> Floats:
        """Return population standard deviations (two passes: no cancellation)."""
        out: Floats = np.sqrt(self.mean(np.square(x - self.spread(self.mean(x)))))
        return out

    def low(self, x: Floats) -> Floats:
        """Return minima."""
        return np.asarray(np.fmin.reduceat(x, self.starts))

    def high(self, x: Floats) -> Floats:
        """Return maxima."""
        return np.asarray(np.fmax.reduceat(x, self.starts))

    def first(self, x: Floats) -> Floats:
        """Return the values of the first rows."""
        return x[self.starts]

    def last(self, x: Floats) -> Floats:
        """Return the values of the last rows."""
        out: Floats = x[self.starts + self.lengths - 1]
        return out

    def steps(self, x: Floats) -> Floats:
        """Return differences to the row before, per row; NaN on first rows."""
        out = np.empty_like(x)
        out[0] = np.nan
        np.subtract(x[1:], x[:-1], out=out[1:])
        out[self.first_rows] = np.nan
        return out

    def slope(self, x: Floats, y: Floats, *, min_std: float) -> Floats:
        """Return least-squares slopes of y over x; NaN where x varies by less than `min_std`."""
        both = np.isnan(x) | np.isnan(y)
        x, y = np.where(both, np.nan, x), np.where(both, np.nan, y)
        dx, dy = x - self.spread(self.mean(x)), y - self.spread(self.mean(y))
        variance = self.mean(dx * dx)
        with np.errstate(invalid="ignore"):
            flat = ~(variance >= min_std * min_std)
        return np.where(flat, np.nan, divide(self.mean(dx * dy), variance))

    def correlation(self, x: Floats, y: Floats) -> Floats:
        """Return Pearson correlations; NaN where either is constant."""
        both = np.isnan(x) | np.isnan(y)
        x, y = np.where(both, np.nan, x), np.where(both, np.nan, y)
        dx, dy = x - self.spread(self.mean(x)), y - self.spread(self.mean(y))
        return divide(self.mean(dx * dy), np.sqrt(self.mean(dx * dx) * self.mean(dy * dy)))

    def running(self, x: Floats) -> Floats:
        """Return running sums from each segment's first row, a missing value counting nothing."""
        sums = np.cumsum(np.where(np.isnan(x), 0.0, x))
        before = sums[self.starts] - np.nan_to_num(x[self.starts])
        return sums - self.spread(before)


def divide(top: Floats, bottom: Floats) -> Floats:
    """Return quotients; NaN where the divisor is 0."""
    out = np.full(np.broadcast(top, bottom).shape, np.nan)
    np.divide(top, bottom, out=out, where=bottom != 0)
    return out


def where(mask: Mask, x: Floats) -> Floats:
    """Return x with what the mask leaves out missing."""
    return np.where(mask, x, np.nan)
