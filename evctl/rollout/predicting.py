"""Raw telemetry to the live model: the features of training, a V2 request, an answer a session."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from evctl.errors import FailedError, NotFoundError, UnavailableError, UsageError, trim
from evctl.rollout.serving.base import ServingWorld
from evctl.rollout.target import ServiceTarget

ROWS_A_REQUEST = 1000
TRIES = 3
Answer = tuple[list[dict[str, Any]], dict[str, Any]]


def predict_file(target: ServiceTarget, world: ServingWorld, file: Path) -> dict[str, Any]:
    """Return the live model's answer for each session of a telemetry file; all of them are one model's.

    Raises:
        NotFoundError: no such file. UsageError: no telemetry, or some that the model refuses. UnavailableError: nothing
        serves. FailedError: what answers is not evctl's predictor.
    """
    features = _features(file)
    now = world.read()
    if now.state in ("absent", "stopped"):
        raise UnavailableError(f"{target.name} is {now.state}", hint="evctl serving start, or evctl promote")
    for _ in range(TRIES):
        chunks = [features.iloc[at : at + ROWS_A_REQUEST] for at in range(0, len(features), ROWS_A_REQUEST)]
        answers = [_ask(target, world, file, chunk) for chunk in chunks]
        if len({model["digest"] for _, model in answers}) == 1:  # else a promotion came in between
            return {"model": answers[0][1], "sessions": [each for found, _ in answers for each in found]}
    raise UnavailableError(f"{target.name} changed its model {TRIES} times meanwhile", hint="evctl history")


def _features(file: Path) -> Any:
    import pandas as pd
    import pyarrow as pa

    from ev_ml.errors import DataError
    from ev_ml.features import from_raw_frame

    if not file.is_file():
        raise NotFoundError(
            f"{file} is a folder" if file.is_dir() else f"{file} does not exist",
            hint="evctl predict examples/session.csv, or a file of raw telemetry",
        )
    try:
        frame = pd.read_parquet(file) if ".parquet" in file.suffixes else pd.read_csv(file)
        if "timestamp" in frame:
            frame["timestamp"] = pd.to_datetime(frame["timestamp"], utc=True)
        return from_raw_frame(frame)
    except DataError as error:
        raise UsageError(f"{file}: {error.message}", hint=error.hint) from error
    except (ValueError, TypeError, OverflowError, OSError, pa.ArrowException) as error:
        raise UsageError(f"{file} is no telemetry: {trim(str(error))}", hint="compare examples/session.csv") from error


def _ask(target: ServiceTarget, world: ServingWorld, file: Path, rows: Any) -> Answer:
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
    status, answer = world.ask("POST", f"/v2/models/{target.name}/infer", {"inputs": inputs})
    if status == 400:
        reason = answer.get("error") if isinstance(answer, dict) else answer
        raise UsageError(f"{file}: the model refuses it: {trim(str(reason))}", hint="look at that session's rows")
    if status in (502, 503, 504):
        raise UnavailableError(f"{target.name} answered {status}: {trim(str(answer))}", hint="evctl serving")
    if status != 200:
        raise FailedError(f"the model answered {status}: {trim(str(answer))}", hint="evctl serving")
    try:
        return _told(answer, rows)
    except (KeyError, TypeError, ValueError) as error:
        raise FailedError(
            f"what serves {target.name} is not evctl's predictor: no {error} in its answer", hint="evctl serving"
        ) from error


def _told(answer: Any, rows: Any) -> Answer:
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
