"""What a local run costs over its own functions, and whether the second one is answered from the cache.

    python benchmarks/local_run.py     # exits 1 when a limit is broken

Measured in this one run, over the product's own nine steps and v1 whole: the steps' functions called one after another in
one fresh process (imports and all), `evctl run` on an empty state folder, and the same run again; the first two in turn,
the better of two of each, since whatever else the machine does falls on one of them.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

MAX_OVERHEAD_S = 1.5
MIN_ROWS = 1_000_000
MAX_RUN_S, MAX_AGAIN_S = 90.0, 10.0
EVCTL = [sys.executable, "-m", "evctl"]


def functions(folder: Path) -> None:
    """Call the nine steps' functions in this process, artifacts and all."""
    from kfp import dsl

    from ev_pipeline import components as steps
    from evctl.profile_files import load_profile

    settings = load_profile("local").profile.pipeline_settings()
    data, store = settings.data.model_dump(mode="json", exclude_none=True), settings.service["store"]

    def artifact(kind: type[dsl.Artifact], name: str) -> Any:
        return kind(name=name, uri=str(folder / name), metadata={})

    raw, clean, features = (artifact(dsl.Dataset, name) for name in ("raw", "clean", "features"))
    report, evaluation, reference = (artifact(dsl.Artifact, name) for name in ("report", "evaluation", "reference"))
    model, bundle = artifact(dsl.Model, "model"), artifact(dsl.Model, "bundle")
    metrics, classification = artifact(dsl.Metrics, "metrics"), artifact(dsl.ClassificationMetrics, "classification")
    steps.ingest_battery_data("v1", data, raw)
    steps.validate_battery_data(data, raw, clean, report)
    steps.generate_battery_features(clean, features)
    steps.train_fault_classifier("local", features, model)
    page = artifact(dsl.HTML, "page")
    steps.evaluate_fault_model(model, features, metrics, classification, evaluation, page)
    registered = steps.register_fault_model(model, features, evaluation, "v1", store, "bench", bundle)
    steps.deploy_model_kserve(registered.model_uri, settings.service, "bench", "local")
    steps.setup_drift_monitoring(features, "ev_battery_fault_classifier", registered.model_uri, store, reference)
    record = {"run_id": "bench", "env": "local", "state": "SUCCEEDED", "tasks": []}
    (folder / "record.json").write_text(json.dumps(record))
    os.environ["EVCTL_RUN_RECORD"] = str(folder / "record.json")
    steps.notify_pipeline_status(dsl.PipelineTaskFinalStatus("SUCCEEDED", "bench", "t", "", ""), "bench", "local", {})


def timed(command: list[str], home: Path) -> tuple[float, str]:
    """Run a command with a state folder; return its seconds and what it printed."""
    home.mkdir(exist_ok=True)
    env = {**os.environ, "EVCTL_HOME": str(home)}
    start = time.perf_counter()
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    took = time.perf_counter() - start
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}: exit {done.returncode}\n{done.stdout}{done.stderr}")
    return took, done.stdout


def rows_of(home: Path, run_id: str) -> int:
    """Return the telemetry rows that a run brought in."""
    _, said = timed([*EVCTL, "outputs", run_id, "-o", "json"], home)
    return next(int(a["metadata"]["rows"]) for a in json.loads(said)["artifacts"] if a["name"] == "raw_data")


def main() -> int:
    """Print the figures; 1 when a limit is broken."""
    plain_s = run_s = float("inf")
    with tempfile.TemporaryDirectory() as name:
        for turn in ("one", "two"):
            apart, state = Path(name) / f"functions-{turn}", Path(name) / f"state-{turn}"
            try:
                plain_s = min(plain_s, timed([sys.executable, __file__, "--functions", str(apart)], apart)[0])
                took, said = timed([*EVCTL, "run", "--data-version", "v1", "-o", "json"], state)
                run_s = min(run_s, took)
                again_s, repeated = timed([*EVCTL, "run", "--data-version", "v1", "-o", "json"], state)
                run = json.loads(said)
                rows = rows_of(state, run["run_id"])
            finally:
                for home in (apart, state):
                    timed([*EVCTL, "serving", "stop"], home)
    tasks = len(run["tasks"])
    overhead = (run_s - plain_s) / tasks
    cached = sum(task["cached"] for task in json.loads(repeated)["tasks"])
    print(f"local run: {rows:,} rows, {tasks} tasks: {run_s:.1f} s; the functions in one process {plain_s:.1f} s")
    print(f"local run: {overhead:.2f} s a task over the functions alone (at most {MAX_OVERHEAD_S} s)")
    print(
        f"local run: the same again {again_s:.1f} s, {cached} of {tasks} tasks cached: {run_s / again_s:.1f} times faster"
    )
    kept = overhead <= MAX_OVERHEAD_S and rows >= MIN_ROWS and run_s < MAX_RUN_S and again_s < MAX_AGAIN_S
    return 0 if kept else 1


if __name__ == "__main__":
    if sys.argv[1:2] == ["--functions"]:
        functions(Path(sys.argv[2]))
        sys.exit(0)
    sys.exit(main())
