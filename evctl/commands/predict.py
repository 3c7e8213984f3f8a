"""`evctl predict FILE`: raw telemetry to the live model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from evctl.commands import release, resolve
from evctl.commands.options import Debug, Env, Format, Output, Quiet
from evctl.output import columns, emit
from evctl.rollout import promotion


def predict(
    file: Annotated[Path, typer.Argument(help="Raw telemetry, CSV or Parquet.")],
    env: Env = None,
    output: Output = Format.table,
    quiet: Quiet = False,
    debug: Debug = False,
) -> int:
    """Ask the live model about every session in a file of raw telemetry."""
    from evctl.rollout.predicting import predict_file

    target = release.target_of(resolve.profile(env))
    answer = predict_file(target, promotion.open_world(target), file)
    emit(answer, output, _lines, dict, name="\n".join(each["class"] for each in answer["sessions"]), quiet=quiet)
    return 0


def _lines(answer: dict[str, Any]) -> list[str]:
    rows = [("VEHICLE", "SESSION", "CLASS", "PROBABILITY", "ALSO")]
    for each in answer["sessions"]:
        also = ", ".join(each["above_threshold"])
        rows.append((each["vehicle_id"], each["session_id"], each["class"], f"{each['probability']:.3f}", also))
    return [*columns(rows), f"model {answer['model']['version']}, {len(answer['sessions'])} session(s)"]
