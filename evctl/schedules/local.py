"""Schedules as lines of this user's crontab, in a marked block per environment and state folder.

Lines outside the block are never touched. A line carries all it needs: cron gives PATH=/usr/bin:/bin and no more.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path

from evctl.errors import RefusedError, UnavailableError, trim
from evctl.schedules.base import Schedule, Standing, Step, changes
from evctl.state import home, profiles_folder

_META = "# evctl:"
_PASSED_ON = ("KUBECONFIG", "AWS_PROFILE", "AWS_ENDPOINT_URL", "GOOGLE_APPLICATION_CREDENTIALS", "EV_SECRETS_DIR")
"""Variables that say where something is; those that hold secrets are not written into a crontab."""


class Crontab:
    """The block of one environment in this user's crontab."""

    def __init__(self, env: str) -> None:
        self.env = env
        self.home = home()
        self.begin = f"# >>> evctl schedules of {env} in {self.home} (written by evctl; changes here are lost)"
        self.end = f"# <<< evctl schedules of {env} in {self.home}"

    def standing(self) -> tuple[Standing, ...]:
        """Return the schedules whose lines are there. UnavailableError without cron."""
        return read_block(self._block(_read())[1])

    def apply(self, wanted: Sequence[Schedule], *, prune: bool = False) -> tuple[Step, ...]:
        """Write what is declared; lines that are right stay as they are."""
        before, block, after = self._block(_read())
        there = read_block(block)
        details = [(schedule, self.command(schedule)) for schedule in wanted]
        steps = changes(details, there, "crontab", prune=prune)
        if any(step.change in ("created", "updated") for step in steps):
            require_utc()
        names = {schedule.name for schedule in wanted}
        kept = [] if prune else [each for each in there if each.schedule.name not in names]
        if any(step.change != "unchanged" for step in steps):
            lines = [(each.schedule, each.detail) for each in kept] + details
            self._write(before, lines, after)
        return steps

    def delete(self, names: Sequence[str]) -> None:
        """Take schedules away."""
        before, block, after = self._block(_read())
        left = [each for each in read_block(block) if each.schedule.name not in names]
        self._write(before, [(each.schedule, each.detail) for each in left], after)

    def command(self, schedule: Schedule) -> str:
        """Return the shell command of a schedule, whole: environment, lock, evctl, log."""
        logs = self.home / "schedules"
        variables = {"EVCTL_HOME": str(self.home), "EVCTL_PROFILES": str(profiles_folder().absolute())}
        variables |= {name: os.environ[name] for name in _PASSED_ON if os.environ.get(name)}
        parts = ["env", *(f"{key}={value}" for key, value in variables.items())]
        flock = shutil.which("flock")
        if flock and schedule.max_concurrency == 1:
            parts += [flock, "-n", str(logs / f"{self.env}-{schedule.name}.lock")]
        parts += [*evctl(), schedule.verb, "--env", self.env, *options(schedule), "-o", "json"]
        log = shlex.quote(str(logs / f"{self.env}-{schedule.name}.log"))
        return f"{shlex.join(parts)} >> {log} 2>&1"

    def _block(self, text: str) -> tuple[list[str], list[str], list[str]]:
        """Return the lines before the block, its own, and those after it."""
        lines = text.splitlines()
        if self.begin not in lines:
            return lines, [], []
        start = lines.index(self.begin)
        stop = lines.index(self.end, start) if self.end in lines[start:] else len(lines) - 1
        return lines[:start], lines[start + 1 : stop], lines[stop + 1 :]

    def _write(self, before: list[str], schedules: Sequence[tuple[Schedule, str]], after: list[str]) -> None:
        block = []
        for schedule, command in schedules:
            block += [_META + json.dumps(asdict(schedule), sort_keys=True), _line(schedule, command)]
        if block:
            block = [self.begin, *block, self.end]
            if not is_utc() and zones_known():
                # it holds for every line that follows, so the block goes last
                block[1:1] = ["CRON_TZ=UTC"]
                before, after = before + after, []
        (self.home / "schedules").mkdir(parents=True, exist_ok=True)
        text = "\n".join([*before, *block, *after])
        _run(["crontab", "-"], text + "\n" if text else "")


