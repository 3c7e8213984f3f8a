"""`evctl models`: the registry."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import typer

from evctl.commands import release, resolve
from evctl.commands.options import Debug, Env, Format, Output, Quiet
from evctl.errors import NotFoundError, UsageError
from evctl.output import columns, emit

SHOWN = ("accuracy", "recall", "pr_auc", "false_alarms_per_1000")


def list_models(env: Env = None, output: Output = Format.table, quiet: Quiet = False, debug: Debug = False) -> int:
    """List registered models with their metrics."""
    found = _all(env)
    document = {"models": [_brief(each) for each in found]}
    emit(document, output, _lines, dict, name="\n".join(each["version"] for each in found), quiet=quiet)
    return 0


def show(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A version or a digest, or the beginning of one.")],
    env: Env = None,
    output: Output = Format.table,
    quiet: Quiet = False,
    debug: Debug = False,
) -> int:
    """Show one model's manifest."""
    known = _all(env)
    found = [each for each in known if model in (each["version"], each["digest"])]
    found = found or [each for each in known if each["version"].startswith(model) or each["digest"].startswith(model)]
    if not found:
        raise NotFoundError(f"no model {model!r} is registered", hint="evctl models list")
    if len(found) > 1:
        listed = ", ".join(each["version"] for each in found[:8])
        raise UsageError(f"{model!r} is the beginning of {len(found)} models: {listed}", hint="type more of it")
    emit(found[0], output, _manifest_lines, dict, name=found[0]["version"], quiet=quiet)
    return 0


def _all(env: str | None) -> list[dict[str, Any]]:
    from ev_ml.bundle import MODEL_NAME
    from evctl.rollout.registry import models

    return list(models(release.target_of(resolve.profile(env)).store, MODEL_NAME))


def _brief(manifest: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "version": manifest["version"],
        "digest": manifest["digest"],
        "uri": manifest["uri"],
        "run_id": manifest["provenance"].get("run_id"),
        "data_version": manifest["provenance"].get("data_version"),
        "metrics": {key: manifest["metrics"].get(key) for key in SHOWN},
    }


def _lines(document: Mapping[str, Any]) -> list[str]:
    if not document["models"]:
        return ["no model is registered; evctl run makes the first"]
    head = ["MODEL", "DATA", *(name.upper() for name in SHOWN), "RUN"]
    rows = [
        [each["version"], str(each["data_version"]), *(_number(each["metrics"][key]) for key in SHOWN),
         str(each["run_id"] or "-")[:8]]
        for each in document["models"]
    ]  # fmt: skip
    return columns([head, *rows])


def _manifest_lines(manifest: Mapping[str, Any]) -> list[str]:
    rows: list[list[str]] = [[key, str(manifest[key])] for key in ("name", "version", "digest", "uri")]
    rows += [[key, str(value)] for key, value in sorted(manifest["provenance"].items())]
    rows += [[key, _number(value)] for key, value in manifest["metrics"].items() if not isinstance(value, dict)]
    rows += [["classes", ", ".join(manifest["classes"])], ["features", str(len(manifest["features"]))]]
    rows += [[f"made with {key}", str(value)] for key, value in sorted(manifest["versions"].items())]
    return columns(rows)


def _number(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
