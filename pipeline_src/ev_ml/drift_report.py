"""What a drift check found, as frozen values and as the documented JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal

import numpy as np

Verdict = Literal["OK", "WARN", "DRIFT", "DATA_QUALITY", "INSUFFICIENT_DATA"]


@dataclass(frozen=True, slots=True)
class ColumnDrift:
    """One column's comparison. `metric` is the one nearest to, or furthest past, its threshold."""

    name: str
    metric: str
    value: float
    threshold: float
    drifted: bool
    p: float
    psi: float = 0.0
    shift: float = 0.0
    jensen_shannon: float = 0.0
    wasserstein: float = 0.0
    missing_rate: float = 0.0
    missing_rate_reference: float = 0.0
    out_of_range_rate: float = 0.0

    @property
    def effect(self) -> float:
        """How far past its threshold it is; 1 is just there."""
        return self.value / self.threshold if self.threshold > 0 else 0.0

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-serialisable document."""
        return {field.name: _plain(getattr(self, field.name)) for field in fields(self)}


@dataclass(frozen=True, slots=True)
class DriftReport:
    """A verdict and why. `features` come by effect, largest first."""

    verdict: Verdict
    rows: int
    vehicles: int
    features: tuple[ColumnDrift, ...] = ()
    score: ColumnDrift | None = None
    classes: ColumnDrift | None = None
    class_rates: Mapping[str, tuple[float, float]] | None = None
    """By predicted class: its rate in the reference, and now."""
    reasons: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return `evctl drift -o json`'s document without `retrain`."""
        score = self.score.to_json() if self.score else {}
        if self.classes and self.class_rates is not None:
            rates = {name: {"reference": r, "new": n} for name, (r, n) in self.class_rates.items()}
            score["classes"] = {**self.classes.to_json(), "rates": rates}
        return {
            "verdict": self.verdict,
            "features": [feature.to_json() for feature in self.features],
            "score": score,
            "rows": self.rows,
            "vehicles": self.vehicles,
            "reasons": list(self.reasons),
        }


def _plain(value: Any) -> Any:
    return round(float(value), 6) if isinstance(value, (float, np.floating)) else value
