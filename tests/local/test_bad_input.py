"""A user's own bad file, end to end: the run fails at the task at fault, with one line that says why."""

from __future__ import annotations

import gzip
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from evctl.cli import run as evctl
from tests.local.product import Product

pytestmark = pytest.mark.local

Make = Callable[[pd.DataFrame, Path], Path]


def empty(_: pd.DataFrame, folder: Path) -> Path:
    (folder / "in.csv").write_bytes(b"")
    return folder / "in.csv"


def header_only(good: pd.DataFrame, folder: Path) -> Path:
    good.head(0).to_csv(folder / "in.csv", index=False)
    return folder / "in.csv"


def one_vehicle(good: pd.DataFrame, folder: Path) -> Path:
    good[good["vehicle_id"] == good["vehicle_id"].iloc[0]].to_csv(folder / "in.csv", index=False)
    return folder / "in.csv"


def nan_everywhere(good: pd.DataFrame, folder: Path) -> Path:
    numbers = good.select_dtypes("number").columns
    good.assign(**{name: float("nan") for name in numbers}).to_parquet(folder / "in.parquet")
    return folder / "in.parquet"


def truncated(good: pd.DataFrame, folder: Path) -> Path:
    packed = io.BytesIO()
    good.to_parquet(packed)
    (folder / "in.parquet").write_bytes(packed.getvalue()[: len(packed.getvalue()) // 2])
    return folder / "in.parquet"


def bomb(_: pd.DataFrame, folder: Path) -> Path:
    with gzip.open(folder / "in.csv.gz", "wb", compresslevel=9) as file:
        for _ in range(160):
            file.write(b"0" * (1 << 20))
    return folder / "in.csv.gz"


def other_columns(good: pd.DataFrame, folder: Path) -> Path:
    good.rename(columns={"vehicle_id": "vin"}).to_csv(folder / "in.csv", index=False)
    return folder / "in.csv"


def missing(_: pd.DataFrame, folder: Path) -> Path:
    return folder / "nowhere.csv"


class InThisProcess(Product):
    """The same answers without a process for each question."""

    capfd: pytest.CaptureFixture[str]

    def ask(self, *line: str, **_: Any) -> tuple[int, str, str]:
        code = evctl(line)
        out, err = self.capfd.readouterr()
        return code, out, err


@pytest.fixture
def product(
    tmp_path: Path, stranger: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Product:
    here = InThisProcess(tmp_path / "work", stranger)
    here.capfd = capfd
    monkeypatch.setenv("EVCTL_PROFILES", str(tmp_path / "work" / "profiles"))
    return here


@pytest.fixture(scope="module")
def good(few_vehicles: Path) -> pd.DataFrame:
    return pd.read_csv(few_vehicles)


@pytest.mark.parametrize(
    ("make", "task", "said"),
    [
        (empty, "ingest_battery_data", "in.csv is empty"),
        (header_only, "ingest_battery_data", "has no rows"),
        (truncated, "ingest_battery_data", "cannot be read"),
        (bomb, "ingest_battery_data", "unpacks to more than"),
        (other_columns, "ingest_battery_data", "column vehicle_id is missing; the file has vin"),
        (missing, "ingest_battery_data", "nowhere.csv; name an existing file"),
        (
            one_vehicle,
            "validate_battery_data",
            "1 vehicle(s) left, at least 20 are needed to hold some out; bring more vehicles",
        ),
        (nan_everywhere, "validate_battery_data", "rows (100.0%) are bad"),
    ],
)
def test_a_bad_file_fails_the_task_at_fault_and_says_why_in_one_line(
    product: Product, tmp_path: Path, good: pd.DataFrame, make: Make, task: str, said: str
) -> None:
    product.profile({"v1": {"uri": str(make(good, tmp_path))}})
    code, run = check(product, task)
    assert code == 1
    assert said in next(each["reason"] for each in run["tasks"] if each["name"] == task)


def test_one_class_only_is_refused_and_named(product: Product, tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    from ev_ml.simulate import fleet, simulate

    simulate(fleet("v1", vehicles=24), tmp_path / "raw.parquet")
    table = pq.read_table(tmp_path / "raw.parquet")
    healthy = pa.array(["healthy"] * table.num_rows)
    at = table.schema.get_field_index("label")
    pq.write_table(table.set_column(at, table.schema.field(at), healthy), tmp_path / "in.parquet")
    product.profile({"v1": {"uri": str(tmp_path / "in.parquet")}})
    _, run = check(product, "validate_battery_data")
    reason = next(each["reason"] for each in run["tasks"] if each["name"] == "validate_battery_data")
    assert "have the label 'healthy'" in reason


def test_a_column_map_that_names_what_the_file_lacks_says_so_with_the_key_to_mend(
    product: Product, few_vehicles: Path
) -> None:
    product.profile({"v1": {"uri": str(few_vehicles), "columns": {"vehicle_id": "vin"}}})
    _, run = check(product, "ingest_battery_data")
    reason = next(each["reason"] for each in run["tasks"] if each["name"] == "ingest_battery_data")
    assert "column vin is missing" in reason


def check(product: Product, task: str) -> tuple[int, dict[str, Any]]:
    """Run; whatever is wrong, it ends 1 without a traceback, and status says in one line which task failed and why."""
    code, _, err = product.ask("run")
    assert (code, "Traceback" in err) == (1, False), err
    code, run = product.status()
    states = {each["name"]: each["state"] for each in run["tasks"]}
    assert states[task] == "FAILED"
    assert list(states.values()).count("FAILED") == 1
    assert states["notify_pipeline_status"] == "SUCCEEDED"
    assert run["model"] is None
    _, shown, _ = product.ask("status")
    failed = [line for line in shown.splitlines() if line.startswith(f"failed: {task}: ")]
    assert len(failed) == 1
    assert "Error:" not in failed[0]
    return code, run