def evctl() -> list[str]:
    """Return this evctl, absolutely."""
    script = Path(sys.executable).with_name("evctl")
    return [str(script)] if script.exists() else [sys.executable, "-m", "evctl"]


def options(schedule: Schedule) -> list[str]:
    """Return a schedule's parameters as options of its verb."""
    found: list[str] = []
    for key, value in schedule.parameters.items():
        if schedule.verb == "run":
            text = json.dumps(value) if isinstance(value, bool | list | dict) else str(value)
            found += ["--param", f"{key}={text}"]
        elif value is True:
            found.append(f"--{key.replace('_', '-')}")
        elif value is not False:
            found += [f"--{key.replace('_', '-')}", str(value)]
    return found


def read_block(lines: Sequence[str]) -> tuple[Standing, ...]:
    """Return the schedules of a block's lines. What is no longer evctl's own is left out."""
    found = []
    for meta, line in pairwise(lines):
        if not meta.startswith(_META):
            continue
        try:
            schedule = Schedule(**json.loads(meta.removeprefix(_META)))
        except (ValueError, TypeError):
            continue
        if line == _line(schedule, detail := _command_of(line)):
            found.append(Standing(schedule, "crontab", schedule.name, detail))
    return tuple(found)


def _line(schedule: Schedule, command: str) -> str:
    # cron takes a bare % for a line's end
    escaped = command.replace("%", r"\%")
    return f"{'' if schedule.enabled else '#off '}{schedule.cron} {escaped}"


def _command_of(line: str) -> str:
    bare = line.removeprefix("#off ")
    found = re.fullmatch(r"(?:\S+ ){5}(.*)", bare)
    return found[1].replace(r"\%", "%") if found else ""


def zones_known() -> bool:
    """Whether this cron knows CRON_TZ: cronie does, Debian's does not."""
    done = _run(["crontab", "-V"], None, may_fail=True)
    return "cronie" in done.stdout + done.stderr


def is_utc() -> bool:
    """Whether this machine's clock shows UTC all year."""
    year = time.gmtime().tm_year
    return all(
        time.localtime(time.mktime((year, month, 15, 12, 0, 0, 0, 0, -1))).tm_gmtoff == 0 for month in range(1, 13)
    )


def require_utc() -> None:
    """Refuse a machine whose cron would fire at another hour than was declared."""
    if not is_utc() and not zones_known():
        raise RefusedError(
            f"schedules are in UTC; this machine's cron runs in {'/'.join(time.tzname)} and knows no CRON_TZ",
            hint="set the machine's zone to UTC (timedatectl set-timezone UTC), or install cronie",
        )


def _read() -> str:
    done = _run(["crontab", "-l"], None, may_fail=True)
    if done.returncode != 0:
        if "no crontab" in done.stderr:
            return ""
        raise UnavailableError(f"the crontab cannot be read: {trim(done.stderr)}", hint="crontab -l")
    return done.stdout


def _run(command: list[str], text: str | None, *, may_fail: bool = False) -> subprocess.CompletedProcess[str]:
    try:
        done = subprocess.run(command, input=text, capture_output=True, text=True, check=False, timeout=30)
    except FileNotFoundError as error:
        raise UnavailableError(
            "schedules on this machine need cron, and there is no crontab command", hint="apt install cron"
        ) from error
    except subprocess.TimeoutExpired as error:
        raise UnavailableError("crontab does not answer", hint="crontab -l by hand: does it ask, or hang?") from error
    if done.returncode != 0 and not may_fail:
        raise UnavailableError(f"the crontab cannot be written: {trim(done.stderr)}", hint="crontab -l")
    return done
