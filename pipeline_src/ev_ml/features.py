"""Raw telemetry to one row of features per vehicle and session, one row group in memory at a time.

A row group holds whole vehicles (`ingest` and `validate` see to it), so that shards need no exchange.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from itertools import chain, zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ev_ml.errors import DataError
from ev_ml.features_table import FEATURE_UNITS, FEATURES, Batch, cells_in_series, compute
from ev_ml.schema import CHANNEL_NAMES, LABEL, REQUIRED, SESSION_KINDS
from ev_ml.segments import Ints, Segments

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["FEATURES", "FEATURE_UNITS", "ID_COLUMNS", "FeatureReport", "from_raw_frame", "generate", "merge"]

ID_COLUMNS = ("vehicle_id", "session_id", LABEL, "session_start")
"""Columns beside the features; `label` is null where the telemetry has none."""
TEXT_COLUMNS = ("vehicle_id", "session_id", "session_kind", LABEL)

SCHEMA = pa.schema(
    [
        ("vehicle_id", pa.string()),
        ("session_id", pa.string()),
        (LABEL, pa.string()),
        ("session_start", pa.timestamp("ms", tz="UTC")),
        *(pa.field(name, pa.float64(), metadata={"unit": FEATURE_UNITS[name]}) for name in FEATURES),
    ]
)


@dataclass(frozen=True, slots=True)
class FeatureReport:
    """What was computed; `rows` are telemetry rows read."""

    rows: int
    vehicles: int
    sessions: int
    features: int

    @property
    def summary(self) -> str:
        """Return one human line."""
        return f"{self.sessions:,} sessions x {self.features} features"

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-serialisable document."""
        return asdict(self)


def generate(clean: Path, out: Path, *, shard: int = 0, shards: int = 1) -> FeatureReport:
    """Compute the features of every session in a clean telemetry file; memory holds one row group.

    Args:
        clean: Parquet in the raw schema (`label` may lack), a vehicle never split over two row groups.
        out: Parquet to write, in `SCHEMA`.
        shard: number of this shard, from 0; it computes every `shards`-th row group.
        shards: how many there are.

    Raises:
        DataError: unreadable, columns missing, or no rows at all.
    """
    if not 0 <= shard < shards:
        raise DataError(f"there is no shard {shard} of {shards}", hint="shards are numbered from 0")
    rows = vehicles = sessions = 0
    with _open(clean) as file, pq.ParquetWriter(out, SCHEMA, compression="zstd") as writer:
        _require(file.schema_arrow.names)
        if file.metadata.num_rows == 0:
            raise DataError("the telemetry has no rows", hint="look at the validation report of this run")
        names = [n for n in (*REQUIRED, LABEL) if n in file.schema_arrow.names]
        for group in range(shard, file.num_row_groups, shards):
            table = file.read_row_group(group, columns=names, use_threads=False)
            if table.num_rows == 0:
                continue
            found = from_table(table)
            writer.write_table(found, row_group_size=found.num_rows)
            rows += table.num_rows
            sessions += found.num_rows
            vehicles += len(found.column("vehicle_id").unique())
            del table, found
            # else the pool keeps what earlier groups needed
            pa.default_memory_pool().release_unused()
    return FeatureReport(rows, vehicles, sessions, len(FEATURES))


def merge(parts: Sequence[Path], out: Path) -> FeatureReport:
    """Join the shards' files, given in the order of the shards, into what one shard alone would have written.

    Raises DataError when there is no part or a vehicle is in two of them.
    """
    if not parts:
        raise DataError("there are no feature files to merge")
    seen: set[str] = set()
    sessions = 0
    with ExitStack() as stack:
        files = [stack.enter_context(_open(part)) for part in parts]
        writer = stack.enter_context(pq.ParquetWriter(out, SCHEMA, compression="zstd"))
        rounds = zip_longest(*([(file, g) for g in range(file.num_row_groups)] for file in files))
        for item in chain.from_iterable(rounds):
            if item is None:
                continue
            table = item[0].read_row_group(item[1], use_threads=False)
            if table.num_rows == 0:
                continue
            found = set(table.column("vehicle_id").unique().to_pylist())
            if both := seen & found:
                raise DataError(f"{len(both)} vehicle(s) are in two parts", hint="give each shard its own number")
            seen |= found
            sessions += table.num_rows
            writer.write_table(table.cast(SCHEMA), row_group_size=table.num_rows)
    return FeatureReport(0, len(seen), sessions, len(FEATURES))


