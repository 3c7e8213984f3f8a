"""Raw telemetry to the live model: the features of training, a V2 request, an answer a session."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from evctl.errors import FailedError, NotFoundError, UnavailableError, UsageError, trim
from evctl.rollout.serving.base import ServingWorld
from evctl.rollout.serving.golden import call
from evctl.rollout.target import ServiceTarget

ROWS_A_REQUEST = 1000


def predict_file(target: ServiceTarget, world: ServingWorld, file: Path) -> dict[str, Any]:
    """Return the live model's answer for each session of a telemetry file.

    Raises:
        UsageError: no telemetry. UnavailableError: nothing serves. FailedError: the model refused the request.
    """
    features = _features(file)
    now = world.read()
    if now.state != "serving" or now.url is None:
        raise UnavailableError(f"{target.name} is {now.state}", hint="evctl serving start, or evctl promote")
    sessions: list[dict[str, Any]] = []
    model: dict[str, Any] = {}
    for start in range(0, len(features), ROWS_A_REQUEST):
        found, model = _ask(target, int(now.url.rpartition(":")[2]), features.iloc[start : start + ROWS_A_REQUEST])
        sessions += found
    return {"model": model, "sessions": sessions}


def _features(file: Path) -> Any:
    import pandas as pd

    from ev_ml.errors import DataError
    from ev_ml.features import from_raw_frame

    if not file.is_file():
        raise NotFoundError(f"{file} does not exist")
    try:
        frame = pd.read_parquet(file) if ".parquet" in file.suffixes else pd.read_csv(file)
        if "timestamp" in frame:
            frame["timestamp"] = pd.to_datetime(frame["timestamp"], utc=True)
        return from_raw_frame(frame)
    except DataError as error:
        raise UsageError(f"{file}: {error.message}", hint=error.hint) from error
    except (ValueError, OSError) as error:
        raise UsageError(f"{file} is no telemetry: {trim(str(error))}") from error


def _ask(target: ServiceTarget, port: int, rows: Any) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    from ev_ml.features import FEATURES

    inputs = [
        {
            "name": name,
            "shape": [len(rows)],
            "datatype": "FP64",
            "data": [None if math.isnan(value) else value for value in rows[name].tolist()],
        }
        for name in FEATURES
    ]
    try:
        status, answer = call(port, "POST", f"/v2/models/{target.name}/infer", {"inputs": inputs}, timeout_s=60)
    except OSError as error:
        raise UnavailableError(f"{target.name} does not answer: {trim(str(error))}", hint="evctl serving") from error
    if status != 200:
        raise FailedError(f"the model answered {status}: {trim(str(answer))}", hint="evctl serving")
    told = {output["name"]: output["data"] for output in answer["outputs"]}
    classes, thresholds = told["classes"], told["thresholds"]
    found = []
    for number, name in enumerate(told["class"]):
        scores = told["probabilities"][number * len(classes) : (number + 1) * len(classes)]
        probability = dict(zip(classes, scores, strict=True))
        above = [c for c, t in zip(classes, thresholds, strict=True) if c != name and probability[c] >= t]
        row = rows.iloc[number]
        found.append(
            {
                "vehicle_id": str(row["vehicle_id"]),
                "session_id": str(row["session_id"]),
                "class": name,
                "probability": probability[name],
                "probabilities": probability,
                "above_threshold": above,
            }
        )
    return found, {"version": answer["model_version"], "digest": answer["parameters"]["model_digest"]}
