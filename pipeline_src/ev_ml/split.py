"""Which vehicles are held out: decided by their ids and labels alone, so that every step agrees."""

from __future__ import annotations

import hashlib

import pandas as pd

from ev_ml.errors import DataError
from ev_ml.schema import CLASSES, LABEL

HELD_OUT_EVERY = 4
"""Of each class's vehicles every fourth is held out (25 %)."""


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
