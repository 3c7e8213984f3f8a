"""`evctl drift`: new data against the serving model's reference."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from evctl.commands import resolve
from evctl.commands.options import Debug, Env, Format, Output, Quiet
from evctl.drift import actions, checking
from evctl.drift import history as kept
from evctl.output import columns, emit, say

SHOWN = 10
"""Features shown that have not drifted as well as those that have; all are in the JSON."""

EXIT_CODES = {"OK": 0, "WARN": 0, "DRIFT": 7, "DATA_QUALITY": 7, "INSUFFICIENT_DATA": 8}


def drift(
    data_version: Annotated[str | None, typer.Option(help="A data version of the profile.")] = None,
    data: Annotated[str | None, typer.Option(help="A CSV or Parquet file: path, s3://, gs://, https://.")] = None,
    retrain: Annotated[bool, typer.Option("--retrain", help="Submit a run when the decision says so.")] = False,
    notify: Annotated[bool, typer.Option("--notify", help="Tell the channels of drift or broken data.")] = False,
    history: Annotated[bool, typer.Option("--history", help="Show earlier checks instead.")] = False,
    env: Env = None,
    output: Output = Format.table,
    quiet: Quiet = False,
    debug: Debug = False,
) -> int:
    """Compare new data with what the serving model was trained on."""
    profile = resolve.profile(env)
    if history:
        checks = kept.read(profile.name)
        emit(checks, output, history_lines, history_document, name=_verdicts(checks), quiet=quiet)
        return 0
    submit, is_open = actions.retraining(profile) if retrain else (None, None)
    check = checking.check(profile, data_version=data_version, uri=data, submit=submit, is_open=is_open)
    emit(check, output, check_lines, lambda c: c, name=str(check["verdict"]), quiet=quiet)
    if notify and (told := actions.alert(profile, check)):
        say(told)
    return EXIT_CODES[check["verdict"]]


def check_lines(check: dict[str, Any]) -> Iterator[str]:
    """Return a check as lines: the verdict, why, the features by effect, what follows."""
    yield f"{check['verdict']}  {check['data']} against model {check['model']}"
    yield f"{check['rows']:,} rows, {check['vehicles']:,} vehicles"
    yield from check["reasons"]
    features = [f for i, f in enumerate(check["features"]) if f["drifted"] or i < SHOWN]
    if features:
        yield ""
        rows = [("FEATURE", "METRIC", "VALUE", "THRESHOLD", "")]
        rows += [_row(feature) for feature in features]
        score = check["score"]
        rows += [_row({**entry, "name": name}) for name, entry in _outputs(score)]
        yield from columns(rows)
    yield ""
    run = check["retrain_run"]
    answer = f"submitted {run}" if run else "yes" if check["retrain"] else "no"
    yield f"retraining: {answer}, {check['retrain_reason']}"
    if check["retrain"] and not run:
        yield f"  next: evctl drift --data-version {check['data']} --retrain"


def history_lines(checks: list[dict[str, Any]]) -> list[str]:
    """Return earlier checks, newest first."""
    if not checks:
        return ["no drift check yet: evctl drift --data-version V"]
    rows = [("AT", "VERDICT", "DATA", "MODEL", "ROWS", "DRIFTED", "RETRAINED BY")]
    for check in reversed(checks):
        drifted = sum(bool(feature["drifted"]) for feature in check.get("features", ()))
        run = str(check.get("retrain_run") or "-")[:8]
        rows.append(
            (
                str(check.get("at")),
                str(check["verdict"]),
                Path(str(check.get("data"))).name,
                str(check.get("model")),
                f"{check.get('rows', 0):,}",
                str(drifted),
                run,
            )
        )
    return columns(rows)


def history_document(checks: list[dict[str, Any]]) -> dict[str, Any]:
    """Return `drift --history -o json`'s document, newest first, without the histograms."""
    return {"checks": [{k: v for k, v in c.items() if k != "histograms"} for c in reversed(checks)]}


def _row(feature: dict[str, Any]) -> tuple[str, str, str, str, str]:
    mark = "drifted" if feature["drifted"] else ""
    return feature["name"], feature["metric"], f"{feature['value']:.3f}", f"{feature['threshold']:.3f}", mark


def _outputs(score: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    if score:
        yield "(score)", score
        if "classes" in score:
            yield "(classes)", score["classes"]


def _verdicts(checks: list[dict[str, Any]]) -> str:
    return "\n".join(str(check["verdict"]) for check in reversed(checks))
