"""`evctl profile list | show | check`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

import typer

from evctl import profile_files
from evctl.commands import resolve
from evctl.commands.options import Debug, Env, Format, Output, Quiet
from evctl.errors import EvctlError, UsageError
from evctl.output import columns, emit
from evctl.state import profile_names

Name = Annotated[str | None, typer.Argument(metavar="PROFILE", help="The profile; none is --env's, else local.")]
Known = Annotated[str | None, typer.Argument(metavar="PROFILE", help="One profile; none is all of them.")]


def list_profiles(output: Output = Format.table, quiet: Quiet = False, debug: Debug = False) -> int:
    """List the environments; one that is wrong is listed with what is wrong."""
    found = [_row(name) for name in profile_names()]
    rows = [("NAME", "ENGINE", "NAMESPACE", "DESCRIPTION")]
    rows += [(row["name"], row["backend"], row["namespace"], row["description"]) for row in map(_shown, found)]
    names = "\n".join(row["name"] for row in found)
    emit({"profiles": found}, output, lambda _: columns(rows), lambda d: d, name=names, quiet=quiet)
    return 0


def show(
    name: Name = None, env: Env = None, output: Output = Format.table, quiet: Quiet = False, debug: Debug = False
) -> int:
    """Show a profile's values and where each comes from."""
    loaded = profile_files.load_profile(resolve.env_name(name or env))
    values = list(_flat(loaded.profile.model_dump(mode="json"), ""))
    document = {
        "name": loaded.profile.name,
        "file": str(loaded.path),
        "values": {key: {"value": value, "origin": loaded.origins.get(key, "default")} for key, value in values},
    }
    rows = [(key, str(value), loaded.origins.get(key, "default")) for key, value in values]
    emit(document, output, lambda _: columns(rows), lambda d: d, name=loaded.profile.name, quiet=quiet)
    return 0


def check(
    name: Known = None, env: Env = None, output: Output = Format.table, quiet: Quiet = False, debug: Debug = False
) -> int:
    """Check one profile, or all; every wrong one is told."""
    chosen = name or env
    found = [_row(each) for each in ([chosen] if chosen else profile_names())]
    wrong = [row["error"] for row in found if row["error"]]
    if chosen and wrong:
        profile_files.load_profile(chosen)  # the error itself, with its hint
    if wrong:
        raise UsageError("; ".join(wrong), hint="evctl profile check NAME, for one of them")
    valid = [row["name"] for row in found]
    emit(
        {"valid": valid},
        output,
        lambda d: [f"{each}: valid" for each in d["valid"]],
        lambda d: d,
        name="\n".join(valid),
        quiet=quiet,
    )
    return 0


def _row(name: str) -> dict[str, Any]:
    try:
        found = profile_files.load_profile(name).profile
    except EvctlError as error:
        return {"name": name, "backend": None, "namespace": None, "description": None, "error": error.message}
    known = {key: getattr(found, key) for key in ("name", "backend", "namespace", "description")}
    return {**known, "error": None}


def _shown(row: dict[str, Any]) -> dict[str, str]:
    if row["error"]:
        return {"name": row["name"], "backend": "-", "namespace": "-", "description": f"wrong: {row['error']}"}
    return row


def _flat(value: Any, prefix: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict) and value:
        for key, each in value.items():
            yield from _flat(each, f"{prefix}.{key}" if prefix else str(key))
    else:
        yield prefix, value
