"""The documents about models, releases and drift."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from evctl.schemas.base import Document, Fixed


class ModelRow(Fixed):
    """One registered model."""

    version: str
    digest: str
    uri: str
    run_id: str | None
    data_version: str | None
    metrics: dict[str, float | None]


class Models(Fixed):
    """`models list`."""

    models: list[ModelRow]


class FeatureColumn(Fixed):
    """A column the model wants."""

    name: str
    unit: str
    nullable: bool


class Model(Document):
    """`models show`: the bundle's manifest. Digests are SHA-256 in hex."""

    name: str
    version: str
    digest: str
    uri: str
    files: dict[str, str]
    classes: list[str]
    thresholds: dict[str, float]
    features: list[FeatureColumn]
    metrics: dict[str, Any]
    provenance: dict[str, Any]
    versions: dict[str, str]


class Verified(Document):
    """What the proof found serving."""

    version: str
    digest: str
    golden: bool
    percent: int
    """Of the requests that it gets: less than 100 for a canary."""


class Release(Fixed):
    """`promote` and `rollback`."""

    changed: bool
    revision: int
    model: str
    previous: str | None
    verified: Verified
    duration_s: float


class ReleaseRow(Fixed):
    """One release of the ledger."""

    revision: int
    model: str
    digest: str
    run_id: str | None
    status: Literal["pending", "live", "superseded", "failed", "rolled_back"]
    at: str
    by: str
    reason: str


class History(Fixed):
    """`history`, newest first."""

    releases: list[ReleaseRow]


class Canary(Document):
    """The release that gets a share of the requests."""

    model: str
    revision: int
    percent: int


class ByHand(Fixed):
    """A part of the requests that was set by hand, and that no release was given."""

    name: str
    revision: str
    percent: int


class Serving(Document):
    """`serving`: what serves now."""

    service: str
    state: str
    model: str | None
    revision: int | None
    digest: str | None
    url: str | None
    detail: str
    canary: Canary | None
    by_hand: list[ByHand]


class ServedModel(Fixed):
    """Which model answered."""

    version: str
    digest: str


class PredictedSession(Fixed):
    """One session's answer: the class, its probability, and further faults above their threshold."""

    vehicle_id: str
    session_id: str
    predicted: str = Field(alias="class")
    probability: float
    probabilities: dict[str, float]
    above_threshold: list[str]


class Prediction(Fixed):
    """`predict`."""

    model: ServedModel
    sessions: list[PredictedSession]


class DriftedFeature(Document):
    """One feature's effect and the threshold it is held to; `metric` says which effect `value` is."""

    name: str
    metric: str
    value: float | None
    threshold: float | None
    drifted: bool


class Drift(Document):
    """`drift`; `retrain` is the decision, `retrain_run` the run it submitted."""

    verdict: Literal["OK", "WARN", "DRIFT", "DATA_QUALITY", "INSUFFICIENT_DATA"]
    retrain: bool
    retrain_reason: str
    retrain_run: str | None
    features: list[DriftedFeature]
    score: dict[str, Any]
    rows: int
    vehicles: int
    reasons: list[str]
    data: str
    model: str
    at: str


class DriftHistory(Fixed):
    """`drift --history`, newest first."""

    checks: list[Drift]
