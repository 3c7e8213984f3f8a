"""How long the command line takes to start, beside a bare typer app and kfp's own, in one run.

    python benchmarks/startup.py     # exits 1 when a limit is broken

The commands take turns, so that a busy moment of the machine meets all of them; each figure is a ratio of medians.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROUNDS = 15
MAX_HELP, MIN_KFP, MAX_VERB = 1.3, 2.5, 1.2
BARE = '''
from typing import Annotated
import typer
app = typer.Typer(add_completion=False)

@app.command()
def a(
    run: Annotated[str | None, typer.Argument()] = None, env: str = "local", output: str = "table", quiet: bool = False
) -> None:
    """One verb."""

@app.command()
def b() -> None:
    """Another."""

app()
'''


def main() -> int:
    """Print the ratios; 1 when a limit is broken."""
    bin_folder = Path(sys.executable).parent
    with tempfile.TemporaryDirectory() as folder:
        bare = Path(folder) / "bare.py"
        bare.write_text(BARE)
        commands = {
            "bare --help": [sys.executable, str(bare), "--help"],
            "bare a --help": [sys.executable, str(bare), "a", "--help"],
            "evctl --help": [str(bin_folder / "evctl"), "--help"],
            "evctl status --help": [str(bin_folder / "evctl"), "status", "--help"],
            "kfp --help": [str(bin_folder / "kfp"), "--help"],
        }
        times: dict[str, list[float]] = {name: [] for name in commands}
        for round_ in range(ROUNDS + 1):
            for name, command in commands.items():
                start = time.perf_counter()
                subprocess.run(
                    command, check=True, capture_output=True, cwd=folder, env={**os.environ, "COLUMNS": "100"}
                )
                if round_:  # the first one warms the disk's cache
                    times[name].append(time.perf_counter() - start)
    median = {name: statistics.median(each) for name, each in times.items()}
    for name, seconds in median.items():
        print(f"{name:<22}{seconds * 1000:7.0f} ms   (median of {ROUNDS})")
    help_ratio = median["evctl --help"] / median["bare --help"]
    kfp_ratio = median["kfp --help"] / median["evctl --help"]
    verb_ratio = median["evctl status --help"] / median["bare a --help"]
    print(f"evctl --help / bare --help: {help_ratio:.2f} (at most {MAX_HELP})")
    print(f"kfp --help / evctl --help: {kfp_ratio:.2f} (at least {MIN_KFP})")
    print(f"evctl status --help / bare a --help: {verb_ratio:.2f} (at most {MAX_VERB})")
    return int(help_ratio > MAX_HELP or kfp_ratio < MIN_KFP or verb_ratio > MAX_VERB)


if __name__ == "__main__":
    sys.exit(main())
