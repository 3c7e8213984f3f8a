"""How much shares vary between week-by-vehicle blocks, summed up as the reference streams by.

Sums only, so memory does not grow with rows, vehicles or weeks (a few counts a week apart).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ev_ml.drift_stats import (
    Floats,
    Null,
    coarse_groups,
    pooled,
    psi,
    psi_critical,
    rank_scores,
    shares,
    shift_critical,
    spread,
    standardised,
)

MIN_WEEKS = 4
"""Fewer weeks cannot tell a difference between weeks from chance."""

WEEK_P = 0.01
"""Chance, over all weeks, of taking noise for a difference between weeks."""

MIN_WEEK_VEHICLES = 10
"""A week with fewer vehicles says more of them than of the week."""


@dataclass(slots=True)
class Week:
    """One week's counts over all vehicles, shape (kinds, bins)."""

    counts: Floats
    vehicles: int = 0
    rows: float = 0.0
    missing: float = 0.0


@dataclass(slots=True)
class BlockSums:
    """Running sums over blocks of one column with `bins` bins."""

    bins: int
    kinds: int = 1
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
        kind: NDArray[np.intp] | None = None,
    ) -> None:
        """Add one row group.

        Args:
            index: each present row's bin.
            present: which rows have a value.
            block: each row's block in this row group, 0 to len(block_week) - 1.
            block_week: each block's week.
            kind: each row's kind of session; None is one kind.
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
        by_kind = index if kind is None else kind[present] * self.bins + index
        row_week, size = block_week[block[present]], self.kinds * self.bins
        for week in np.unique(block_week):
            of_week = block_week == week
            entry = self.weeks.setdefault(int(week), Week(np.zeros((self.kinds, self.bins))))
            found = np.bincount(by_kind[row_week == week], minlength=size).reshape(self.kinds, self.bins)
            entry.counts = entry.counts + found
            entry.vehicles += int(np.count_nonzero(rows[of_week]))
            entry.rows += float(rows[of_week].sum())
            entry.missing += float(missing[of_week].sum())

    def null(self, by_kind: NDArray[Any]) -> Null:
        """Return the block variances around the column's overall counts, given by kind: shape (kinds, bins)."""
        counts = by_kind.sum(axis=0)
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
        missing_var, square = self._missing_var(), float(np.sum(metric**2))
        found = Null(trace, square, shift_var, missing_var, total / self.blocks)
        week_psi, week_shift, week_missing = self._weeks(by_kind, found)
        return replace(found, week_psi=week_psi, week_shift=week_shift, week_missing=week_missing)

    def _missing_var(self) -> float:
        if self.blocks < 2 or self.rows == 0:
            return 0.0
        rate = self.missing / self.rows
        residual = self.missing_squares - 2 * rate * self.missing_products + rate**2 * self.row_squares
        return float(residual * self.blocks**2 / (self.blocks - 1) / self.rows**2)

    def _weeks(self, by_kind: NDArray[Any], null: Null) -> tuple[float, float, float]:
        """Return the most a week differed by beyond chance, in PSI, shift and missing share."""
        weeks = [week for week in self.weeks.values() if week.vehicles >= MIN_WEEK_VEHICLES]
        if len(weeks) < MIN_WEEKS:
            return 0.0, 0.0, 0.0
        p, total, rate = WEEK_P / len(weeks), sum(week.rows for week in weeks), self.missing / self.rows
        most = [0.0, 0.0, 0.0]
        for week in weeks:
            before, now, design = standardised(by_kind, week.counts)
            noise = spread(null, vehicles=week.vehicles, rows=1 << 62, reference_vehicles=1 << 62, design=design)
            outside = 1.0 - week.rows / total  # a week is part of what it is held against
            gone = abs(week.missing / week.rows - rate)
            if gone > shift_critical(p, replace(noise, shift_sd=float(np.sqrt(noise.missing_var * outside)))):
                most[2] = max(most[2], gone)
            if week.counts.sum() == 0:
                continue
            groups = coarse_groups(before)
            value = psi(pooled(before, groups), pooled(now, groups), week.vehicles)
            moved = abs(float(rank_scores(before) @ (now - before)))
            if value > psi_critical(p, noise) * outside:
                most[0] = max(most[0], value - null.psi_trace * noise.size * design * outside)
            if moved > shift_critical(p, noise) * float(np.sqrt(outside)):
                most[1] = max(most[1], moved)
        return most[0], most[1], most[2]
