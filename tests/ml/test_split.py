"""Labels that no model can be fitted to are told right after validation, before the step that is retried."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from ev_ml.errors import DataError
from ev_ml.schema import CLASSES
from ev_ml.split import check_labels
from tests.ml.conftest import Trained

HEALTHY, FAULT = CLASSES[0], CLASSES[1]


def telemetry(path: Path, labels: dict[str, str | None]) -> Path:
    rows = [(vehicle, label) for vehicle, label in labels.items() for _ in range(3)]
    pd.DataFrame(rows, columns=["vehicle_id", "label"]).to_parquet(path, row_group_size=4)
    return path


def fleet(count: int, label: str | None, first: int = 0) -> dict[str, str | None]:
    return {f"EV-{first + number}": label for number in range(count)}


@pytest.mark.parametrize(
    ("labels", "told"),
    [
        (fleet(20, None), "no row has a label"),
        (fleet(20, HEALTHY), "have the label 'healthy'; one class cannot be learnt; bring vehicles with faults"),
        (fleet(20, HEALTHY) | fleet(2, FAULT, 20), f"class '{FAULT}' has [12] vehicle.s. to train on, at least 3"),
        (fleet(3, HEALTHY) | fleet(3, FAULT, 3), "4 vehicle.s. to train on, at least 6 are needed"),
    ],
)
def test_what_cannot_be_learnt_is_named(labels: dict[str, str | None], told: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=told):
        check_labels(telemetry(tmp_path / "clean.parquet", labels))


def test_enough_vehicles_of_two_classes_pass_whatever_rows_lack_a_label(tmp_path: Path) -> None:
    labels = fleet(10, HEALTHY) | fleet(6, FAULT, 10) | fleet(9, None, 16)
    check_labels(telemetry(tmp_path / "clean.parquet", labels))


def test_a_simulated_fleet_passes(trained_fleet: Trained) -> None:
    check_labels(trained_fleet.features.with_name("clean.parquet"))
