"""How much faster the features are than a pandas loop, and whether their memory grows with the fleet.

    python benchmarks/features.py [--rows 1000000]     # exits 1 when a limit is broken

Both are measured on the same rows in this one run; memory is the peak of a process, for n and 10n rows.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

MIN_RATIO = 20.0
MAX_GROWTH = 1.15
NAIVE_VEHICLES = 16
"""One row group: the loop takes a minute a hundred vehicles."""
PEAK = """
import resource, sys
from pathlib import Path
from ev_ml.features import generate
generate(Path(sys.argv[1]), Path(sys.argv[2]))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""


def clean_fleet(folder: Path, vehicles: int) -> tuple[Path, int]:
    """Simulate and validate a fleet; return its file and rows."""
    from ev_ml.simulate import fleet, simulate
    from ev_ml.validate import validate

    raw, clean = folder / f"raw-{vehicles}.parquet", folder / f"clean-{vehicles}.parquet"
    simulate(fleet("v1", vehicles=vehicles), raw)
    return clean, validate(raw, clean, min_vehicles=1).kept


def speed(folder: Path) -> tuple[float, float]:
    """Return seconds of the loop and of the vectorised code, on the same rows; checks that they agree."""
    import numpy as np
    import pyarrow.parquet as pq
    from naive_features import naive_features

    from ev_ml.features import FEATURES, from_table

    clean, _ = clean_fleet(folder, NAIVE_VEHICLES)
    table = pq.read_table(clean)
    frame = table.to_pandas()
    start = time.perf_counter()
    slow = naive_features(frame)
    naive_s = time.perf_counter() - start
    best = float("inf")
    for _ in range(3):
        start = time.perf_counter()
        fast = from_table(table)
        best = min(best, time.perf_counter() - start)
    names = list(FEATURES)
    np.testing.assert_allclose(fast.to_pandas()[names], slow[names], rtol=1e-5, atol=1e-7)
    return naive_s, best


def peak_mb(clean: Path, out: Path) -> float:
    """Return the peak resident memory of a process that computes the features."""
    done = subprocess.run(
        [sys.executable, "-c", PEAK, str(clean), str(out)], check=True, capture_output=True, text=True
    )
    return float(done.stdout)


def main() -> int:
    """Print the figures; 1 when a limit is broken."""
    from ev_ml.features import generate
    from ev_ml.simulate import PLAN, SAMPLES

    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=1_000_000, help="rows of the larger fleet")
    wanted = parser.parse_args().rows
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        naive_s, fast_s = speed(folder)
        ratio = naive_s / fast_s
        print(f"features: naive loop {naive_s:.2f} s, vectorised {fast_s:.3f} s: {ratio:.0f} times faster")
        vehicles = max(160, -(-wanted // (len(PLAN) * SAMPLES)))
        large, rows = clean_fleet(folder, vehicles)
        small, few = clean_fleet(folder, vehicles // 10)
        start = time.perf_counter()
        generate(large, folder / "features.parquet")
        print(f"features: {rows:,} rows in {time.perf_counter() - start:.2f} s")
        before, after = peak_mb(small, folder / "a.parquet"), peak_mb(large, folder / "b.parquet")
        growth = after / before
        print(f"features: peak {before:.0f} MB for {few:,} rows, {after:.0f} MB for {rows:,}: x{growth:.2f}")
    return 0 if ratio >= MIN_RATIO and growth <= MAX_GROWTH else 1


if __name__ == "__main__":
    sys.exit(main())
