"""Small fleets, carried through the steps once a session."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from ev_ml.features import generate
from ev_ml.simulate import FleetSpec, fleet, simulate
from ev_ml.train import train
from ev_ml.validate import validate


@dataclass(frozen=True)
class Trained:
    """A fleet's features and the model trained from them."""

    features: Path
    model: Path


def _prepared(spec: FleetSpec, folder: Path) -> Path:
    simulate(spec, folder / "raw.parquet")
    validate(folder / "raw.parquet", folder / "clean.parquet", min_vehicles=20)
    generate(folder / "clean.parquet", folder / "features.parquet")
    return folder


@pytest.fixture(scope="session")
def small_fleet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _prepared(FleetSpec(vehicles=80, seed=7), tmp_path_factory.mktemp("fleet"))


@pytest.fixture(scope="session")
def trained_fleet(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    folder = _prepared(fleet("v1", vehicles=128), tmp_path_factory.mktemp("trained"))
    train(folder / "features.parquet", folder / "model.joblib")
    return Trained(folder / "features.parquet", folder / "model.joblib")
