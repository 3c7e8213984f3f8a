"""How a reference profile is taken from a features file, row group by row group (whole vehicles each)."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from ev_ml.drift_bins import KIND_COLUMNS, bin_index, inner_edges, row_kinds, row_weeks, to_float
from ev_ml.drift_blocks import BlockSums
from ev_ml.drift_stats import Floats
from ev_ml.reference import ReferenceColumn, ReferenceProfile, ReferenceProfileError

if TYPE_CHECKING:
    from ev_ml.reference import HeldOut, Predict

BINS = 20
SAMPLE_ROWS = 200_000
"""Rows the bins' edges are taken from; counts are of all rows."""

NOT_FEATURES = frozenset({"vehicle_id", "session_id", "session_start", "session_kind", "label"})


@dataclass(frozen=True, slots=True)
class Blocks:
    """A row group's week-by-vehicle blocks: each row's block, each block's week, each row's vehicle and kind."""

    row: NDArray[np.intp]
    week: NDArray[np.int64]
    vehicle: NDArray[Any]
    kind: NDArray[np.intp] | None = None

    @staticmethod
    def of(vehicle: NDArray[Any], weeks: NDArray[np.int64], kind: NDArray[np.intp] | None = None) -> Blocks:
        """Number the blocks of these rows."""
        _, code = np.unique(vehicle, return_inverse=True)
        keys, row = np.unique(np.stack([code, weeks]), axis=1, return_inverse=True)
        return Blocks(row.ravel(), keys[1], vehicle, kind)


class Column:
    """One column's running counts and moments."""

    def __init__(self, name: str, edges: tuple[float, ...], kinds: int = 1) -> None:
        self.name = name
        self.edges = edges
        self.kinds = kinds
        self.counts = np.zeros((kinds, len(edges) + 1), dtype=np.int64)
        self.sums = BlockSums(len(edges) + 1, kinds)
        self.missing, self.n, self.mean, self.m2 = 0, 0, 0.0, 0.0
        self.low, self.high = np.inf, -np.inf

    def add(self, values: Floats, blocks: Blocks) -> None:
        """Count one row group."""
        present = np.isfinite(values)
        kept = values[present]
        index = bin_index(kept, self.edges)
        kind = blocks.kind if self.kinds > 1 else None
        flat = index if kind is None else kind[present] * self.counts.shape[1] + index
        self.counts += np.bincount(flat, minlength=self.counts.size).reshape(self.counts.shape)
        self.missing += int(values.size - kept.size)
        self.sums.add(index, present, blocks.row, blocks.week, kind)
        if kept.size == 0:
            return
        self.low, self.high = min(self.low, float(kept.min())), max(self.high, float(kept.max()))
        # Chan's pairwise update: stable however many row groups there are.
        n, mean = kept.size, float(kept.mean())
        delta, total = mean - self.mean, self.n + kept.size
        self.m2 += float(np.square(kept - mean).sum()) + delta**2 * self.n * n / total
        self.mean += delta * n / total
        self.n = total

    def finish(self, unit: str) -> ReferenceColumn:
        """Return the counted column."""
        empty = self.n == 0
        return ReferenceColumn(
            name=self.name,
            unit=unit,
            edges=self.edges,
            low=0.0 if empty else self.low,
            high=0.0 if empty else self.high,
            counts=tuple(int(c) for c in self.counts.sum(axis=0)),
            missing=self.missing,
            mean=self.mean,
            std=float(np.sqrt(self.m2 / self.n)) if self.n else 0.0,
            null=self.sums.null(self.counts),
            kinds=tuple(tuple(int(c) for c in row) for row in self.counts) if self.kinds > 1 else (),
        )


