"""Set bad rows aside, with counts by reason, and refuse data that are too bad to learn from.

Streamed by row group. A row is quarantined for the first reason that holds; rows in the wrong order are put right.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from ev_ml.errors import DataError
from ev_ml.schema import CHANNELS, CLASSES, LABEL, RAW_SCHEMA, SESSION_KINDS

Bools = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class ValidationReport:
    """What validation found. `reasons` counts quarantined rows by `reason:column`."""

    rows: int
    kept: int
    vehicles: int
    reordered: int
    reasons: dict[str, int] = field(default_factory=dict)
    examples: dict[str, str] = field(default_factory=dict)
    labels: dict[str, int] = field(default_factory=dict)
    """Rows kept, by label."""

    @property
    def quarantined(self) -> int:
        """Rows set aside."""
        return self.rows - self.kept

    @property
    def share(self) -> float:
        """Share of rows set aside."""
        return self.quarantined / max(1, self.rows)

    @property
    def summary(self) -> str:
        """One line for the task tree."""
        return f"{self.quarantined:,} rows quarantined ({self.share:.2%})"

    def to_json(self) -> str:
        """Return the report as JSON."""
        return json.dumps({**asdict(self), "quarantined": self.quarantined, "share": self.share}, indent=1)


@dataclass
class _Tally:
    rows: int = 0
    kept: int = 0
    vehicles: int = 0
    reordered: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)
    labels: Counter[str] = field(default_factory=Counter)


def validate(
    raw: Path, clean: Path, *, max_quarantined_share: float = 0.05, min_vehicles: int = 20
) -> ValidationReport:
    """Write the good rows of `raw` to `clean`, sorted by vehicle, session and time.

    Raises:
        DataError: unreadable, another schema, too few vehicles, or more rows quarantined than allowed: names the
            worst column, its count and an example.
    """
    tally = _Tally()
    try:
        source = pq.ParquetFile(raw)
        lacking = [name for name in RAW_SCHEMA.names if name not in source.schema_arrow.names]
        if lacking:
            raise DataError(f"column {lacking[0]} is missing", hint="run ingest_battery_data on the data first")
        with pq.ParquetWriter(clean, RAW_SCHEMA, compression="zstd", compression_level=1) as writer:
            for group in range(source.num_row_groups):
                kept = _clean_group(source.read_row_group(group, columns=RAW_SCHEMA.names).cast(RAW_SCHEMA), tally)
                if kept.num_rows:
                    writer.write_table(kept, row_group_size=kept.num_rows)
    except (pa.ArrowInvalid, pa.ArrowTypeError, OSError) as error:
        raise DataError(f"the raw data cannot be read: {' '.join(str(error).split())[:200]}") from error
    report = ValidationReport(
        tally.rows, tally.kept, tally.vehicles, tally.reordered, dict(tally.reasons), tally.examples, dict(tally.labels)
    )
    _refuse(report, max_quarantined_share, min_vehicles)
    return report


def _refuse(report: ValidationReport, max_share: float, min_vehicles: int) -> None:
    if report.share > max_share:
        worst = max(report.reasons, key=lambda reason: report.reasons[reason])
        raise DataError(
            f"{report.quarantined:,} of {report.rows:,} rows ({report.share:.1%}) are bad, {max_share:.1%} are allowed; "
            f"most: {worst}, {report.reasons[worst]:,} rows, such as {report.examples[worst]}",
            hint="mend the source, or raise data.max_quarantined_share in the profile",
        )
    if report.vehicles < min_vehicles:
        raise DataError(
            f"{report.vehicles} vehicle(s) left, at least {min_vehicles} are needed to hold some out",
            hint="bring more vehicles, or lower data.min_vehicles in the profile",
        )


def _clean_group(table: pa.Table, tally: _Tally) -> pa.Table:
    tally.rows += table.num_rows
    good = np.ones(table.num_rows, dtype=bool)
    _check_keys(table, good, tally)
    _check_ranges(table, good, tally)
    table = table.filter(pa.array(good))
    table = _ordered(table, tally)
    tally.kept += table.num_rows
    tally.vehicles += len(pc.unique(table.column("vehicle_id")))
    for entry in pc.value_counts(table.column(LABEL)).to_pylist():
        if entry["values"] is not None:
            tally.labels[entry["values"]] += entry["counts"]
    return table


def _set_aside(bad: Bools, good: Bools, tally: _Tally, reason: str, values: pa.ChunkedArray) -> None:
    fresh = bad & good
    count = int(fresh.sum())
    if count:
        tally.reasons[reason] += count
        tally.examples.setdefault(reason, str(values[int(np.flatnonzero(fresh)[0])].as_py()))
        good &= ~fresh


def _check_keys(table: pa.Table, good: Bools, tally: _Tally) -> None:
    for name in ("vehicle_id", "session_id", "timestamp"):
        column = table.column(name)
        if column.null_count:
            _set_aside(column.is_null().to_numpy(), good, tally, f"missing:{name}", column)
    kinds = table.column("session_kind")
    known = pc.is_in(kinds, pa.array(SESSION_KINDS)).to_numpy()
    _set_aside(~known, good, tally, "unknown:session_kind", kinds)
    labels = table.column(LABEL)
    named = pc.or_(pc.is_null(labels), pc.is_in(labels, pa.array(CLASSES))).to_numpy()
    _set_aside(~named, good, tally, f"unknown:{LABEL}", labels)


def _check_ranges(table: pa.Table, good: Bools, tally: _Tally) -> None:
    for channel in CHANNELS:
        column = table.column(channel.name)
        values = column.to_numpy()
        _set_aside(np.isnan(values), good, tally, f"missing:{channel.name}", column)
        with np.errstate(invalid="ignore"):
            outside = ~((values >= channel.low) & (values <= channel.high))
        _set_aside(
            outside, good, tally, f"out of {channel.low:g}..{channel.high:g} {channel.unit}:{channel.name}", column
        )
    low, high = (table.column(f"cell_voltage_{side}_v") for side in ("min", "max"))
    _set_aside(low.to_numpy() > high.to_numpy(), good, tally, "above the maximum:cell_voltage_min_v", low)


def _ordered(table: pa.Table, tally: _Tally) -> pa.Table:
    if table.num_rows == 0:
        return table
    keys = _codes(table)
    order = np.lexsort((keys[2], keys[1], keys[0]))
    moved = int((np.diff(keys[2]) < 0).sum() - _session_starts(keys))
    tally.reordered += max(0, moved)
    table = table.take(pa.array(order))
    vehicle, session, stamp = (key[order] for key in keys)
    same = np.zeros(table.num_rows, dtype=bool)
    same[1:] = (np.diff(vehicle) == 0) & (np.diff(session) == 0) & (np.diff(stamp) == 0)
    good = np.ones(table.num_rows, dtype=bool)
    _set_aside(same, good, tally, "duplicate:timestamp", table.column("timestamp"))
    return table.filter(pa.array(good)) if same.any() else table


def _codes(table: pa.Table) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Return integer codes of vehicle and session in order of appearance, and epoch milliseconds."""
    vehicle = table.column("vehicle_id").combine_chunks().dictionary_encode().indices.to_numpy()
    session = table.column("session_id").combine_chunks().dictionary_encode().indices.to_numpy()
    stamp = table.column("timestamp").cast(pa.int64()).to_numpy()
    return vehicle, session, stamp


def _session_starts(keys: tuple[NDArray[Any], NDArray[Any], NDArray[Any]]) -> int:
    """Return how often time goes back merely because another session begins."""
    return int(((np.diff(keys[2]) < 0) & ((np.diff(keys[0]) != 0) | (np.diff(keys[1]) != 0))).sum())
