"""All trees of a histogram gradient boosting walked at once, for the few rows of one request.

scikit-learn asks each tree by a call of its own, and a model of 480 trees spends most of a single row's time on the calls.
Here a row stands at one node of every tree, and all take a step together. The answer is the same to the last bit, which is
checked on the bundle's golden rows; where it is not, or a tree asks what this does not know, scikit-learn's own way stays.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import HistGradientBoostingClassifier

MOST_ROWS = 16
"""More rows than this at once, and scikit-learn's compiled loop over rows is as fast."""


class Trees:
    """The nodes of all trees of a fitted model, end to end; a leaf leads to itself."""

    def __init__(self, model: Any) -> None:
        kept = [predictor for each in model._predictors for predictor in each]
        nodes = np.concatenate([predictor.nodes for predictor in kept])
        if nodes["is_categorical"].any():
            raise ValueError("a tree splits by category")
        sizes = [len(predictor.nodes) for predictor in kept]
        self._roots = np.concatenate([[0], np.cumsum(sizes)[:-1]])
        start, own = np.repeat(self._roots, sizes), np.arange(len(nodes))
        leaf = nodes["is_leaf"].astype(bool)
        self._left = np.where(leaf, own, nodes["left"] + start)
        self._right = np.where(leaf, own, nodes["right"] + start)
        self._feature, self._threshold = nodes["feature_idx"].copy(), nodes["num_threshold"].copy()
        self._missing_left, self._value = nodes["missing_go_to_left"].astype(bool), nodes["value"].copy()
        self._depth = max(predictor.get_max_depth() for predictor in kept)
        self._each = len(model._predictors[0])

    def add(self, rows: NDArray[np.float64], raw: NDArray[np.float64]) -> None:
        """Add all trees' values to `raw`, shape (rows, classes), in the order in which boosting made them."""
        at = np.broadcast_to(self._roots, (len(rows), len(self._roots)))
        gaps = bool(np.isnan(rows).any())
        for _ in range(self._depth):
            value = np.take_along_axis(rows, self._feature[at], axis=1)
            left = value <= self._threshold[at]
            if gaps:
                left |= np.isnan(value) & self._missing_left[at]
            at = np.where(left, self._left[at], self._right[at])
        told = self._value[at].reshape(len(rows), -1, self._each)
        # one after the other: a sum in another order differs in its last bits
        raw[:] = np.cumsum(np.concatenate([raw[:, None, :], told], axis=1), axis=1)[:, -1]


def quicken(estimator: Any, rows: NDArray[np.float64]) -> bool:
    """Let a fitted estimator answer few rows by `Trees`; whether it does.

    Args:
        estimator: anything fitted that holds the boosting, such as a calibrated pipeline.
        rows: what both ways must answer alike, shape (rows, features).
    """
    # a calibrator also holds the boosting that it has fitted copies of
    found = [
        each
        for each in within(estimator)
        if isinstance(each, HistGradientBoostingClassifier) and hasattr(each, "_predictors")
    ]
    slow = [estimator.predict_proba(row[None]) for row in rows]
    try:
        for each in found:
            _patch(each)
        same = all(np.array_equal(estimator.predict_proba(row[None]), old) for row, old in zip(rows, slow, strict=True))
    except (AttributeError, KeyError, ValueError):
        same = False
    if not same:
        for each in found:
            vars(each).pop("_predict_iterations", None)
    return bool(found) and same


def _patch(model: Any) -> None:
    trees, usual = Trees(model), model._predict_iterations

    def few(rows: Any, predictors: Any, raw: Any, is_binned: bool, n_threads: int) -> None:
        if is_binned or len(rows) > MOST_ROWS or predictors is not model._predictors:
            usual(rows, predictors, raw, is_binned, n_threads)
        else:
            trees.add(rows, raw)

    model._predict_iterations = few


def within(estimator: Any) -> list[Any]:
    """Return every estimator inside one, itself included."""
    seen: dict[int, Any] = {}
    stack, found = [estimator], []
    while stack:
        each = stack.pop()
        if id(each) in seen or isinstance(each, str | bytes | int | float | np.ndarray | type(None)):
            continue
        seen[id(each)] = each
        if isinstance(each, list | tuple):
            stack.extend(each)
        elif hasattr(each, "get_params"):
            found.append(each)
            stack.extend(vars(each).values())
        elif type(each).__module__.startswith("sklearn."):
            stack.extend(vars(each).values() if hasattr(each, "__dict__") else ())
    return found
