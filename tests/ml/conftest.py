"""One small fleet, carried through every step once."""

from __future__ import annotations

from pathlib import Path

import pytest

from ev_ml.features import generate
from ev_ml.simulate import FleetSpec, simulate
from ev_ml.validate import validate

SMALL = FleetSpec(vehicles=80, seed=7)


@pytest.fixture(scope="session")
def small_fleet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fleet")
    simulate(SMALL, folder / "raw.parquet")
    validate(folder / "raw.parquet", folder / "clean.parquet", min_vehicles=20)
    generate(folder / "clean.parquet", folder / "features.parquet")
    return folder
