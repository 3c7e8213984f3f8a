"""Which vehicles are held out, decided by their ids and labels alone so that every step agrees; are the rest enough?"""

from __future__ import annotations

import hashlib
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from ev_ml.errors import DataError
from ev_ml.schema import CLASSES, LABEL

HELD_OUT_EVERY = 4
"""Of each class's vehicles every fourth is held out (25 %)."""

FOLDS = 3
"""Of cross-validation over vehicles; a class needs a vehicle in each."""
MIN_VEHICLES = 2 * FOLDS


def vehicle_key(vehicle_id: str) -> str:
    """Return a vehicle's one-way key, 16 hex digits: what a model may remember of whom it was trained on."""
    return hashlib.sha256(f"ev-battery split {vehicle_id}".encode()).hexdigest()[:16]


def held_out_vehicles(frame: pd.DataFrame) -> frozenset[str]:
    """Return the ids of the held-out vehicles of a feature frame, stratified by each vehicle's fault.

    Raises:
        DataError: no vehicle would be left on one of the sides.
    """
    faults = frame[frame[LABEL] != CLASSES[0]].groupby("vehicle_id")[LABEL].agg("first")
    vehicles = pd.Index(frame["vehicle_id"].unique())
    label = faults.reindex(vehicles).fillna(CLASSES[0])
    chosen: set[str] = set()
    for _, ids in label.groupby(label).groups.items():
        ordered = sorted(ids, key=vehicle_key)
        chosen.update(ordered[HELD_OUT_EVERY // 2 :: HELD_OUT_EVERY])
    if not chosen or len(chosen) == len(vehicles):
        raise DataError(
            f"{len(vehicles)} vehicle(s) cannot be split into training and held-out ones",
            hint="bring more vehicles",
        )
    return frozenset(chosen)


def check_labels(clean: Path) -> None:
    """Say before anything is computed whether validated telemetry can be learnt from; streamed by row group.

    Raises:
        DataError: no labels, or what `check_learnable` refuses of the vehicles that are not held out.
    """
    source = pq.ParquetFile(clean)
    pairs = [
        source.read_row_group(group, columns=["vehicle_id", LABEL]).group_by(["vehicle_id", LABEL]).aggregate([])
        for group in range(source.num_row_groups)
    ]
    frame = pa.concat_tables(pairs).to_pandas().drop_duplicates().dropna() if pairs else pd.DataFrame({LABEL: []})
    if frame.empty:
        raise DataError("no row has a label", hint=f"training needs the column {LABEL}")
    check_learnable(frame[~frame["vehicle_id"].isin(held_out_vehicles(frame))])


def check_learnable(frame: pd.DataFrame) -> None:
    """Refuse labelled vehicles (columns vehicle_id and label, any number of rows each) that no model can be fitted to.

    Raises:
        DataError: too few vehicles, one class only, or a class with fewer vehicles than folds.
    """
    vehicles = frame.groupby(LABEL)["vehicle_id"].nunique()
    if (count := frame["vehicle_id"].nunique()) < MIN_VEHICLES:
        raise DataError(
            f"{count} vehicle(s) to train on, at least {MIN_VEHICLES} are needed", hint="bring more vehicles"
        )
    if len(vehicles) < 2:
        raise DataError(
            f"all {count} vehicles to train on have the label {vehicles.index[0]!r}; one class cannot be learnt",
            hint="bring vehicles with faults",
        )
    if vehicles.min() < FOLDS:
        raise DataError(
            f"class {vehicles.idxmin()!r} has {vehicles.min()} vehicle(s) to train on, at least {FOLDS} are needed",
            hint="bring more vehicles with this fault, or leave it out",
        )
