"""The drift reference of a model and the features it was trained from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import joblib
import numpy as np
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from ev_ml.features import FEATURE_UNITS, FEATURES
from ev_ml.reference import build_reference
from ev_ml.split import vehicle_key
from ev_ml.train import FaultModel


def reference_document(features: Path, model: Path) -> dict[str, Any]:
    """Return the reference profile as JSON; scores are those of vehicles the model has not seen."""
    fitted: FaultModel = joblib.load(model)

    def held_out(vehicles: np.ndarray) -> np.ndarray:
        return np.array([vehicle_key(str(v)) not in fitted.training_vehicles for v in vehicles])

    # one thread: see train.fit
    with threadpool_limits(1):
        return build_reference(
            features,
            names=FEATURES,
            units=FEATURE_UNITS,
            predict=fitted.predict_proba,
            classes=fitted.classes,
            held_out=held_out,
        ).to_json()
