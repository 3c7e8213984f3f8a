"""Small real bundles: a real estimator over the real feature names, random rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pandas as pd
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from ev_ml.bundle import Manifest, build
from ev_ml.features import FEATURES
from ev_ml.schema import CLASSES, LABEL
from ev_ml.train import FaultModel

RECALL = 0.9


def make_bundle(folder: Path, data_version: str, *, seed: int, recall: float = RECALL) -> Manifest:
    work = folder.with_name(folder.name + ".work")
    work.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    frame = pd.DataFrame(rng.normal(size=(120, len(FEATURES))), columns=list(FEATURES))
    frame.iloc[::7, 2:-3] = np.nan
    frame[LABEL] = [CLASSES[n % len(CLASSES)] for n in range(len(frame))]
    frame["vehicle_id"] = [f"ev-{n % 20}" for n in range(len(frame))]
    estimator = make_pipeline(SimpleImputer(), LogisticRegression(max_iter=200)).fit(
        frame[list(FEATURES)], frame[LABEL]
    )
    classes = tuple(str(c) for c in estimator.classes_)
    model = FaultModel(
        estimator=estimator, features=tuple(FEATURES), classes=classes, thresholds=dict.fromkeys(classes, 0.5),
        training_vehicles=frozenset(), candidates={"lr": 0.9}, chosen="lr",
    )  # fmt: skip
    joblib.dump(model, work / "m.joblib")
    frame.to_parquet(work / "f.parquet")
    evaluation: dict[str, Any] = dict.fromkeys(
        ("accuracy", "pr_auc", "roc_auc", "false_alarms_per_1000", "brier", "ece", "sessions", "vehicles"), 0.9
    )
    evaluation |= {"recall": recall, "per_class": {name: {"recall": recall} for name in classes}}
    return build(
        folder, model=work / "m.joblib", features=work / "f.parquet", evaluation=evaluation,
        reference={"rows": 120}, provenance={"data_version": data_version, "run_id": f"run-{data_version}"},
    )  # fmt: skip
