"""Is the model as sure as it is right? Told in bins of confidence."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

BINS = 15
"""The number Guo et al. report with, and most others since."""


def reliability(probability: NDArray[np.float64], right: NDArray[np.bool_], bins: int = BINS) -> list[list[float]]:
    """Return `[mean confidence, share that was right, rows]` of each bin that has rows, from unsure to sure.

    Args:
        probability: class probabilities, shape (rows, classes); a row's confidence is its largest.
        right: whether the told class was the true one, shape (rows,).
        bins: equal-width bins over 0..1, closed on the right.
    """
    confidence = probability.max(axis=1) if len(probability) else np.zeros(0)
    index = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    rows = np.bincount(index, minlength=bins)
    sure = np.bincount(index, weights=confidence, minlength=bins)
    hits = np.bincount(index, weights=right, minlength=bins)
    return [[float(sure[k] / rows[k]), float(hits[k] / rows[k]), int(rows[k])] for k in np.flatnonzero(rows)]


def expected_calibration_error(found: list[list[float]]) -> float:
    """Return the mean gap between confidence and accuracy over `reliability`'s bins, weighted by rows; 0 to 1.

    ECE = sum over bins of n_b / n * |accuracy_b - confidence_b|: Naeini, Cooper and Hauskrecht (AAAI 2015), for the
    most probable class as in Guo, Pleiss, Sun and Weinberger, "On Calibration of Modern Neural Networks" (ICML 2017).
    """
    total = sum(rows for _, _, rows in found)
    return sum(rows * abs(right - sure) for sure, right, rows in found) / total if total else 0.0
