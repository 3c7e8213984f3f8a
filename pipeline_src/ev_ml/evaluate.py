"""Judge a model on held-out vehicles; vehicles, not rows, are what chance is over."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

import joblib
import numpy as np
import pandas as pd
from sklearn.inspection import permutation_importance
from sklearn.metrics import (
    average_precision_score,
    confusion_matrix,
    precision_recall_curve,
    roc_auc_score,
    roc_curve,
)
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from ev_ml.calibration import expected_calibration_error, reliability
from ev_ml.errors import DataError
from ev_ml.schema import CLASSES, LABEL
from ev_ml.split import held_out_vehicles, vehicle_key
from ev_ml.train import FaultModel, load_features

CURVE_POINTS = 120
BOOTSTRAPS = 400
SUSTAINED = 2
"""Sessions of a vehicle that must be told faulty before it counts as an alarm."""


class LeakageError(DataError):
    """A vehicle is on both sides of the split."""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """How well a model does on vehicles it has not seen. Recalls and rates are shares, curves lists of [x, y]."""

    accuracy: float
    recall: float
    """Macro recall over the fault classes."""
    pr_auc: float
    """Average precision of "any fault"; its baseline is `prevalence`."""
    roc_auc: float
    prevalence: float
    false_alarms_per_1000: float
    """Healthy vehicles raised as an alarm, per 1,000 healthy vehicles."""
    brier: float
    classes: tuple[str, ...]
    per_class: dict[str, dict[str, float]]
    """Per class: recall, precision, support, and the 95 % bootstrap interval of recall over vehicles (low, high)."""
    confusion: list[list[int]]
    """Rows are true classes, columns told ones, in the order of `classes`."""
    roc: list[list[float]]
    pr: list[list[float]]
    importances: dict[str, float]
    """Drop of accuracy when a feature is shuffled, largest first, at most 15."""
    sessions: int
    vehicles: int
    thresholds: dict[str, float] = field(default_factory=dict)
    candidates: dict[str, float] = field(default_factory=dict)
    chosen: str = ""
    ece: float = 0.0
    """Expected calibration error: how far, on average, confidence is from accuracy (`ev_ml.calibration`)."""
    calibration: list[list[float]] = field(default_factory=list)
    """Per bin of confidence: mean confidence, share that was right, sessions."""
    roc_thresholds: list[float] = field(default_factory=list)
    """The score from which on a session is told faulty, for each point of `roc`."""

    @property
    def summary(self) -> str:
        """One line for the task tree."""
        return f"accuracy {self.accuracy:.4f}, fault recall {self.recall:.3f} on {self.vehicles} held-out vehicles"

    def to_json(self) -> str:
        """Return the evaluation as JSON."""
        return json.dumps(asdict(self), indent=1)

    @classmethod
    def from_json(cls, text: str) -> Evaluation:
        """Return an evaluation from `to_json`'s text."""
        return cls(**{**(document := json.loads(text)), "classes": tuple(document["classes"])})


def evaluate(model: Path, features: Path, *, seed: int = 0) -> Evaluation:
    """Evaluate on the held-out vehicles of the features the model was trained from.

    Raises:
        LeakageError: the model has seen a held-out vehicle.
        DataError: the features cannot be used.
    """
    fitted = joblib.load(model)
    frame = load_features(features)
    held_out = held_out_vehicles(frame)
    test = frame[frame["vehicle_id"].isin(held_out)].reset_index(drop=True)
    assert_disjoint(fitted, held_out)
    # one thread: see train.fit
    with threadpool_limits(1):
        return judge(fitted, test, seed=seed)


def assert_disjoint(model: FaultModel, held_out: frozenset[str]) -> None:
    """Raise LeakageError when the model was trained on one of these vehicles."""
    seen = {vehicle_key(v) for v in held_out} & model.training_vehicles
    if seen:
        raise LeakageError(f"{len(seen)} held-out vehicle(s) were trained on", hint="train again with this data")


