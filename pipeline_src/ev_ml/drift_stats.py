"""The statistics of the drift check, as pure functions of bin shares.

Rows of one vehicle resemble each other, so a row is not an observation: every variance here is that of shares
between week-by-vehicle blocks (a cluster-robust, Rao-Scott view of the counts) and n is the number of
vehicles.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

COARSE_SHARE = 0.1
"""PSI is taken over bins of about this share: its usual cut-offs (0.1, 0.25) were coined for ten bins."""

QUANTILES = (np.arange(200) + 0.5) / 200
"""Where quantile functions are compared for the Wasserstein distance."""


@dataclass(frozen=True, slots=True)
class Null:
    """How much a column's shares vary between week-by-vehicle blocks when nothing has changed.

    `psi_trace`, `psi_square`: trace and squared Frobenius norm of the blocks' covariance in PSI's metric,
    so PSI of m vehicles against n is about (1/m + 1/n) times a sum of weighted chi-squares with these first
    two moments. `shift_var`, `missing_var`: variance of one block's mean shift and missing share.
    `block_rows`: rows a block. `week_psi`, `week_shift`, `week_missing`: the most that one whole week
    differed by where chance between vehicles does not explain it (weather, habits); no number of vehicles
    averages that out.
    """

    psi_trace: float
    psi_square: float
    shift_var: float
    missing_var: float
    block_rows: float
    week_psi: float = 0.0
    week_shift: float = 0.0
    week_missing: float = 0.0


@dataclass(frozen=True, slots=True)
class Spread:
    """A `Null` brought to the sizes at hand: m new vehicles with so many rows each, against n."""

    psi_scale: float
    psi_df: float
    shift_sd: float
    missing_var: float
    size: float
    """1/m + 1/n: what the variance of one vehicle is multiplied by."""
    week_psi: float = 0.0
    week_shift: float = 0.0
    week_missing: float = 0.0


def spread(
    null: Null, *, vehicles: int, rows: int, reference_vehicles: int, weeks: int = 1, design: float = 1.0
) -> Spread:
    """Scale the block variances to a comparison of `vehicles` with `reference_vehicles`.

    `design` is what weighting kinds of sessions multiplies the variance by (`standardised`).

    Satterthwaite's two-moment chi-square (Rao and Scott 1984). New data with fewer rows a vehicle than the
    blocks had vary more, at most in inverse proportion; what weeks differ by averages out over `weeks` only.
    """
    size = 1.0 / max(vehicles, 1) + 1.0 / max(reference_vehicles, 1)
    fewer = max(1.0, null.block_rows / max(rows / max(vehicles, 1), 1.0)) * design
    mean = null.psi_trace * size * fewer
    df = max(1.0, null.psi_trace**2 / null.psi_square) if null.psi_square > 0 else 1.0
    held = max(weeks, 1)
    return Spread(
        psi_scale=mean / df,
        psi_df=df,
        shift_sd=float(np.sqrt(null.shift_var * size * fewer)),
        missing_var=null.missing_var * size * fewer / design,
        size=size,
        week_psi=null.week_psi / held,
        week_shift=null.week_shift / float(np.sqrt(held)),
        week_missing=null.week_missing / float(np.sqrt(held)),
    )


def psi_p(value: float, spread: Spread) -> float:
    """Probability of a PSI this large without drift.

    PSI is about a squared distance. What a week may differ by is a fixed vector to which the vehicles' noise is added, so
    the null is a scaled noncentral chi-square whose noncentrality is the week's PSI.
    """
    from scipy.special import chdtrc, chndtr

    if spread.psi_scale <= 0:
        return 1.0
    if spread.week_psi <= 0:
        return float(chdtrc(spread.psi_df, value / spread.psi_scale))
    return max(0.0, 1.0 - float(chndtr(value / spread.psi_scale, spread.psi_df, spread.week_psi / spread.psi_scale)))


def psi_critical(p: float, spread: Spread) -> float:
    """PSI that is exceeded with probability `p` without drift."""
    from scipy.special import chdtri, chndtrix

    if spread.psi_scale <= 0:
        return spread.week_psi
    if spread.week_psi <= 0:
        return float(chdtri(spread.psi_df, p)) * spread.psi_scale
    return float(chndtrix(1.0 - p, spread.psi_df, spread.week_psi / spread.psi_scale)) * spread.psi_scale


def shift_p(value: float, spread: Spread) -> float:
    """Two-sided probability of a shift this large without drift."""
    from scipy.special import ndtr

    noise = max(0.0, abs(value) - spread.week_shift)
    return 1.0 if spread.shift_sd <= 0 else float(2.0 * ndtr(-noise / spread.shift_sd))


def shift_critical(p: float, spread: Spread) -> float:
    """Absolute shift that is exceeded with probability `p` without drift."""
    from scipy.special import ndtri

    return float(-ndtri(p / 2.0)) * spread.shift_sd + spread.week_shift


def shares(counts: Sequence[int] | NDArray[Any]) -> Floats:
    """Return counts as shares; all zero when there is nothing."""
    array = np.asarray(counts, dtype=np.float64)
    total = array.sum()
    return array / total if total > 0 else array


MIN_KIND = 0.2
"""A kind of session is compared when the new data has at least this share of what the reference has of it."""


def standardised(reference: NDArray[Any], new: NDArray[Any]) -> tuple[Floats, Floats, float]:
    """Return both sides' shares at the reference's mix of kinds, and what the weighting does to the variance.

    A week in which more was driven than charged is no drift of the currents (direct standardisation, as rates are
    made comparable over age groups). The last is Kish's design effect, sum of w^2 / p over kinds.

    Args:
        reference: counts, shape (kinds, bins). new: the same of the new data.
    """
    before, after = reference.sum(axis=1).astype(float), new.sum(axis=1).astype(float)
    held = (before > 0) & (after > 0)
    if held.any():
        held &= after / after.sum() >= MIN_KIND * before / before.sum()
    if not held.any():
        return shares(reference.sum(axis=0)), shares(new.sum(axis=0)), 1.0
    weight, mix = before[held] / before[held].sum(), after[held] / after[held].sum()
    sides = [weight @ (side[held] / side[held].sum(axis=1, keepdims=True)) for side in (reference, new)]
    return sides[0], sides[1], float(np.sum(weight**2 / mix))


def coarse_groups(reference: Floats) -> NDArray[np.intp]:
    """Return each bin's group of neighbours, each of at least `COARSE_SHARE` where possible."""
    groups = np.zeros(len(reference), dtype=np.intp)
    group, held = 0, 0.0
    for index, share in enumerate(reference):
        groups[index] = group
        held += share
        rest = float(reference[index + 1 :].sum())
        if held >= COARSE_SHARE * 0.999 and rest >= COARSE_SHARE * 0.999:
            group, held = group + 1, 0.0
    return groups


