"""The predictor: a `kserve.Model` over a verified bundle, V1 and V2."""

from __future__ import annotations

import asyncio
import json
import uuid
from pathlib import Path
from typing import Any

import numpy as np
from kserve import InferOutput, InferRequest, InferResponse, Model
from kserve.errors import InvalidInput
from prometheus_client import Counter, Histogram
from sklearn import config_context

from ev_ml.bundle import GOLDEN, LoadedBundle, load
from ev_serving.batch import Batcher
from ev_serving.inputs import BadInput, Schema, matrix_of
from ev_serving.trees import quicken, within

PREDICTED = Counter("ev_predictions", "Predicted sessions", ["model_name", "model_version", "predicted_class"])
SCORES = Histogram(
    "ev_prediction_score",
    "Probability of the predicted class",
    ["model_name", "model_version"],
    buckets=tuple(n / 10 for n in range(1, 11)),
)
PROOF_ID = "evctl-golden"
"""Id of a promotion's golden request (`evctl.rollout.serving.golden`), which is nobody's session."""
INLINE_ROWS, INLINE_VALUES = 200, 7000
"""Requests up to this size are checked on the event loop: a thread would cost more than the checking."""


class Predictor(Model):  # type: ignore[misc]
    """Answers with class probabilities, the thresholds, and which model said so."""

    def __init__(self, name: str, folder: Path) -> None:
        super().__init__(name)
        self._folder = folder

    def load(self) -> bool:
        """Verify digests and library versions, unpickle, check the golden rows; only then be ready."""
        bundle = load(self._folder)
        self.bundle = bundle
        self._schema = Schema(bundle.manifest.features)
        _single_threaded(bundle.model.estimator)
        quicken(bundle.model.estimator, np.array(json.loads((self._folder / GOLDEN).read_text())["rows"], dtype=float))
        self._batch = Batcher(lambda rows: _probabilities(bundle, rows))
        version = bundle.manifest.version
        self._counters = {c: PREDICTED.labels(self.name, version, c) for c in bundle.manifest.classes}
        self._scores = SCORES.labels(self.name, version)
        self.ready = True
        return self.ready

    def get_input_types(self) -> list[dict[str, Any]]:
        """Return V2's description of the inputs: one a feature, in the model's order."""
        return [{"name": name, "datatype": "FP64", "shape": [-1]} for name in self._schema.names]

    def get_output_types(self) -> list[dict[str, Any]]:
        """Return V2's description of the answer."""
        width = len(self.bundle.manifest.classes)
        return [
            {"name": "class", "datatype": "BYTES", "shape": [-1]},
            {"name": "probabilities", "datatype": "FP64", "shape": [-1, width]},
            {"name": "classes", "datatype": "BYTES", "shape": [width]},
            {"name": "thresholds", "datatype": "FP64", "shape": [width]},
        ]

    async def explain(self, payload: Any, headers: dict[str, str] | None = None) -> Any:
        """Refuse: there is no explainer."""
        raise InvalidInput("the model explains nothing; ask :predict")

    def validate(self, payload: Any) -> Any:
        """Leave checking to `predict`, which names the feature."""
        return payload

    async def predict(
        self,
        payload: Any,
        headers: dict[str, str] | None = None,
        response_headers: dict[str, str] | None = None,
    ) -> Any:
        """Answer a V1 document or a V2 request. InvalidInput (400) for whatever the schema does not allow."""
        try:
            rows = await asyncio.to_thread(self._rows, payload) if _large(payload) else self._rows(payload)
        except BadInput as error:
            raise InvalidInput(str(error)) from error
        answer = await self._batch(rows)
        classes = self.bundle.manifest.classes
        best = [classes[column] for column in answer.argmax(axis=1)]
        if getattr(payload, "id", None) != PROOF_ID:
            self._count(best, answer)
        return self._v2(payload, answer, best) if isinstance(payload, InferRequest) else self._v1(answer, best)

    def _count(self, best: list[str], answer: np.ndarray) -> None:
        for name, score in zip(best, answer.max(axis=1), strict=True):
            self._counters[name].inc()
            self._scores.observe(float(score))

    def _rows(self, payload: Any) -> np.ndarray:
        if isinstance(payload, InferRequest):
            return matrix_of(self._schema, payload.inputs)
        if isinstance(payload, dict) and isinstance(payload.get("instances"), list):
            return self._schema.matrix(payload["instances"])
        raise BadInput('a V1 request is {"instances": [rows]}')

    def _v1(self, answer: np.ndarray, best: list[str]) -> dict[str, Any]:
        manifest = self.bundle.manifest
        return {
            "predictions": [
                {"class": name, "probabilities": dict(zip(manifest.classes, map(float, row), strict=True))}
                for name, row in zip(best, answer, strict=True)
            ],
            "thresholds": dict(manifest.thresholds),
            "model_version": manifest.version,
            "model_digest": manifest.digest,
        }

    def _v2(self, request: InferRequest, answer: np.ndarray, best: list[str]) -> InferResponse:
        manifest = self.bundle.manifest
        width = len(manifest.classes)
        return InferResponse(
            response_id=request.id or str(uuid.uuid4()),
            model_name=self.name,
            model_version=manifest.version,
            parameters={"model_digest": manifest.digest},
            infer_outputs=[
                InferOutput("class", [len(best)], "BYTES", best),
                InferOutput("probabilities", [len(best), width], "FP64", answer.ravel().tolist()),
                InferOutput("classes", [width], "BYTES", list(manifest.classes)),
                InferOutput("thresholds", [width], "FP64", [manifest.thresholds[c] for c in manifest.classes]),
            ],
        )


def _large(payload: Any) -> bool:
    if isinstance(payload, InferRequest):
        return sum(len(each.data or ()) for each in payload.inputs) > INLINE_VALUES
    rows = payload.get("instances") if isinstance(payload, dict) else None
    return isinstance(rows, list) and len(rows) > INLINE_ROWS


def _probabilities(bundle: LoadedBundle, rows: np.ndarray) -> np.ndarray:
    # the schema has been checked: without a frame scikit-learn has no names to compare, a third of a row's time
    # (its warning about that is off for the whole process; `catch_warnings` is not for threads)
    with config_context(skip_parameter_validation=True, assume_finite=False):
        return np.asarray(bundle.model.estimator.predict_proba(rows))


def _single_threaded(estimator: Any) -> None:
    """Start no thread pool for a handful of rows, wherever in the estimator `n_jobs` is."""
    for each in within(estimator):
        if getattr(each, "n_jobs", None) is not None:
            each.n_jobs = 1
