"""How much shares vary between week-by-vehicle blocks, summed up as the reference streams by.

Sums only, so memory does not grow with rows, vehicles or weeks (a few counts a week apart).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ev_ml.drift_stats import Floats, Null, coarse_groups, pooled, rank_scores, shares

MIN_WEEKS = 4
"""Fewer weeks cannot tell a difference between weeks from chance."""

MIN_WEEK_VEHICLES = 10
"""A week with fewer vehicles says more of them than of the week."""


@dataclass(slots=True)
class Week:
    """One week's counts over all vehicles."""

    counts: Floats
    vehicles: int = 0


@dataclass(slots=True)
class BlockSums:
    """Running sums over blocks of one column with `bins` bins."""

    bins: int
    blocks: int = 0
    products: Floats = field(default_factory=lambda: np.zeros((0, 0)))
    weighted: Floats = field(default_factory=lambda: np.zeros(0))
    squares: float = 0.0
    rows: float = 0.0
    missing: float = 0.0
    missing_squares: float = 0.0
    missing_products: float = 0.0
    row_squares: float = 0.0
    weeks: dict[int, Week] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.products = np.zeros((self.bins, self.bins))
        self.weighted = np.zeros(self.bins)

    def add(
        self,
        index: NDArray[np.intp],
        present: NDArray[np.bool_],
        block: NDArray[np.intp],
        block_week: NDArray[np.int64],
    ) -> None:
        """Add one row group.

        Args:
            index: each present row's bin.
            present: which rows have a value.
            block: each row's block in this row group, 0 to len(block_week) - 1.
            block_week: each block's week.
        """
        blocks = len(block_week)
        flat = np.bincount(block[present] * self.bins + index, minlength=blocks * self.bins)
        counts = flat.reshape(blocks, self.bins).astype(np.float64)
        rows = np.bincount(block, minlength=blocks).astype(np.float64)
        held = counts.sum(axis=1)
        missing = rows - held
        self.blocks += blocks
        self.products += counts.T @ counts
        self.weighted += held @ counts
        self.squares += float(held @ held)
        self.rows += float(rows.sum())
        self.missing += float(missing.sum())
        self.missing_squares += float(missing @ missing)
        self.missing_products += float(missing @ rows)
        self.row_squares += float(rows @ rows)
        for week in np.unique(block_week):
            of_week = block_week == week
            entry = self.weeks.setdefault(int(week), Week(np.zeros(self.bins)))
            entry.counts = entry.counts + counts[of_week].sum(axis=0)
            entry.vehicles += int(np.count_nonzero(held[of_week]))

    def null(self, counts: NDArray[Any]) -> Null:
        """Return the block variances around the column's overall `counts`."""
        q, total = shares(counts), float(np.sum(counts))
        if self.blocks < 2 or total == 0:
            return Null(0.0, 0.0, 0.0, self._missing_var(), 0.0)
        cross = np.outer(self.weighted, q)
        residual = self.products - cross - cross.T + self.squares * np.outer(q, q)
        covariance = residual * self.blocks**2 / (self.blocks - 1) / total**2
        groups = coarse_groups(q)
        size = int(groups.max()) + 1
        pool = np.zeros((size, self.bins))
        pool[groups, np.arange(self.bins)] = 1.0
        coarse = pooled(q, groups)
        root = 1.0 / np.sqrt(coarse)
        metric = (pool @ covariance @ pool.T) * np.outer(root, root)
        scores = rank_scores(q)
        trace, shift_var = float(np.trace(metric)), float(scores @ covariance @ scores)
        week_psi, week_shift = self._weeks(q, groups, trace, shift_var)
        return Null(
            psi_trace=trace,
            psi_square=float(np.sum(metric**2)),
            shift_var=shift_var,
            missing_var=self._missing_var(),
            block_rows=total / self.blocks,
            week_psi=week_psi,
            week_shift=week_shift,
        )

    def _missing_var(self) -> float:
        if self.blocks < 2 or self.rows == 0:
            return 0.0
        rate = self.missing / self.rows
        residual = self.missing_squares - 2 * rate * self.missing_products + rate**2 * self.row_squares
        return float(residual * self.blocks**2 / (self.blocks - 1) / self.rows**2)

    def _weeks(
        self, q: Floats, groups: NDArray[np.intp], trace: float, shift_var: float
    ) -> tuple[float, float]:
        """Return what weeks differ by beyond their vehicles' noise: in PSI, and as variance of the shift."""
        weeks = [week for week in self.weeks.values() if week.vehicles >= MIN_WEEK_VEHICLES]
        if len(weeks) < MIN_WEEKS:
            return 0.0, 0.0
        coarse, scores = pooled(q, groups), rank_scores(q)
        total = sum(float(week.counts.sum()) for week in weeks)
        excess_psi, excess_shift = [], []
        for week in weeks:
            p = shares(week.counts)
            noise = (1.0 - float(week.counts.sum()) / total) / week.vehicles
            off = pooled(p, groups) - coarse
            excess_psi.append(float(np.sum(off**2 / coarse)) - trace * noise)
            excess_shift.append(float(scores @ (p - q)) ** 2 - shift_var * noise)
        return max(0.0, float(np.mean(excess_psi))), max(0.0, float(np.mean(excess_shift)))