def from_raw_frame(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the features of a frame of raw telemetry, in any order of rows (as `predict FILE` has it).

    Raises DataError for missing columns, values of another type, or no rows.
    """
    _require(list(frame.columns))
    if frame.empty:
        raise DataError("the telemetry has no rows")
    names = [n for n in (*REQUIRED, LABEL) if n in frame.columns]
    try:
        table = pa.Table.from_pandas(frame[names], preserve_index=False)
        columns = [_typed(table, name) for name in names]
    except pa.ArrowException as error:
        raise DataError(f"the telemetry has values of another type: {error}") from error
    found: pd.DataFrame = from_table(pa.table(columns, names=names)).to_pandas()
    return found


def from_table(table: pa.Table) -> pa.Table:
    """Return the features of whole vehicles' telemetry, in `SCHEMA`; sorts rows that are not in order."""
    texts = {name: _coded(table, name) for name in TEXT_COLUMNS if name in table.column_names}
    stamps = table.column("timestamp").cast(pa.timestamp("ms", tz="UTC")).cast(pa.int64()).to_numpy()
    vehicle, session = texts["vehicle_id"][0], texts["session_id"][0]
    order = _order(vehicle, session, stamps)
    columns = {name: table.column(name).to_numpy().astype(np.float64, copy=False) for name in CHANNEL_NAMES}
    if order is not None:
        vehicle, session, stamps = vehicle[order], session[order], stamps[order]
        columns = {name: values[order] for name, values in columns.items()}
    starts = _boundaries(vehicle, session)
    sessions = Segments(starts, len(vehicle))
    hours = (stamps - np.repeat(stamps[starts], sessions.lengths)) / 3_600_000.0
    source = starts if order is None else order[starts]
    kinds, kind_names = texts["session_kind"]
    kind = [np.array([n == k for n in kind_names], dtype=np.bool_)[kinds[source]] for k in SESSION_KINDS]
    cells = cells_in_series(columns, sessions, vehicle[starts])
    found = compute(Batch(columns, hours, sessions, cells, (kind[0], kind[1], kind[2])))
    labels = pa.nulls(len(starts), pa.string())
    if LABEL in texts:
        labels = table.column(LABEL).take(pa.array(source)).cast(pa.string())
    return pa.table(
        [
            table.column("vehicle_id").take(pa.array(source)).cast(pa.string()),
            table.column("session_id").take(pa.array(source)).cast(pa.string()),
            labels,
            pa.array(stamps[starts], pa.timestamp("ms", tz="UTC")),
            *(pa.array(found[name]) for name in FEATURES),
        ],
        schema=SCHEMA,
    )


def _order(vehicle: Ints, session: Ints, stamps: Ints) -> Ints | None:
    """Return the order that puts sessions together and their rows in time; None when they are so already."""
    starts = _boundaries(vehicle, session)
    keys = np.stack([vehicle[starts], session[starts]])
    apart = np.unique(keys, axis=1).shape[1] != len(starts)
    late = np.diff(stamps) < 0
    late[starts[1:] - 1] = False
    if not apart and not late.any():
        return None
    return np.lexsort((stamps, session, vehicle))


def _boundaries(vehicle: Ints, session: Ints) -> Ints:
    changed = (vehicle[1:] != vehicle[:-1]) | (session[1:] != session[:-1])
    return np.concatenate([[0], np.flatnonzero(changed) + 1]).astype(np.int64)


def _coded(table: pa.Table, name: str) -> tuple[Ints, list[str]]:
    """Return a text column as numbers, in order of appearance, and their names."""
    array = table.column(name).combine_chunks()
    if not pa.types.is_dictionary(array.type):
        array = array.dictionary_encode("encode")
    return array.indices.to_numpy().astype(np.int64), array.dictionary.to_pylist()


def _typed(table: pa.Table, name: str) -> pa.ChunkedArray:
    if name == "timestamp":
        column = table.column(name)
        zoned = pa.types.is_timestamp(column.type) and column.type.tz is not None
        return column.cast(pa.timestamp("ms", tz="UTC") if zoned else pa.timestamp("ms"), safe=False)
    return table.column(name).cast(pa.string() if name in TEXT_COLUMNS else pa.float64())


def _require(names: Sequence[str]) -> None:
    if missing := [name for name in REQUIRED if name not in names]:
        raise DataError(
            f"the telemetry lacks {', '.join(missing)}", hint="map your columns in the profile's data.columns"
        )


def _open(path: Path) -> pq.ParquetFile:
    try:
        with pq.ParquetFile(path) as file:
            texts = [name for name in TEXT_COLUMNS if name in file.schema_arrow.names]
        return pq.ParquetFile(path, read_dictionary=texts)
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"{path.name} is not a readable Parquet file: {error}") from error
