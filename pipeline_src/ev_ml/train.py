"""Fit the fault classifier: choose among a few models by cross-validation over vehicles, then calibrate."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pandas as pd
import pyarrow as pa
from sklearn.base import ClassifierMixin
from sklearn.calibration import CalibratedClassifierCV
from sklearn.ensemble import ExtraTreesClassifier, HistGradientBoostingClassifier
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score
from sklearn.model_selection import StratifiedGroupKFold, cross_val_predict
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from ev_ml.errors import DataError
from ev_ml.features import FEATURES
from ev_ml.schema import CLASSES, LABEL
from ev_ml.split import FOLDS, check_learnable, held_out_vehicles, vehicle_key


@dataclass(frozen=True, slots=True)
class FaultModel:
    """What `model.joblib` holds: the estimator and what is needed to use and to judge it honestly."""

    estimator: Any
    """Calibrated scikit-learn classifier over `features`; its `classes_` are sorted names."""
    features: tuple[str, ...]
    classes: tuple[str, ...]
    """Class names in the order of `predict_proba`'s columns."""
    thresholds: dict[str, float]
    """Per class: the probability at which it is told, best F1 out of fold."""
    training_vehicles: frozenset[str]
    """Keys (`split.vehicle_key`) of the vehicles it has seen."""
    candidates: dict[str, float]
    """Macro F1 by candidate, out of fold."""
    chosen: str

    def predict_proba(self, frame: pd.DataFrame) -> np.ndarray:
        """Return class probabilities, shape (rows, classes)."""
        return np.asarray(self.estimator.predict_proba(frame[list(self.features)]), dtype=np.float64)

    def predict(self, frame: pd.DataFrame) -> np.ndarray:
        """Return the most probable class of each row."""
        told: np.ndarray = np.asarray(self.classes)[self.predict_proba(frame).argmax(axis=1)]
        return told

    def __reduce__(self) -> tuple[Any, ...]:
        # a set is pickled in the order of its hashes, which differs from process to process
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return _restore, ({**values, "training_vehicles": sorted(self.training_vehicles)},)


def _restore(values: dict[str, Any]) -> FaultModel:
    return FaultModel(**{**values, "training_vehicles": frozenset(values["training_vehicles"])})


@dataclass(frozen=True, slots=True)
class TrainReport:
    """How training went."""

    chosen: str
    candidates: dict[str, float]
    sessions: int
    vehicles: int

    @property
    def summary(self) -> str:
        """One line for the task tree."""
        return f"{self.chosen}, macro F1 {self.candidates[self.chosen]:.3f} over {FOLDS} folds of vehicles"


def candidates(seed: int) -> dict[str, Pipeline]:
    """Return the untrained candidates, by name."""
    impute = {"strategy": "median", "keep_empty_features": True}
    return {
        "hist_gradient_boosting": make_pipeline(
            SimpleImputer(**impute),
            HistGradientBoostingClassifier(
                max_iter=80,
                max_leaf_nodes=16,
                l2_regularization=5.0,
                early_stopping=False,
                random_state=seed,
            ),
        ),
        "extra_trees": make_pipeline(
            SimpleImputer(**impute), ExtraTreesClassifier(150, min_samples_leaf=2, random_state=seed)
        ),
        "logistic_regression": make_pipeline(
            SimpleImputer(**impute), StandardScaler(), LogisticRegression(C=0.1, max_iter=500)
        ),
    }


def train(features: Path, model: Path, *, seed: int = 0) -> TrainReport:
    """Fit on the vehicles that are not held out and write a `FaultModel` with joblib.

    Raises:
        DataError: no labels, one class only, or too few vehicles.
    """
    frame = load_features(features)
    held_out = held_out_vehicles(frame)
    fitted = fit(frame[~frame["vehicle_id"].isin(held_out)], seed=seed)
    joblib.dump(fitted, model, compress=3)
    return TrainReport(fitted.chosen, fitted.candidates, len(frame), frame["vehicle_id"].nunique())


