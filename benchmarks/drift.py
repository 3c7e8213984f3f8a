"""The drift check's figures: speed against Evidently, memory, false alarms, power (`make bench`).

    python benchmarks/drift.py [--rows 10000000] [--quick]

Evidently lives in an environment of its own, made here once (EVCTL_BENCH_HOME, else a cache folder); without
a network that part is left out and said so. Each timing is a process of its own: peaks of memory do not mix.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import joblib
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

COLUMNS = 40
GROUP_ROWS = 250_000
ROWS_A_VEHICLE = 1_000
THEIR_LIMIT_S = 300.0
"""Seconds one of Evidently's measurements may take; the largest part that fits is what counts."""

EVIDENTLY = "evidently==0.7.23"

PEAK = """
def peak_mb():  # VmHWM is this program's own; ru_maxrss would hold what the starting process had
    return next(int(line.split()[1]) / 1024 for line in open("/proc/self/status") if line.startswith("VmHWM"))
"""

OURS = """
import json, sys, time
from pathlib import Path
from ev_ml.drift import DriftConfig, compare
from ev_ml.drift_profile import profile_of
from ev_ml.reference import ReferenceProfile
reference = ReferenceProfile.read(Path(sys.argv[1]))
import scipy.stats, scipy.special
start = time.perf_counter()
report = compare(reference, profile_of(Path(sys.argv[2]), reference), DriftConfig())
print(json.dumps({"s": time.perf_counter() - start, "rows": report.rows, "verdict": report.verdict,
                  "peak_mb": peak_mb()}))
"""

THEIRS = """
import json, sys, time, warnings
warnings.filterwarnings("ignore")
import numpy as np, pandas as pd, pyarrow.parquet as pq
from evidently import Report, Dataset, DataDefinition
from evidently.presets import DataDriftPreset
def read(path, rows):
    file = pq.ParquetFile(path)
    names = [n for n in file.schema_arrow.names if n.startswith("f")]
    parts, have = [], 0
    for batch in file.iter_batches(1 << 20, columns=names):
        parts.append(batch.to_pandas()); have += len(parts[-1])
        if have >= rows: break
    return pd.concat(parts, ignore_index=True).iloc[:rows]
rows = int(sys.argv[3])
start = time.perf_counter()
reference, new = read(sys.argv[1], rows), read(sys.argv[2], rows)
definition = DataDefinition(numerical_columns=list(new.columns))
frames = [Dataset.from_pandas(frame, definition) for frame in (new, reference)]
snapshot = Report([DataDriftPreset()]).run(*frames)
snapshot.dict()
print(json.dumps({"s": time.perf_counter() - start, "rows": len(new),
                  "peak_mb": peak_mb()}))
"""


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--rows", type=int, default=10_000_000)
    options.add_argument("--quick", action="store_true", help="a tenth of the rows and of the weeks")
    chosen = options.parse_args()
    rows = chosen.rows // 10 if chosen.quick else chosen.rows
    with tempfile.TemporaryDirectory(prefix="evctl-bench-") as work:
        speed(Path(work), rows)
        statistics(Path(work), 20 if chosen.quick else 200)


