"""Statistics over consecutive rows of a session, for all sessions of a table at once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ev_ml.schema import CHANNEL_NAMES

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Segments:
    """The rows of whole sessions, and where each begins. Row arrays are (rows,), results (sessions,)."""

    columns: Mapping[str, Floats]
    starts: NDArray[np.int64]
    """Row of each session's first sample in the table this was made of."""
    offsets: NDArray[np.int64]
    lengths: NDArray[np.int64]
    hours: Floats
    step_h: Floats
    """Hours since the previous sample of the session; 0 at its first."""

    @classmethod
    def of(cls, table: pa.Table, min_samples: int) -> Segments | None:
        """Return the sessions with at least `min_samples` rows, or None if there is none."""
        if table.num_rows == 0:
            return None
        codes = [
            table.column(name).combine_chunks().dictionary_encode().indices.to_numpy()
            for name in ("vehicle_id", "session_id")
        ]
        change = np.flatnonzero((np.diff(codes[0]) != 0) | (np.diff(codes[1]) != 0)) + 1
        starts = np.concatenate([[0], change]).astype(np.int64)
        lengths = np.diff(np.append(starts, table.num_rows))
        whole = lengths >= min_samples
        if not whole.any():
            return None
        rows = np.repeat(whole, lengths)
        stamps = table.column("timestamp").cast(pa.int64()).to_numpy()[rows]
        columns = {name: table.column(name).to_numpy()[rows] for name in CHANNEL_NAMES}
        starts, lengths = starts[whole], lengths[whole]
        offsets = np.concatenate([[0], np.cumsum(lengths)[:-1]]).astype(np.int64)
        hours = (stamps - np.repeat(stamps[offsets], lengths)) / 3_600_000.0
        step = np.diff(hours, prepend=0.0)
        step[offsets] = 0.0
        return cls(columns, starts, offsets, lengths, hours, step)

    def __getitem__(self, name: str) -> Floats:
        return self.columns[name]

    def sum(self, values: NDArray[np.generic]) -> Floats:
        """Return each session's sum."""
        total: Floats = np.add.reduceat(np.asarray(values, dtype=np.float64), self.offsets)
        return total

    def mean(self, values: Floats) -> Floats:
        """Return each session's mean."""
        return self.sum(values) / self.lengths

    def spread_out(self, per_session: Floats) -> Floats:
        """Return a session's value at each of its rows."""
        return np.repeat(per_session, self.lengths)

    def centred(self, values: Floats) -> Floats:
        """Return the rows less their session's mean, so that sums of squares keep their digits."""
        return values - self.spread_out(self.mean(values))

    def std(self, values: Floats) -> Floats:
        """Return each session's standard deviation (population)."""
        return np.sqrt(self.mean(self.centred(values) ** 2))

    def maximum(self, values: Floats) -> Floats:
        """Return each session's largest value."""
        top: Floats = np.maximum.reduceat(values, self.offsets)
        return top

    def minimum(self, values: Floats) -> Floats:
        """Return each session's smallest value."""
        bottom: Floats = np.minimum.reduceat(values, self.offsets)
        return bottom

    def first(self, values: Floats) -> Floats:
        """Return each session's first value."""
        return values[self.offsets]

    def last(self, values: Floats) -> Floats:
        """Return each session's last value."""
        return values[self.offsets + self.lengths - 1]

    def diff(self, values: Floats) -> Floats:
        """Return the change since the session's previous row; 0 at its first."""
        change = np.diff(values, prepend=values[0])
        change[self.offsets] = 0.0
        return change

    def running(self, values: Floats) -> Floats:
        """Return the sum since the session's first row."""
        total = np.cumsum(values)
        return total - self.spread_out(total[self.offsets] - values[self.offsets])

    def slope(self, y: Floats, x: Floats) -> Floats:
        """Return the least-squares slope of y over x; NaN where x does not vary."""
        cx = self.centred(x)
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where((v := self.sum(cx**2)) > 0, self.sum(cx * y) / v, np.nan)

    def correlation(self, y: Floats, x: Floats) -> Floats:
        """Return Pearson's correlation; NaN where either does not vary."""
        cx, cy = self.centred(x), self.centred(y)
        with np.errstate(divide="ignore", invalid="ignore"):
            scale = np.sqrt(self.sum(cx**2) * self.sum(cy**2))
            return np.where(scale > 1e-12, self.sum(cx * cy) / scale, np.nan)