class Scores:
    """The model's fault score and predicted classes on vehicles it has not seen."""

    def __init__(self, predict: Predict, classes: tuple[str, ...], held_out: HeldOut | None) -> None:
        if "healthy" not in classes:
            raise ReferenceProfileError(f"the model's classes {classes} lack 'healthy'")
        self.predict, self.classes, self.held_out = predict, classes, held_out
        self.healthy = classes.index("healthy")
        self.sample: list[Floats] = []
        self._known: deque[tuple[NDArray[np.bool_], Floats]] = deque()
        self.column: Column | None = None
        self.counts = np.zeros(len(classes), dtype=np.int64)
        self.sums = BlockSums(len(classes))
        self.vehicles: set[str] = set()

    def probabilities(self, table: pa.Table, vehicle: NDArray[Any]) -> tuple[NDArray[np.bool_], Floats]:
        """Return which rows count, and their class probabilities."""
        kept = np.ones(len(vehicle), bool) if self.held_out is None else np.asarray(self.held_out(vehicle), bool)
        if not kept.any():
            return kept, np.zeros((0, len(self.classes)))
        frame = table.filter(pa.array(kept)).to_pandas()
        return kept, np.asarray(self.predict(frame), dtype=np.float64)

    def add_sample(self, table: pa.Table, vehicle: NDArray[Any], *, whole: bool) -> None:
        """Take scores for the bins' edges; those of a whole row group are kept, to be counted."""
        kept, found = self.probabilities(table, vehicle)
        self.sample.append(1.0 - found[:, self.healthy])
        if whole:
            self._known.append((kept, found))

    def add(self, table: pa.Table, vehicle: NDArray[Any], weeks: NDArray[np.int64]) -> None:
        """Count one row group."""
        if self.column is None:
            self.column = Column("score", inner_edges(np.concatenate(self.sample), BINS))
        kept, found = self._known.popleft() if self._known else self.probabilities(table, vehicle)
        if not kept.any():
            return
        blocks = Blocks.of(vehicle[kept], weeks[kept])
        predicted = np.argmax(found, axis=1)
        self.column.add(1.0 - found[:, self.healthy], blocks)
        self.counts += np.bincount(predicted, minlength=len(self.classes))
        self.sums.add(predicted, np.ones(len(predicted), bool), blocks.row, blocks.week)
        self.vehicles.update(np.unique(blocks.vehicle).tolist())

    def finish(self) -> dict[str, Any]:
        """Return the profile's fields."""
        if self.column is None or self.column.n == 0:
            return {}
        return {
            "score": self.column.finish("probability"),
            "classes": self.classes,
            "class_counts": tuple(int(c) for c in self.counts),
            "class_null": self.sums.null(self.counts[None, :]),
            "score_vehicles": len(self.vehicles),
        }


def build(
    features: Path,
    *,
    names: Sequence[str] | None,
    units: Mapping[str, str],
    predict: Predict | None,
    classes: tuple[str, ...],
    held_out: HeldOut | None,
) -> ReferenceProfile:
    """See `ev_ml.reference.build_reference`."""
    scores = Scores(predict, classes, held_out) if predict else None
    with pq.ParquetFile(features) as file:
        rows = file.metadata.num_rows
        if rows == 0:
            raise ReferenceProfileError("there are no features to take a reference from")
        chosen = _feature_names(file.schema_arrow, names)
        columns = _sampled(file, chosen, scores)
        vehicles: set[str] = set()
        weeks_seen: set[int] = set()
        for table, vehicle in _row_groups(file):
            weeks = row_weeks(table)
            blocks = Blocks.of(vehicle, weeks, row_kinds(table))
            vehicles.update(np.unique(vehicle).tolist())
            weeks_seen.update(int(week) for week in np.unique(weeks))
            for column in columns:
                column.add(to_float(table.column(column.name)), blocks)
            if scores:
                scores.add(table.select(chosen), vehicle, weeks)
    done = tuple(column.finish(units.get(column.name, "")) for column in columns)
    return ReferenceProfile(rows, len(vehicles), len(weeks_seen), done, **(scores.finish() if scores else {}))


def _sampled(file: pq.ParquetFile, names: Sequence[str], scores: Scores | None) -> list[Column]:
    """Read every k-th row of each row group for the edges."""
    step = max(1, file.metadata.num_rows // SAMPLE_ROWS)
    parts: dict[str, list[Floats]] = {name: [] for name in names}
    for table, vehicle in _row_groups(file):
        some = table.take(pa.array(np.arange(0, table.num_rows, step))) if step > 1 else table
        for name in names:
            parts[name].append(to_float(some.column(name)).copy())
        if scores:
            scores.add_sample(some.select(names), vehicle[::step], whole=step == 1)
    kinds = len(KIND_COLUMNS) if set(KIND_COLUMNS) <= set(names) else 1
    return [
        Column(name, inner_edges(np.concatenate(parts[name]), BINS), 1 if name in KIND_COLUMNS else kinds)
        for name in names
    ]


def _row_groups(file: pq.ParquetFile) -> Iterator[tuple[pa.Table, NDArray[Any]]]:
    for group in range(file.num_row_groups):
        table = file.read_row_group(group)
        if table.num_rows:
            yield table, np.asarray(table.column("vehicle_id").to_pylist()).astype(str)


def _feature_names(schema: pa.Schema, names: Sequence[str] | None) -> list[str]:
    if "vehicle_id" not in schema.names:
        raise ReferenceProfileError("the features have no vehicle_id")
    chosen = (
        [f.name for f in schema if f.name not in NOT_FEATURES and _numeric(f.type)] if names is None else list(names)
    )
    if missing := [name for name in chosen if name not in schema.names]:
        raise ReferenceProfileError(f"the features lack {', '.join(missing)}")
    if not chosen:
        raise ReferenceProfileError("the features have no numeric column")
    return chosen


def _numeric(kind: pa.DataType) -> bool:
    return bool(pa.types.is_floating(kind) or pa.types.is_integer(kind) or pa.types.is_boolean(kind))