def speed(work: Path, rows: int) -> None:
    """Print our time and memory, and Evidently's on the largest part it manages."""
    from ev_ml.reference import build_reference

    base = write_rows(work / "base.parquet", min(rows, 1_000_000), seed=0)
    build_reference(base).write(work / "reference.json")
    new = write_rows(work / "new.parquet", rows, seed=1)
    tenth = write_rows(work / "tenth.parquet", rows // 10, seed=1)
    small = run([sys.executable, "-c", PEAK + OURS, work / "reference.json", tenth])
    ours = run([sys.executable, "-c", PEAK + OURS, work / "reference.json", new])
    assert small and ours
    size = (work / "reference.json").stat().st_size / 1024
    print(f"drift check, {ours['rows']:,} rows x {COLUMNS} features: {ours['s']:.2f} s, reference {size:.0f} kB")
    print(f"  peak memory {ours['peak_mb']:.0f} MB; with a tenth of the rows {small['peak_mb']:.0f} MB")
    python = evidently_python()
    if python is None:
        print("  Evidently could not be installed here: its comparison is left out")
        return
    # Evidently compares two frames, the reference as long as the new data (two million rows at most).
    reference = write_rows(work / "reference.parquet", min(rows, 2_000_000), seed=2)
    part, best = min(rows, 50_000), None
    while theirs := run([python, "-c", PEAK + THEIRS, reference, new, str(part)], check=False):
        best = theirs
        if part >= rows or theirs["s"] * 2.2 > THEIR_LIMIT_S:
            break
        part = min(rows, part * 2)
    if best is None:
        print("  Evidently's preset does not run here")
        return
    ratio = (best["s"] / best["rows"]) / (ours["s"] / ours["rows"])
    print(f"  Evidently's preset, {best['rows']:,} rows: {best['s']:.1f} s, {best['peak_mb']:.0f} MB")
    print(f"  per row we are {ratio:.1f} times faster (wanted: 10)")


def statistics(work: Path, weeks: int) -> None:
    """Print false alarms and power on synthetic week-by-vehicle blocks and on the simulated fleets."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    from ev_ml.drift import DriftConfig, compare
    from ev_ml.drift_profile import profile_of
    from ev_ml.reference import build_reference
    from tests.ml.drift_data import write_fleet

    config = DriftConfig()
    for alike in (0.3, 0.9):
        shape = {"alike": alike, "features": 34}
        reference = build_reference(write_fleet(work / "r.parquet", vehicles=256, weeks=4, **shape))

        def verdict(seed: int, reference=reference, shape=shape, **change):
            path = write_fleet(work / "n.parquet", seed=seed, vehicles=200, **shape, **change)
            return compare(reference, profile_of(path, reference), config)

        alarms = sum(verdict(1000 + week).verdict != "OK" for week in range(weeks))
        print(
            f"synthetic, {alike:.0%} of variance between vehicles: {alarms} false alarms in {weeks} weeks (wanted: 2 %)"
        )
        for name, kind in (("f00", "normal"), ("f01", "log-normal"), ("f02", "half zero")):
            std = next(column.std for column in reference.features if column.name == name)
            found = 0
            for seed in range(weeks // 2):
                report = verdict(5000 + seed, change={name: lambda x, std=std: x + 0.5 * std})
                found += any(f.name == name and f.drifted for f in report.features)
            print(
                f"  half a deviation in one {kind} feature, 200 vehicles: found {found / (weeks // 2):.0%} (wanted: 95 %)"
            )
    fleets(work, weeks)


def fleets(work: Path, weeks: int) -> None:
    """The same on simulated fleets and a model: single weeks of other v1 vehicles, and of v3's."""
    from ev_ml.drift import DriftConfig, compare
    from ev_ml.drift_bins import KIND_COLUMNS
    from ev_ml.drift_profile import DriftProfile
    from ev_ml.reference import ReferenceProfile
    from ev_ml.reference_of import reference_document
    from ev_ml.train import train

    tables = {name: fleet_features(work, name, spec) for name, spec in FLEETS.items()}
    train(tables["reference"], work / "model.joblib")
    reference = ReferenceProfile.from_json(reference_document(tables["reference"], work / "model.joblib"))
    model = joblib.load(work / "model.joblib")

    def check(table: pa.Table, predict=None):
        profile = DriftProfile(reference)
        for batch in table.combine_chunks().to_batches():
            profile.add(batch, predict)
        return compare(reference, profile, DriftConfig())

    for name, wanted in (("undrifted", "OK"), ("v3", "DRIFT")):
        drawn = list(drawn_weeks(tables[name], weeks))
        hits = sum(check(week, model.predict_proba).verdict == wanted for week in drawn)
        print(f"simulated weeks of the {name} fleet, 200 vehicles at most: {hits} of {weeks} are {wanted}")
        if name == "v3":
            continue
        found = {}
        for column in reference.features:
            if column.name in KIND_COLUMNS:  # half a deviation of yes and no is nothing that can happen
                continue
            hits = 0
            for week in drawn[: weeks // 10]:
                at = week.schema.get_field_index(column.name)
                moved = pa.array(week[column.name].to_numpy() + 0.5 * column.std)
                report = check(week.set_column(at, column.name, moved))
                hits += report.verdict == "DATA_QUALITY" or any(
                    f.name == column.name and f.drifted for f in report.features
                )
            found[column.name] = hits / (weeks // 10)
        weak = {name: power for name, power in sorted(found.items(), key=lambda item: item[1]) if power < 0.95}
        mean = sum(found.values()) / len(found)
        print(f"  half a deviation in one of their {len(found)} features: found {mean:.1%} (wanted: 95 %)")
        if weak:
            print("  below: " + ", ".join(f"{name} {power:.0%}" for name, power in weak.items()))


def drawn_weeks(features: Path, weeks: int):
    """Yield single weeks of 200 vehicles (of half, where there are fewer than 400), drawn at random."""
    table, rng = pq.read_table(features), np.random.default_rng(0)
    vehicle = np.asarray(table["vehicle_id"].to_pylist())
    names = np.unique(vehicle)
    week = table["session_start"].cast(pa.timestamp("s", "UTC")).cast(pa.int64()).to_numpy() // (7 * 86_400)
    whole = [w for w in np.unique(week) if np.count_nonzero(week == w) >= 2 * len(names)]
    for _ in range(weeks):
        some = rng.choice(names, size=min(200, len(names) // 2), replace=False)
        yield table.filter(pa.array((week == rng.choice(whole)) & np.isin(vehicle, some)))


FLEETS = {
    "reference": {"fleet": "v1"},
    "undrifted": {"fleet": "v1", "seed": 4242, "vehicles": 600},
    "v3": {"fleet": "v3"},
}


def fleet_features(work: Path, name: str, spec: dict) -> Path:
    from ev_ml.features import generate
    from ev_ml.ingest import ingest
    from ev_ml.validate import validate

    raw, clean, out = (work / f"{name}.{part}.parquet" for part in ("raw", "clean", "features"))
    ingest(name, raw, data={"versions": {name: spec}})
    validate(raw, clean)
    generate(clean, out)
    raw.unlink()
    clean.unlink()
    return out


def write_rows(path: Path, rows: int, *, seed: int) -> Path:
    """Write rows of `COLUMNS` features of several shapes."""
    writer = None
    for start in range(0, rows, GROUP_ROWS):
        rng = np.random.default_rng((seed, start))
        size = min(GROUP_ROWS, rows - start)
        columns = {
            "vehicle_id": pa.array(((start + np.arange(size)) // ROWS_A_VEHICLE).astype(str)).dictionary_encode()
        }
        for index in range(COLUMNS):
            values = rng.standard_normal(size)
            columns[f"f{index:02d}"] = np.exp(values) if index % 4 == 1 else values
        table = pa.table(columns)
        writer = writer or pq.ParquetWriter(path, table.schema, compression="none", use_dictionary=["vehicle_id"])
        writer.write_table(table)
    if writer:
        writer.close()
    return path


def evidently_python() -> Path | None:
    """Return the Python of Evidently's own environment, made when it is missing; None when it cannot be."""
    base = Path(os.environ.get("EVCTL_BENCH_HOME") or Path.home() / ".cache" / "evctl-bench")
    python = base / "evidently" / "bin" / "python"
    if (base / "evidently" / "ready").exists():
        return python
    print(f"  making an environment for {EVIDENTLY} ...", flush=True)
    start = time.perf_counter()
    try:
        subprocess.run([sys.executable, "-m", "venv", str(base / "evidently")], check=True, capture_output=True)
        subprocess.run(
            [str(python), "-m", "pip", "install", "-q", EVIDENTLY, "pandas<3", "pyarrow"],
            check=True,
            capture_output=True,
        )
    except subprocess.CalledProcessError as error:
        print(f"  {error.stderr.decode(errors='replace').strip().splitlines()[-1:]}")
        return None
    (base / "evidently" / "ready").touch()
    print(f"  made in {time.perf_counter() - start:.0f} s")
    return python


def run(command: list, *, check: bool = True) -> dict | None:
    """Run one measurement and return what it prints; None when it fails or takes over ten minutes."""
    try:
        done = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=600)
    except subprocess.TimeoutExpired:
        return None
    if done.returncode:
        if check:
            raise SystemExit(done.stderr)
        print("   ", (done.stderr.strip().splitlines() or [f"ended by signal {-done.returncode}"])[-1])
        return None
    return json.loads(done.stdout.strip().splitlines()[-1])


if __name__ == "__main__":
    main()