def load_features(path: Path) -> pd.DataFrame:
    """Return a labelled feature frame. DataError when it cannot be learnt from."""
    try:
        frame = pd.read_parquet(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"{path.name} is not a readable Parquet file: {error}") from error
    if missing := [name for name in ("vehicle_id", LABEL, *FEATURES) if name not in frame]:
        raise DataError(f"{path.name} lacks {', '.join(missing)}", hint="generate the features again")
    frame = frame[frame[LABEL].notna()].reset_index(drop=True)
    if frame.empty:
        raise DataError("no session has a label", hint=f"training needs the column {LABEL}")
    return frame


def fit(frame: pd.DataFrame, *, seed: int = 0) -> FaultModel:
    """Choose, fit and calibrate on every row of a labelled feature frame; deterministic for a seed."""
    # whatever order the sessions came in
    frame = frame.sort_values(["vehicle_id", "session_id"], ignore_index=True)
    groups, target = frame["vehicle_id"], frame[LABEL]
    check_learnable(frame)
    rows = frame[list(FEATURES)]
    folds = list(StratifiedGroupKFold(FOLDS, shuffle=True, random_state=seed).split(rows, target, groups))
    models = candidates(seed)
    names = np.unique(target)
    scores, guesses = {}, {}
    # OpenMP's threads wait for each other by spinning: on a shared machine two are many times slower than one
    with threadpool_limits(1):
        for name, candidate in models.items():
            guess = cross_val_predict(candidate, rows, target, cv=folds, method="predict_proba")
            guesses[name] = guess
            scores[name] = float(f1_score(target, names[guess.argmax(axis=1)], average="macro"))
        chosen = max(scores, key=lambda name: scores[name])
        calibrated: ClassifierMixin = CalibratedClassifierCV(
            models[chosen], method="temperature", cv=folds, ensemble=False
        )
        calibrated.fit(rows, target.to_numpy())
    # what temperature scaling (Guo et al. 2017) does to a probability, done to those the thresholds come from
    beta = float(calibrated.calibrated_classifiers_[0].calibrators[0].beta_)
    out_of_fold = np.clip(guesses[chosen], 1e-12, 1.0) ** beta
    out_of_fold /= out_of_fold.sum(axis=1, keepdims=True)
    _clear_padding(calibrated)
    classes = tuple(str(name) for name in calibrated.classes_)
    return FaultModel(
        estimator=calibrated,
        features=FEATURES,
        classes=classes,
        thresholds=_thresholds(out_of_fold, target.to_numpy(), classes),
        training_vehicles=frozenset(vehicle_key(v) for v in groups.unique()),
        candidates=scores,
        chosen=chosen,
    )


def _clear_padding(calibrated: Any) -> None:
    """Zero the unused bytes of trees' nodes: they hold what was in memory, which would change the digest."""
    for inner in calibrated.calibrated_classifiers_:
        for tree in getattr(inner.estimator[-1], "estimators_", ()):
            state = tree.tree_.__getstate__()
            nodes = np.zeros(state["nodes"].shape, state["nodes"].dtype)
            for name in nodes.dtype.names:
                nodes[name] = state["nodes"][name]
            tree.tree_.__setstate__({**state, "nodes": nodes})


def _thresholds(probability: np.ndarray, target: np.ndarray, classes: tuple[str, ...]) -> dict[str, float]:
    grid = np.linspace(0.05, 0.95, 19)
    best = {}
    for column, name in enumerate(classes):
        truth = target == name
        told = probability[:, column, None] >= grid
        hits = (told & truth[:, None]).sum(axis=0)
        f1 = 2 * hits / np.maximum(1, told.sum(axis=0) + truth.sum())
        best[name] = float(grid[int(f1.argmax())])
    return best


def fault_classes(classes: tuple[str, ...]) -> tuple[str, ...]:
    """Return the classes that are faults, in the schema's order."""
    return tuple(name for name in CLASSES[1:] if name in classes)
