"""What the training data looked like, small enough to travel in the bundle: the reference of the drift check.

    reference = build_reference(features, predict=bundle.predict_proba, classes=CLASSES)   # features: Path
    reference.write(folder / "reference.json")            # under 1 MB; no rows, no vehicle ids
    reference = ReferenceProfile.read(folder / "reference.json")
    reference.summary                                     # "7,200 rows, 320 vehicles, 34 features"

`predict` takes a DataFrame of the feature columns and returns class probabilities, shape (rows, classes);
without it the score and class rates are not watched. `held_out(vehicle_ids) -> bool mask` limits the
score's reference to vehicles the model was not trained on, since a model is surer of those it has seen.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from ev_ml.drift_stats import Null
from ev_ml.errors import DataError

if TYPE_CHECKING:
    import pandas as pd

SCHEMA_VERSION = 1

Predict = Callable[["pd.DataFrame"], NDArray[Any]]
HeldOut = Callable[[NDArray[Any]], NDArray[Any]]


class ReferenceProfileError(DataError):
    """The reference cannot be built or read."""


@dataclass(frozen=True, slots=True)
class ReferenceColumn:
    """One column: quantile bins with open ends, their counts, range, moments, and how blocks vary."""

    name: str
    unit: str
    edges: tuple[float, ...]
    low: float
    high: float
    counts: tuple[int, ...]
    missing: int
    mean: float
    std: float
    null: Null
    kinds: tuple[tuple[int, ...], ...] = ()
    """The counts by kind of session; empty where kinds are not told apart."""

    @property
    def missing_rate(self) -> float:
        """Share of rows without a value."""
        return self.missing / max(1, self.missing + sum(self.counts))


@dataclass(frozen=True, slots=True)
class ReferenceProfile:
    """The training data in counts; `score` is the fault probability 1 - P(healthy)."""

    rows: int
    vehicles: int
    weeks: int
    features: tuple[ReferenceColumn, ...]
    score: ReferenceColumn | None = None
    classes: tuple[str, ...] = ()
    class_counts: tuple[int, ...] = ()
    class_null: Null | None = None
    score_vehicles: int = 0
    """Vehicles behind score and class rates."""

    @property
    def summary(self) -> str:
        """Return one human line."""
        return f"{self.rows:,} rows, {self.vehicles:,} vehicles, {len(self.features)} features"

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-serialisable document."""
        return {"schema_version": SCHEMA_VERSION, **asdict(self)}

    @staticmethod
    def from_json(document: Mapping[str, Any]) -> ReferenceProfile:
        """Read `to_json`'s document. Raises ReferenceProfileError."""
        if document.get("schema_version") != SCHEMA_VERSION:
            found = document.get("schema_version")
            raise ReferenceProfileError(
                f"the reference profile has schema {found!r}, not {SCHEMA_VERSION}",
                hint="register the model again with this version of evctl",
            )
        try:
            values = {k: v for k, v in document.items() if k != "schema_version"}
            values["features"] = tuple(_column(column) for column in values["features"])
            values["score"] = _column(values["score"]) if values["score"] else None
            values["class_null"] = Null(**values["class_null"]) if values["class_null"] else None
            values["classes"] = tuple(values["classes"])
            values["class_counts"] = tuple(values["class_counts"])
            return ReferenceProfile(**values)
        except (KeyError, TypeError) as error:
            raise ReferenceProfileError(f"the reference profile is incomplete: {error}") from error

    def write(self, path: Path) -> None:
        """Write it as JSON."""
        path.write_text(json.dumps(self.to_json(), sort_keys=True, separators=(",", ":")), encoding="utf-8")

    @staticmethod
    def read(path: Path) -> ReferenceProfile:
        """Read it. Raises ReferenceProfileError when it is missing, truncated or of another schema."""
        try:
            return ReferenceProfile.from_json(json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, AttributeError) as error:
            raise ReferenceProfileError(f"{path.name} cannot be read: {error}") from error


def build_reference(
    features: Path,
    *,
    names: Sequence[str] | None = None,
    units: Mapping[str, str] | None = None,
    predict: Predict | None = None,
    classes: Sequence[str] = (),
    held_out: HeldOut | None = None,
) -> ReferenceProfile:
    """Profile a features file in two passes over its row groups: one for the bins' edges, one for the counts.

    Args:
        features: Parquet, one row per (vehicle_id, session_id), with `session_start` for the weeks.
        names: the feature columns; None is every numeric column that is no id, label or time.
        units: unit by feature name, for the report and to recognise a broken one.
        predict: the model, see the module's docstring.
        classes: names of `predict`'s columns; "healthy" must be one of them.
        held_out: which vehicles the model has not seen; None scores all.

    Raises:
        ReferenceProfileError: the file has no rows, no such column, or no vehicle_id.
    """
    from ev_ml import reference_build

    return reference_build.build(
        features, names=names, units=units or {}, predict=predict, classes=tuple(classes), held_out=held_out
    )


def _column(document: Mapping[str, Any]) -> ReferenceColumn:
    values = dict(document)
    values["null"] = Null(**values["null"])
    values["edges"], values["counts"] = tuple(values["edges"]), tuple(values["counts"])
    values["kinds"] = tuple(tuple(row) for row in values.get("kinds", ()))
    return ReferenceColumn(**values)
