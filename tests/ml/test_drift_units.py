"""Which raw column is blamed for features that look broken: telemetry of other vehicles, one column rewritten."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ev_ml.drift import DriftConfig
from ev_ml.drift_units import VEHICLES, blame, sample_of
from ev_ml.features import FEATURE_UNITS, FEATURES
from ev_ml.reference import ReferenceProfile, build_reference
from ev_ml.simulate import FleetSpec, simulate
from ev_ml.validate import validate

Rewrite = Callable[[np.ndarray], np.ndarray]


@pytest.fixture(scope="module")
def reference(small_fleet: Path) -> ReferenceProfile:
    return build_reference(small_fleet / "features.parquet", names=FEATURES, units=FEATURE_UNITS)


@pytest.fixture(scope="module")
def others(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("others")
    simulate(FleetSpec(vehicles=20, seed=8), folder / "raw.parquet")
    validate(folder / "raw.parquet", folder / "clean.parquet", min_vehicles=0)
    return folder / "clean.parquet"


def rewritten(clean: Path, out: Path, columns: tuple[str, ...], rewrite: Rewrite) -> Path:
    table = pq.read_table(clean)
    for name in columns:
        values = pa.array(rewrite(table.column(name).to_numpy()))
        table = table.set_column(table.schema.get_field_index(name), table.schema.field(name), values)
    pq.write_table(table, out)
    return out


@pytest.mark.parametrize(
    ("columns", "rewrite", "words"),
    [
        (("temperature_max_c",), lambda v: v * 1.8 + 32, "temperature_max_c looks in degrees Fahrenheit"),
        (("soc_pct",), lambda v: v / 100, "soc_pct looks 100 times too small (a share?)"),
        (("pack_current_a",), lambda v: -v, "pack_current_a looks of the opposite sign"),
        (
            ("temperature_min_c", "temperature_max_c"),
            lambda v: v * 1.8 + 32,
            "temperature_min_c and temperature_max_c look in degrees Fahrenheit",
        ),
    ],
)
def test_the_raw_column_in_another_unit_is_named(
    reference: ReferenceProfile, others: Path, tmp_path: Path, columns: tuple[str, ...], rewrite: Rewrite, words: str
) -> None:
    sample_of(rewritten(others, tmp_path / "new.parquet", columns, rewrite), tmp_path / "sample")
    assert blame(tmp_path / "sample", reference, DriftConfig()) == words


def test_nobody_is_blamed_for_data_that_are_well(reference: ReferenceProfile, others: Path, tmp_path: Path) -> None:
    sample_of(others, tmp_path / "sample")
    assert blame(tmp_path / "sample", reference, DriftConfig()) is None


def test_no_unit_is_blamed_for_noise(reference: ReferenceProfile, others: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    noise = rewritten(others, tmp_path / "n.parquet", ("temperature_max_c",), lambda v: rng.uniform(-40, 120, len(v)))
    sample_of(noise, tmp_path / "sample")
    assert blame(tmp_path / "sample", reference, DriftConfig()) is None


def test_a_sample_is_a_few_whole_vehicles(others: Path, tmp_path: Path) -> None:
    sample_of(others, tmp_path / "sample")
    sample, whole = (pq.read_table(path)["vehicle_id"].to_pandas() for path in (tmp_path / "sample", others))
    assert sample.nunique() == VEHICLES
    assert sample.value_counts().to_dict().items() <= whole.value_counts().to_dict().items()