def judge(model: FaultModel, test: pd.DataFrame, *, seed: int = 0) -> Evaluation:
    """Return the evaluation of a model on labelled feature rows."""
    truth = test[LABEL].to_numpy()
    probability = model.predict_proba(test)
    told = np.asarray(model.classes)[probability.argmax(axis=1)]
    classes = tuple(c for c in CLASSES if c in model.classes or c in set(truth))
    healthy = CLASSES[0]
    fault = truth != healthy
    score = 1.0 - probability[:, model.classes.index(healthy)] if healthy in model.classes else np.ones(len(test))
    both = 0 < fault.sum() < len(fault)
    recall = {c: float((told[truth == c] == c).mean()) if (truth == c).any() else 0.0 for c in classes}
    onehot = truth[:, None] == np.asarray(model.classes)[None, :]
    faults = [c for c in classes if c != healthy and (truth == c).any()]
    calibration = reliability(probability, told == truth)
    roc, thresholds = _roc(fault, score) if both else ([], [])
    return Evaluation(
        accuracy=float((told == truth).mean()),
        recall=float(np.mean([recall[c] for c in faults])) if faults else 0.0,
        pr_auc=float(average_precision_score(fault, score)) if both else 0.0,
        roc_auc=float(roc_auc_score(fault, score)) if both else 0.0,
        prevalence=float(fault.mean()),
        false_alarms_per_1000=_false_alarms(test["vehicle_id"], truth, told),
        brier=float(((probability - onehot) ** 2).sum(axis=1).mean()),
        classes=classes,
        per_class=_per_class(test["vehicle_id"], truth, told, classes, recall, seed),
        confusion=confusion_matrix(truth, told, labels=list(classes)).tolist(),
        roc=roc,
        pr=_pr(fault, score) if both else [],
        importances=_importances(model, test, seed),
        sessions=len(test),
        vehicles=int(test["vehicle_id"].nunique()),
        thresholds=model.thresholds,
        candidates=model.candidates,
        chosen=model.chosen,
        ece=expected_calibration_error(calibration),
        calibration=calibration,
        roc_thresholds=thresholds,
    )


def _false_alarms(vehicles: pd.Series, truth: np.ndarray, told: np.ndarray) -> float:
    rows = pd.DataFrame({"vehicle": vehicles, "fault": truth != CLASSES[0], "alarm": told != CLASSES[0]})
    by_vehicle = rows.groupby("vehicle").agg(fault=("fault", "any"), alarms=("alarm", "sum"))
    healthy = by_vehicle[~by_vehicle["fault"]]
    return float(1000.0 * (healthy["alarms"] >= SUSTAINED).mean()) if len(healthy) else 0.0


def _per_class(
    vehicles: pd.Series,
    truth: np.ndarray,
    told: np.ndarray,
    classes: tuple[str, ...],
    recall: dict[str, float],
    seed: int,
) -> dict[str, dict[str, float]]:
    rng = np.random.default_rng(seed)
    codes, names = pd.factorize(vehicles)
    out = {}
    for name in classes:
        support = np.bincount(codes, weights=truth == name, minlength=len(names))
        hits = np.bincount(codes, weights=(truth == name) & (told == name), minlength=len(names))
        draws = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), size=BOOTSTRAPS)
        total = draws @ support
        rates = (draws @ hits)[total > 0] / total[total > 0]
        low, high = np.quantile(rates, [0.025, 0.975]) if len(rates) else (0.0, 0.0)
        said = told == name
        out[name] = {
            "recall": recall[name],
            "precision": float((truth[said] == name).mean()) if said.any() else 0.0,
            "support": int(support.sum()),
            "low": float(low),
            "high": float(high),
        }
    return out


def _thin(points: np.ndarray) -> list[list[float]]:
    keep = np.unique(np.linspace(0, len(points) - 1, min(CURVE_POINTS, len(points))).astype(int))
    return [[round(float(value), 5) for value in row] for row in points[keep]]


def _roc(fault: np.ndarray, score: np.ndarray) -> tuple[list[list[float]], list[float]]:
    rate, hit, cut = roc_curve(fault, score)
    # the first point is "tell nothing": scikit-learn's infinity is no JSON, and no score is above one
    rows = _thin(np.column_stack([rate, hit, np.minimum(cut, 1.0)]))
    return [row[:2] for row in rows], [row[2] for row in rows]


def _pr(fault: np.ndarray, score: np.ndarray) -> list[list[float]]:
    precision, hit, _ = precision_recall_curve(fault, score)
    return _thin(np.column_stack([hit, precision])[::-1])


def _importances(model: FaultModel, test: pd.DataFrame, seed: int) -> dict[str, float]:
    sample = test.sample(min(len(test), 400), random_state=seed)
    columns = list(model.features)

    def accuracy(estimator: object, rows: pd.DataFrame, target: pd.Series) -> float:
        return float((model.predict(rows) == target.to_numpy()).mean())

    found = permutation_importance(
        model.estimator, sample[columns], sample[LABEL], scoring=accuracy, n_repeats=1, random_state=seed
    )
    order = np.argsort(-found.importances_mean)[:15]
    return {columns[i]: float(found.importances_mean[i]) for i in order}
