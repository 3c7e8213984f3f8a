"""Fit the fault classifier: a choice among a few models by cross-validation over vehicles, then calibration."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pandas as pd
from sklearn.base import ClassifierMixin
from sklearn.calibration import CalibratedClassifierCV
from sklearn.ensemble import ExtraTreesClassifier, HistGradientBoostingClassifier
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score
from sklearn.model_selection import StratifiedGroupKFold, cross_val_predict
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from ev_ml.errors import DataError
from ev_ml.features import FEATURES
from ev_ml.schema import CLASSES, LABEL
from ev_ml.split import held_out_vehicles, vehicle_key

FOLDS = 3
MIN_VEHICLES = 2 * FOLDS


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
        return np.asarray(self.estimator.predict_proba(frame[list(self.features)]))

    def predict(self, frame: pd.DataFrame) -> np.ndarray:
        """Return the most probable class of each row."""
        return np.asarray(self.classes)[self.predict_proba(frame).argmax(axis=1)]


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
            SimpleImputer(**impute), HistGradientBoostingClassifier(max_iter=80, random_state=seed)
        ),
        "extra_trees": make_pipeline(
            SimpleImputer(**impute), ExtraTreesClassifier(150, min_samples_leaf=2, random_state=seed, n_jobs=2)
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
    frame = pd.read_parquet(path)
    frame = frame[frame[LABEL].notna()].reset_index(drop=True)
    if frame.empty:
        raise DataError("no session has a label", hint=f"training needs the column {LABEL}")
    if frame[LABEL].nunique() < 2:
        raise DataError(
            f"all {len(frame):,} sessions have the label {frame[LABEL].iloc[0]!r}", hint="one class cannot be learnt"
        )
    return frame


def fit(frame: pd.DataFrame, *, seed: int = 0) -> FaultModel:
    """Choose, fit and calibrate on every row of a labelled feature frame; deterministic for a seed."""
    groups, target = frame["vehicle_id"], frame[LABEL]
    if groups.nunique() < MIN_VEHICLES:
        raise DataError(f"{groups.nunique()} vehicle(s) to train on, at least {MIN_VEHICLES} are needed")
    if target.nunique() < 2:
        raise DataError("the vehicles to train on show one class only", hint="bring vehicles with faults")
    rows = frame[list(FEATURES)]
    folds = list(StratifiedGroupKFold(FOLDS, shuffle=True, random_state=seed).split(rows, target, groups))
    models = candidates(seed)
    scores = {}
    for name, candidate in models.items():
        guess = cross_val_predict(candidate, rows, target, cv=folds)
        scores[name] = float(f1_score(target, guess, average="macro"))
    chosen = max(scores, key=lambda name: scores[name])
    calibrated: ClassifierMixin = CalibratedClassifierCV(models[chosen], method="sigmoid", cv=folds, ensemble=False)
    out_of_fold = cross_val_predict(models[chosen], rows, target, cv=folds, method="predict_proba")
    calibrated.fit(rows, target)
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
