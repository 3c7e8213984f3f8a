"""Recurring runs and drift checks as a profile declares them, and what has to change where. Pure.

Times are UTC on both engines. A cron expression has five fields; Kubeflow's has six, with seconds first, and misreads
five (kubeflow-facts 20), so what is sent there is made here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

from evctl.cron import cron_fields
from evctl.errors import NotFoundError, UsageError
from evctl.profile import Profile, ScheduleSettings

_NAME = re.compile(r"[a-z0-9]([-a-z0-9]{0,38}[a-z0-9])?")
MEND = "mend schedules in the profile, then evctl schedule apply"
DRIFT_OPTIONS = {"data_version": str, "data": str, "retrain": bool, "notify": bool}
Change = Literal["created", "updated", "unchanged", "deleted"]
Where = Literal["kubeflow", "crontab"]


@dataclass(frozen=True, slots=True)
class Schedule:
    """What fires when. `cron` is normalised: five fields, numbers only."""

    name: str
    verb: str
    cron: str
    parameters: Mapping[str, Any] = field(default_factory=dict)
    enabled: bool = True
    max_concurrency: int = 1
    catchup: bool = False


@dataclass(frozen=True, slots=True)
class Standing:
    """A schedule that is there. `key` is the place's own id; `detail` what else it must agree with (version, command)."""

    schedule: Schedule
    where: Where
    key: str = ""
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Step:
    """What happened, or has to, to one schedule."""

    name: str
    change: Change
    where: Where
    schedule: Schedule


def kubeflow_cron(cron: str) -> str:
    """Return the expression for KFP's scheduler: seconds first."""
    return f"0 {cron}"


def next_fire(schedule: Schedule, now: datetime) -> datetime | None:
    """Return when it fires next, in UTC; None while it is disabled."""
    from cronsim import CronSim, CronSimError

    try:
        return next(CronSim(schedule.cron, now.astimezone(UTC)), None) if schedule.enabled else None
    except CronSimError:  # somebody else wrote it
        return None


def declared(profile: Profile) -> tuple[Schedule, ...]:
    """Return the profile's schedules, each checked.

    Raises:
        UsageError: a bad cron, name or parameter, naming the schedule.
    """
    found = [_checked(profile, each) for each in profile.schedules]
    names = [each.name for each in found]
    if double := next((name for name in names if names.count(name) > 1), None):
        raise UsageError(
            f"schedule {double} is declared twice in profile {profile.name}",
            hint=MEND,
        )
    return tuple(found)


def _checked(profile: Profile, settings: ScheduleSettings) -> Schedule:
    where = f"schedule {settings.name} of profile {profile.name}"
    if not _NAME.fullmatch(settings.name):
        raise UsageError(
            f"{where}: a name has lower case letters, digits and -, at most 40",
            hint=MEND,
        )
    try:
        cron = " ".join(cron_fields(settings.cron))
    except UsageError as error:
        raise UsageError(f"{where}: {error.message}", hint=error.hint) from error
    if settings.verb == "drift":
        _check_drift(settings.parameters, where)
    if settings.catchup and (settings.verb == "drift" or profile.backend == "local"):
        raise UsageError(
            f"{where}: catchup is for runs on Kubeflow: a machine's cron does not make up for what it missed",
            hint="leave catchup away",
        )
    version = settings.parameters.get("data_version")
    if version is not None and str(version) not in profile.data.versions:
        known = ", ".join(sorted(profile.data.versions))
        raise UsageError(
            f"{where}: data version {version!r} is not known; known: {known}",
            hint=MEND,
        )
    return Schedule(
        settings.name,
        settings.verb,
        cron,
        settings.parameters,
        settings.enabled,
        settings.max_concurrency,
        settings.catchup,
    )


def _check_drift(parameters: Mapping[str, Any], where: str) -> None:
    for key, value in parameters.items():
        wanted = DRIFT_OPTIONS.get(key)
        if wanted is None:
            raise UsageError(
                f"{where}: a drift check takes {', '.join(DRIFT_OPTIONS)}, not {key}",
                hint=MEND,
            )
        if not isinstance(value, wanted):
            raise UsageError(
                f"{where}: {key} is {'true or false' if wanted is bool else 'a text'}, not {value!r}",
                hint=MEND,
            )
    if ("data_version" in parameters) == ("data" in parameters):
        raise UsageError(f"{where}: name the data: data_version, or data", hint="parameters: {data_version: v2}")


def place_of(profile: Profile, schedule: Schedule) -> Where:
    """Return what fires a schedule: runs of a cluster are Kubeflow's own, everything else is this machine's cron's."""
    return "kubeflow" if profile.backend == "kubeflow" and schedule.verb == "run" else "crontab"


def changes(
    wanted: Sequence[tuple[Schedule, str]], standing: Sequence[Standing], where: Where, *, prune: bool
) -> tuple[Step, ...]:
    """Return what has to happen in one place so that what is declared stands there.

    Args:
        wanted: each schedule with the detail it must agree with.
        prune: take away what is no longer declared.
    """
    by_name: dict[str, list[Standing]] = {}
    for each in standing:
        by_name.setdefault(each.schedule.name, []).append(each)
    steps = []
    for schedule, detail in wanted:
        there = by_name.pop(schedule.name, [])
        if not there:
            change: Change = "created"
        else:
            same = len(there) == 1 and there[0].schedule == schedule and there[0].detail == detail
            change = "unchanged" if same else "updated"
        steps.append(Step(schedule.name, change, where, schedule))
    if prune:
        steps += [Step(name, "deleted", where, there[0].schedule) for name, there in by_name.items()]
    return tuple(steps)


def require(names: Sequence[str], standing: Sequence[Standing], env: str) -> None:
    """Raise NotFoundError unless each name stands somewhere."""
    known = {each.schedule.name for each in standing}
    for name in names:
        if name not in known:
            raise NotFoundError(
                f"no schedule {name} in {env}; there: {', '.join(sorted(known)) or 'none'}", hint="evctl schedule list"
            )
