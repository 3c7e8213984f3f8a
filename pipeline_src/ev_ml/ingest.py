"""Bring a data version in: the simulator's fleet of that name, or a user's own file."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pyarrow.parquet as pq

from ev_ml.errors import DataError
from ev_ml.simulate import FLEETS, fleet, simulate
from ev_ml.sources import convert


class UnknownDataVersion(DataError):
    """No data version of that name; the message lists the known ones."""


@dataclass(frozen=True, slots=True)
class IngestReport:
    """What came in. `digest` is the sha256 of the raw Parquet file."""

    data_version: str
    rows: int
    vehicles: int
    digest: str

    @property
    def summary(self) -> str:
        """One line for the task tree."""
        return f"{self.rows:,} rows, {self.vehicles:,} vehicles"


def known_versions(data: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the data versions a profile's data settings name."""
    return tuple(data.get("versions") or FLEETS)


def ingest(data_version: str, out: Path, *, data: Mapping[str, Any]) -> IngestReport:
    """Write a data version's raw telemetry to `out` (Parquet, whole vehicles a row group).

    Args:
        data: the profile's data settings: `versions` maps a name to `fleet` or `uri` and `columns`.

    Raises:
        UnknownDataVersion: lists the known ones.
        DataError: the file cannot be read.
    """
    versions = data.get("versions") or {name: {"fleet": name} for name in FLEETS}
    spec = versions.get(data_version)
    if spec is None:
        raise UnknownDataVersion(
            f"data version {data_version!r} is not known; known: {', '.join(sorted(versions))}",
            hint="use one of these, or add it to the profile's data.versions",
        )
    if spec.get("uri"):
        rows = convert(spec["uri"], out, columns=spec.get("columns"))
    else:
        name = spec.get("fleet") or data_version
        if name not in FLEETS:
            raise UnknownDataVersion(f"fleet {name!r} is not known; known: {', '.join(FLEETS)}")
        # what came through a pipeline's JSON has floats for whole numbers
        whole = {key: int(spec[key]) for key in ("vehicles", "seed") if spec.get(key) is not None}
        rows = simulate(fleet(name, **whole), out)
    return IngestReport(data_version, rows, count_vehicles(out), file_digest(out))


def count_vehicles(path: Path) -> int:
    """Return the number of distinct vehicles, one row group in memory at a time."""
    file = pq.ParquetFile(path)
    return sum(
        len(pc.unique(file.read_row_group(k, columns=["vehicle_id"]).column(0))) for k in range(file.num_row_groups)
    )


def file_digest(path: Path) -> str:
    """Return a file's sha256 as 64 hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
