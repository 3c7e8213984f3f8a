"""New data counted over a reference's bins by record batches: flat in memory, and parts merge exactly.

The set of hashed vehicle ids lives in memory only, to count vehicles over parts; nothing here is ever stored.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from ev_ml.drift_bins import Tally, row_kinds, row_weeks, tally, tally_kinds, to_float
from ev_ml.errors import DataError

if TYPE_CHECKING:
    from ev_ml.reference import Predict, ReferenceColumn, ReferenceProfile

BATCH_ROWS = 65_536
"""Rows a batch: a column of it fits the processor's cache."""


class DriftProfile:
    """Counts of new data over `reference`'s bins."""

    def __init__(self, reference: ReferenceProfile) -> None:
        self.reference = reference
        self.rows = 0
        self.features = {column.name: _empty(column) for column in reference.features}
        self.score = _empty(reference.score) if reference.score else None
        self.class_counts = np.zeros(len(reference.classes), dtype=np.int64)
        self.weeks: set[int] = set()
        self._vehicles: set[int] = set()

    @property
    def vehicles(self) -> int:
        """How many vehicles there were."""
        return len(self._vehicles)

    def add(self, batch: pa.RecordBatch, predict: Predict | None = None) -> None:
        """Count one batch. Raises DataError when it lacks a column of the reference."""
        known = set(batch.schema.names)
        if lacking := [name for name in ("vehicle_id", *self.features) if name not in known]:
            raise DataError(f"the new data lacks {', '.join(lacking)}", hint="is it the features file of this model?")
        self.rows += batch.num_rows
        self._vehicles.update(hash_ids(batch.column("vehicle_id")))
        self.weeks.update(np.unique(row_weeks(batch)).tolist())
        kinds = row_kinds(batch)
        for column in self.reference.features:
            values, bins = to_float(batch.column(column.name)), (column.edges, column.low, column.high)
            told = kinds if column.kinds else None
            found = tally(values, *bins) if told is None else tally_kinds(values, told, *bins)
            self.features[column.name].merge(found)
        if predict is not None and self.score is not None and self.reference.score is not None:
            self._add_scores(batch, predict, self.score, self.reference.score)

    def merge(self, other: DriftProfile) -> None:
        """Add another part's counts; the result equals the profile of both parts read as one."""
        self.rows += other.rows
        self._vehicles |= other._vehicles
        self.weeks |= other.weeks
        self.class_counts = self.class_counts + other.class_counts
        for name, part in other.features.items():
            self.features[name].merge(part)
        if self.score is not None and other.score is not None:
            self.score.merge(other.score)

    def counts(self) -> dict[str, Any]:
        """Return everything counted, for comparing two profiles."""
        tallies = {**self.features} | ({"score": self.score} if self.score else {})
        return {
            "rows": self.rows,
            "vehicles": self.vehicles,
            "weeks": sorted(self.weeks),
            "classes": self.class_counts.tolist(),
            "columns": {n: (t.counts.tolist(), t.missing, sorted(t.tail.items())) for n, t in tallies.items()},
            "kinds": {n: t.kinds.tolist() for n, t in tallies.items() if t.kinds is not None},
        }

    def _add_scores(self, batch: pa.RecordBatch, predict: Predict, score: Tally, column: ReferenceColumn) -> None:
        classes = self.reference.classes
        frame = batch.select([c.name for c in self.reference.features]).to_pandas()
        found = np.asarray(predict(frame), dtype=np.float64)
        fault = 1.0 - found[:, classes.index("healthy")]
        score.merge(tally(fault, column.edges, column.low, column.high))
        self.class_counts = self.class_counts + np.bincount(np.argmax(found, axis=1), minlength=len(classes))


def profile_of(
    features: Path | Sequence[Path],
    reference: ReferenceProfile,
    *,
    predict: Predict | None = None,
    threads: int = 2,
) -> DriftProfile:
    """Profile Parquet features files; row groups are counted side by side and merged, in any order."""
    paths = [features] if isinstance(features, Path) else list(features)
    whole = DriftProfile(reference)
    if predict is not None or threads <= 1:  # a model has threads of its own
        for path in paths:
            _count(path, None, whole, predict)
        return whole
    jobs = [(path, group) for path in paths for group in range(pq.read_metadata(path).num_row_groups)]

    def run(mine: Iterable[tuple[Path, int]]) -> DriftProfile:
        part = DriftProfile(reference)
        for path, group in mine:
            _count(path, group, part, None)
        return part

    with ThreadPoolExecutor(max_workers=threads) as pool:
        for part in pool.map(run, [jobs[i::threads] for i in range(threads)]):
            whole.merge(part)
    return whole


def hash_ids(column: pa.Array) -> Iterable[int]:
    """Return a 64-bit hash of each distinct id of a batch."""
    distinct = pc.unique(column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column)
    return (hash(str(value)) for value in distinct.to_pylist() if value is not None)


def _count(path: Path, group: int | None, profile: DriftProfile, predict: Predict | None) -> None:
    wanted = ["vehicle_id", "session_start", *profile.features]
    # Read in small steps: by default a whole row group is fetched, and kept until the file is closed.
    with pq.ParquetFile(path, buffer_size=1 << 20, pre_buffer=False) as file:
        names = set(file.schema_arrow.names)
        columns = [name for name in wanted if name in names]
        groups = None if group is None else [group]
        for batch in file.iter_batches(BATCH_ROWS, row_groups=groups, columns=columns, use_threads=False):
            profile.add(batch, predict)


def _empty(column: ReferenceColumn) -> Tally:
    counts: NDArray[np.int64] = np.zeros(len(column.counts), dtype=np.int64)
    return Tally(counts, kinds=np.zeros((len(column.kinds), len(counts)), dtype=np.int64) if column.kinds else None)