def pooled(values: Floats, groups: NDArray[np.intp]) -> Floats:
    """Sum shares over groups."""
    return np.bincount(groups, weights=values, minlength=int(groups.max(initial=0)) + 1).astype(np.float64)


def psi(reference: Floats, new: Floats, vehicles: int) -> float:
    """Population Stability Index, the new shares drawn to the reference's by half a vehicle a bin.

    Without that a bin that few vehicles happen to miss would count as if it were empty for good.
    """
    prior = 0.5 * len(reference)
    drawn = (vehicles * new + prior * reference) / (vehicles + prior)
    held = (reference > 0) & (drawn > 0)
    return float(np.sum((drawn[held] - reference[held]) * np.log(drawn[held] / reference[held])))


def rank_scores(reference: Floats) -> Floats:
    """Return a normal score for each bin, mean 0 and variance 1 under the reference (van der Waerden)."""
    from scipy.special import ndtri

    middle = np.clip(np.cumsum(reference) - reference / 2, 1e-6, 1 - 1e-6)
    raw: Floats = ndtri(middle)
    raw = raw - float(raw @ reference)
    scale = float(np.sqrt(raw**2 @ reference))
    return raw / scale if scale > 0 else np.zeros_like(raw)


def shift(reference: Floats, new: Floats) -> float:
    """Return how far the new data moved, in standard deviations, on the reference's rank scale."""
    return float(rank_scores(reference) @ (new - reference))


def jensen_shannon(reference: Floats, new: Floats) -> float:
    """Jensen-Shannon distance, base 2, in 0..1."""
    middle = (reference + new) / 2

    def part(p: Floats) -> float:
        held = p > 0
        return float(np.sum(p[held] * np.log2(p[held] / middle[held])))

    return float(np.sqrt(max(0.0, (part(reference) + part(new)) / 2)))


def wasserstein(reference_quantiles: Floats, new_quantiles: Floats, std: float) -> float:
    """First Wasserstein distance from two quantile functions on the same grid, in the reference's std."""
    mean = float(np.mean(np.abs(reference_quantiles - new_quantiles)))
    return mean / std if std > 0 else (0.0 if mean == 0 else float("inf"))


def rejected(p_values: Floats, fdr: float) -> tuple[NDArray[np.bool_], float]:
    """Benjamini-Hochberg: which are rejected, and the p-value at which it cuts."""
    from scipy.stats import false_discovery_control

    if len(p_values) == 0:
        return np.zeros(0, dtype=bool), fdr
    rejects = false_discovery_control(np.clip(p_values, 0.0, 1.0)) <= fdr
    return rejects, fdr * max(1, int(rejects.sum())) / len(p_values)
