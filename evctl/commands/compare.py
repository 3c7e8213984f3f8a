"""`evctl compare`: two runs side by side."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

import typer

from evctl.commands import resolve
from evctl.commands.options import Debug, Env, Format, Output, Quiet
from evctl.compare import compare_runs
from evctl.output import columns, emit

Ref = Annotated[str, typer.Argument(metavar="RUN", help="Id, unique prefix, name, @latest or @last-good.")]
DIGEST_SHOWN = 12


def compare(
    first: Ref,
    second: Ref,
    env: Env = None,
    output: Output = Format.table,
    quiet: Quiet = False,
    debug: Debug = False,
) -> int:
    """Compare two runs: parameters, data, metrics, gate, durations, changed tasks."""
    sides = [resolve.run(reference, env) for reference in (first, second)]
    result = compare_runs(*((side.backend, side.run_id) for side in sides))
    emit(result, output, compare_lines, lambda document: document, name=f"{first} {second}", quiet=quiet)
    return 0


def compare_lines(result: dict[str, Any]) -> Iterator[str]:
    """Return a comparison as lines."""
    heads = result["runs"]
    rows = [("", *(head["run_id"][:8] for head in heads), "")]
    rows += [(name, *(_text(head[name]) for head in heads), "") for name in ("name", "env", "state", "model")]
    for part in ("parameters", "data", "gate"):
        for name, pair in result[part].items():
            mark = "changed" if pair["changed"] else ""
            # a digest whole makes every line too wide for a terminal; JSON has it
            width = DIGEST_SHOWN if name == "digest" else None
            rows.append((f"{part} {name}", _text(pair["first"])[:width], _text(pair["second"])[:width], mark))
    for part, unit in (("metrics", ""), ("durations", " s")):
        for name, pair in result[part].items():
            difference = pair["difference"]
            mark = "" if difference is None else f"{difference:+.4g}{unit}"
            rows.append((f"{part} {name}", _text(pair["first"]), _text(pair["second"]), mark))
    yield from columns(rows)
    for task in result["tasks"]:
        states = " -> ".join(_text(state) for state in task["states"])
        reason = next((r for r in reversed(task["reasons"]) if r), "")
        yield f"task {task['name']}: {states}{', ' + reason if reason else ''}"


def _text(value: Any) -> str:
    if value is None or value == []:
        return "-"
    if isinstance(value, float):
        # Kubeflow's metadata knows no whole numbers
        return f"{value:,.0f}" if value.is_integer() else f"{value:.4g}"
    if isinstance(value, list):
        return "; ".join(map(str, value))
    return str(value)
