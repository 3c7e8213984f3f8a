"""Has new data drifted from the reference? Effect sizes decide; tests only guard against small samples.

A column has drifted when its PSI or its rank shift reaches both the floor people know (0.1) and the value
that chance between vehicles and weeks exceeds so rarely that Benjamini-Hochberg over all columns still
keeps the false discovery rate. `threshold` is the larger of the two, so `value >= threshold` is exactly
`drifted`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from ev_ml import drift_stats as stats
from ev_ml.drift_bins import Tally, quantiles
from ev_ml.drift_profile import DriftProfile
from ev_ml.drift_quality import Defect, missing_defect, unit_defect
from ev_ml.drift_report import ColumnDrift, DriftReport, Verdict
from ev_ml.drift_stats import Floats, Null, Spread
from ev_ml.reference import ReferenceColumn, ReferenceProfile

__all__ = ["ColumnDrift", "DriftConfig", "DriftReport", "Verdict", "compare"]

SHIFT_FLOOR = 0.1
"""Standard deviations below which a shift is none (Evidently's cut for its normed Wasserstein distance)."""

OUTSIDE_FLOOR = 0.1
"""Share of values off a constant reference that counts."""


@dataclass(frozen=True, slots=True)
class DriftConfig:
    """When new data counts as drifted; the fields are `DriftSettings`' of the same names."""

    min_rows: int = 200
    min_vehicles: int = 20
    psi_floor: float = 0.1
    fdr: float = 0.01
    share: float = 0.10
    max_missing_increase: float = 0.10

    @staticmethod
    def from_settings(settings: Mapping[str, Any]) -> DriftConfig:
        """Take what belongs here out of a `DriftSettings` dict."""
        known = {field.name for field in fields(DriftConfig)}
        return DriftConfig(**{key: value for key, value in settings.items() if key in known})


def compare(
    reference: ReferenceProfile,
    profile: DriftProfile,
    config: DriftConfig,
    *,
    defects: Sequence[str] = (),
) -> DriftReport:
    """Compare new data's profile with the reference. Pure.

    Args:
        reference: what the model was trained on.
        profile: the new data, counted over the reference's bins.
        config: floors and limits.
        defects: what the validation of the raw data already found broken, in words; any makes it
        DATA_QUALITY.
    """
    rows, vehicles = profile.rows, profile.vehicles
    if defects:
        return DriftReport("DATA_QUALITY", rows, vehicles, reasons=tuple(defects))
    if too_few := _too_few(rows, vehicles, config):
        return DriftReport("INSUFFICIENT_DATA", rows, vehicles, reasons=too_few)
    new = profile.features
    sizes = _Sizes(vehicles, max(1, len(profile.weeks)))
    measured = [_measure(column, new[column.name], reference, sizes) for column in reference.features]
    if reference.score is not None and profile.score is not None and profile.score.present:
        measured.append(_measure(reference.score, profile.score, reference, sizes))
        measured.append(_measure_classes(reference, profile, sizes))
    p_values = np.array([entry.p for entry in measured])
    _, cut = stats.rejected(p_values, config.fdr)
    judged = {entry.column.name: entry.judge(cut, config) for entry in measured}
    found = _defects(reference, profile, sizes, config)
    score, classes = judged.pop("score", None), judged.pop("classes", None)
    features = tuple(sorted(judged.values(), key=lambda feature: feature.effect, reverse=True))
    verdict, reasons = _verdict(features, score, classes, found, config)
    rates = _class_rates(reference, profile) if classes else None
    return DriftReport(verdict, rows, vehicles, features, score, classes, rates, reasons)


@dataclass(frozen=True, slots=True)
class _Measured:
    """One column's effect sizes, and what chance would make of them."""

    column: ReferenceColumn
    p: float
    spread: Spread
    psi: float
    shift: float
    jensen_shannon: float
    wasserstein: float
    new: Tally
    outside_p: float | None = None

    def judge(self, cut: float, config: DriftConfig) -> ColumnDrift:
        """Set the effects against floor and chance, chance being cut at p = `cut`."""
        present = max(1, self.new.present)
        outside = self.new.out_of_range / present
        if self.outside_p is not None:
            by_chance = 0.0 if self.outside_p <= cut else float(np.nextafter(outside, 2.0))
            threshold = max(OUTSIDE_FLOOR, by_chance)
            tried = [("out_of_range", outside, threshold)]
        else:
            # Two looks at a column: each is allowed half.
            tried = [
                ("psi", self.psi, max(config.psi_floor, stats.psi_critical(cut / 2, self.spread))),
                ("shift", abs(self.shift), max(SHIFT_FLOOR, stats.shift_critical(cut / 2, self.spread))),
            ]
        metric, value, threshold = max(tried, key=lambda entry: entry[1] / entry[2])
        return ColumnDrift(
            name=self.column.name,
            metric=metric,
            value=value,
            threshold=threshold,
            drifted=bool(value >= threshold),
            p=self.p,
            psi=self.psi,
            shift=self.shift,
            jensen_shannon=self.jensen_shannon,
            wasserstein=self.wasserstein,
            missing_rate=self.new.missing / max(1, self.new.missing + self.new.present),
            missing_rate_reference=self.column.missing_rate,
            out_of_range_rate=outside,
        )


@dataclass(frozen=True, slots=True)
class _Sizes:
    """What chance is over in the new data."""

    vehicles: int
    weeks: int

    def spread(self, null: Null, rows: int, known: int, design: float = 1.0) -> Spread:
        """Return the null at these sizes against `known` vehicles."""
        return stats.spread(
            null, vehicles=self.vehicles, rows=rows, reference_vehicles=known, weeks=self.weeks, design=design
        )


def _measure(column: ReferenceColumn, new: Tally, reference: ReferenceProfile, sizes: _Sizes) -> _Measured:
    of_score = column is reference.score
    known = reference.score_vehicles if of_score else reference.vehicles
    spread = sizes.spread(column.null, new.present, known)
    if new.present == 0 or not any(column.counts):
        return _Measured(column, 1.0, spread, 0.0, 0.0, 0.0, 0.0, new)
    before, after, design = stats.shares(column.counts), stats.shares(new.counts), 1.0
    if column.kinds and new.kinds is not None:
        before, after, design = stats.standardised(np.asarray(column.kinds), new.kinds)
        spread = sizes.spread(column.null, new.present, known, design)
    q_before = quantiles(np.asarray(column.counts), column.edges, column.low, column.high)
    q_after = quantiles(new.counts, column.edges, column.low, column.high, new.tail)
    moved = stats.wasserstein(q_before, q_after, column.std)
    if len(before) == 1:
        outside_p = _outside_p(new, sizes.vehicles, known)
        return _Measured(column, outside_p, spread, 0.0, 0.0, 0.0, moved, new, outside_p)
    psi, shift = _effects(before, after, sizes.vehicles)
    p = min(1.0, 2.0 * min(stats.psi_p(psi, spread), stats.shift_p(shift, spread)))
    return _Measured(column, p, spread, psi, shift, stats.jensen_shannon(before, after), moved, new)


def _effects(before: Floats, after: Floats, vehicles: int) -> tuple[float, float]:
    groups = stats.coarse_groups(before)
    psi = stats.psi(stats.pooled(before, groups), stats.pooled(after, groups), vehicles)
    return psi, stats.shift(before, after)


def _outside_p(new: Tally, vehicles: int, known: int) -> float:
    """Return how likely it is that so many vehicles leave a range that `known` ones kept to."""
    from scipy.stats import binom

    share = new.out_of_range / max(1, new.present)
    return float(binom.sf(np.floor(share * vehicles) - 1, vehicles, 3.0 / (known + 2))) if share > 0 else 1.0


def _measure_classes(reference: ReferenceProfile, profile: DriftProfile, sizes: _Sizes) -> _Measured:
    """Predicted classes as one column of unordered bins: PSI only."""
    null = reference.class_null or Null(0.0, 0.0, 0.0, 0.0, 0.0)
    column = ReferenceColumn("classes", "", (), 0.0, 0.0, reference.class_counts, 0, 0.0, 0.0, null)
    new = Tally(profile.class_counts)
    spread = sizes.spread(null, new.present, reference.score_vehicles)
    before, after = stats.shares(column.counts), stats.shares(new.counts)
    psi, _ = _effects(before, after, profile.vehicles)
    p = min(1.0, 2.0 * stats.psi_p(psi, spread))
    return _Measured(column, p, spread, psi, 0.0, stats.jensen_shannon(before, after), 0.0, new)


def _class_rates(reference: ReferenceProfile, profile: DriftProfile) -> dict[str, tuple[float, float]]:
    before, after = stats.shares(reference.class_counts), stats.shares(profile.class_counts)
    return {name: (float(before[i]), float(after[i])) for i, name in enumerate(reference.classes)}


def _too_few(rows: int, vehicles: int, config: DriftConfig) -> tuple[str, ...]:
    reasons = []
    if rows < config.min_rows:
        reasons.append(f"{rows:,} rows, at least {config.min_rows:,} are needed")
    if vehicles < config.min_vehicles:
        reasons.append(f"{vehicles:,} vehicles, at least {config.min_vehicles:,} are needed")
    return tuple(reasons)


def _defects(reference: ReferenceProfile, profile: DriftProfile, sizes: _Sizes, config: DriftConfig) -> list[Defect]:
    found = []
    for column in reference.features:
        new = profile.features[column.name]
        spread = sizes.spread(column.null, profile.rows, reference.vehicles)
        defect = missing_defect(column, new, spread, config.max_missing_increase) or unit_defect(column, new)
        if defect:
            found.append(defect)
    return sorted(found, key=lambda defect: defect.effect, reverse=True)


def _verdict(
    features: Sequence[ColumnDrift],
    score: ColumnDrift | None,
    classes: ColumnDrift | None,
    defects: Sequence[Defect],
    config: DriftConfig,
) -> tuple[Verdict, tuple[str, ...]]:
    if defects:
        return "DATA_QUALITY", tuple(defect.reason for defect in defects)
    drifted = [feature for feature in features if feature.drifted]
    reasons = []
    if score is not None and score.drifted:
        reasons.append(f"the model's score moved: {_words(score)}")
    if classes is not None and classes.drifted:
        reasons.append(f"the predicted classes' rates moved: {_words(classes)}")
    if drifted:
        named = ", ".join(feature.name for feature in drifted[:5])
        reasons.append(f"{len(drifted)} of {len(features)} features drifted, first {named}")
    wide = len(drifted) >= config.share * len(features) and drifted
    outputs = any(entry is not None and entry.drifted for entry in (score, classes))
    if wide or outputs:
        return "DRIFT", tuple(reasons)
    return ("WARN" if drifted else "OK"), tuple(reasons)


def _words(column: ColumnDrift) -> str:
    return f"{column.metric} {column.value:.3f}, threshold {column.threshold:.3f}"
