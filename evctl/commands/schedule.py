"""`evctl schedule apply | list | delete`: recurring runs and drift checks, declared in the profile."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from evctl.commands import resolve
from evctl.commands.options import Debug, Env, Format, Output, Quiet
from evctl.documents import stamp
from evctl.errors import UsageError
from evctl.output import columns, emit
from evctl.schedules import applying
from evctl.schedules.base import Schedule, Standing, Step, declared, next_fire


def apply(
    prune: Annotated[bool, typer.Option("--prune", help="Take away what is no longer declared.")] = False,
    env: Env = None,
    output: Output = Format.table,
    quiet: Quiet = False,
    debug: Debug = False,
) -> int:
    """Make the profile's schedules stand: created, updated or unchanged."""
    profile = resolve.profile(env)
    steps = applying.apply(profile, declared(profile), prune=prune)
    document = {
        "changed": any(step.change != "unchanged" for step in steps),
        "schedules": [{**_entry(step.schedule, step.where), "change": step.change} for step in steps],
    }
    none = [f"profile {profile.name} declares no schedules"]
    lines = [_told(step) for step in steps] or none
    emit(document, output, lambda _: lines, lambda d: d, name="\n".join(s.name for s in steps), quiet=quiet)
    return 0


def list_schedules(env: Env = None, output: Output = Format.table, quiet: Quiet = False, debug: Debug = False) -> int:
    """List what stands there, and what the profile declares and nobody has applied."""
    profile = resolve.profile(env)
    wanted = declared(profile)
    standing = applying.standing(profile, wanted)
    entries = [*_listed(wanted, standing)]
    names = "\n".join(entry["name"] for entry in entries)
    emit({"schedules": entries}, output, lambda d: _table(d["schedules"]), lambda d: d, name=names, quiet=quiet)
    return 0


def delete(
    names: Annotated[list[str] | None, typer.Argument(metavar="NAME...", help="Which.")] = None,
    every: Annotated[bool, typer.Option("--all", help="All of this environment.")] = False,
    env: Env = None,
    output: Output = Format.table,
    quiet: Quiet = False,
    debug: Debug = False,
) -> int:
    """Take schedules away; the profile keeps declaring them."""
    if bool(names) == every:
        raise UsageError("name the schedules, or say --all", hint="evctl schedule delete NAME")
    gone = applying.delete(resolve.profile(env), None if every else names or [])
    lines = [f"{name}: deleted" for name in gone] or ["there is none"]
    emit({"deleted": list(gone)}, output, lambda _: lines, lambda d: d, name="\n".join(gone), quiet=quiet)
    return 0


def _entry(schedule: Schedule, where: str) -> dict[str, Any]:
    return {
        "name": schedule.name,
        "verb": schedule.verb,
        "cron": schedule.cron,
        "parameters": dict(schedule.parameters),
        "enabled": schedule.enabled,
        "where": where,
        "next_at": stamp(next_fire(schedule, datetime.now(UTC))),
    }


def _listed(wanted: Sequence[Schedule], standing: Sequence[Standing]) -> list[dict[str, Any]]:
    by_name = {each.name: each for each in wanted}
    entries = []
    for each in standing:
        same = by_name.get(each.schedule.name)
        state = "not declared" if same is None else "applied" if same == each.schedule else "differs"
        entries.append({**_entry(each.schedule, each.where), "state": state})
    there = {each.schedule.name for each in standing}
    missing = [_entry(schedule, "") for schedule in wanted if schedule.name not in there]
    entries += [{**entry, "where": None, "next_at": None, "state": "not applied"} for entry in missing]
    return sorted(entries, key=lambda entry: str(entry["name"]))


def _table(entries: Sequence[dict[str, Any]]) -> list[str]:
    if not entries:
        return ["no schedules: declare them in the profile, then evctl schedule apply"]
    rows = [("NAME", "VERB", "CRON (UTC)", "NEXT", "WHERE", "STATE")]
    for each in entries:
        fires = each["next_at"] if each["enabled"] else "disabled"
        rows.append((each["name"], each["verb"], each["cron"], fires or "-", each["where"] or "-", each["state"]))
    return columns(rows)


def _told(step: Step) -> str:
    at = next_fire(step.schedule, datetime.now(UTC))
    fires = (
        f", next {stamp(at)}" if at and step.change != "deleted" else "" if step.change == "deleted" else ", disabled"
    )
    return f"{step.name}: {step.change} ({step.where}{fires})"
