"""Every drift check ever made here, one JSON line each, and what they say about retraining.

Appended with one write and an fsync, so a crash costs at most the line being written; a torn line is skipped.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from evctl.errors import UnavailableError, trim
from evctl.profile import DriftSettings
from evctl.state import home


@dataclass(frozen=True, slots=True)
class Decision:
    """Whether to submit a retraining run, and why or why not."""

    retrain: bool
    reason: str


def history_file(env: str) -> Path:
    """Return the environment's history file."""
    return home() / "drift" / f"{env}.jsonl"


def append(env: str, check: Mapping[str, Any]) -> None:
    """Keep one check. UnavailableError when it cannot be written."""
    path = history_file(env)
    line = json.dumps(check, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab+") as file:
            torn = file.seek(0, os.SEEK_END) and _last_byte(path) != b"\n"
            file.write(("\n" if torn else "").encode() + line.encode())
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise UnavailableError(
            f"the drift history {path} cannot be written: {trim(str(error))}", hint="evctl doctor"
        ) from error


def read(env: str) -> list[dict[str, Any]]:
    """Return the checks, oldest first; lines that are not whole are skipped."""
    try:
        lines = history_file(env).read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return []
    except OSError as error:
        raise UnavailableError(
            f"the drift history cannot be read: {trim(str(error))}", hint="is EVCTL_HOME readable for this user?"
        ) from error
    return [entry for line in lines if (entry := _parsed(line)) is not None]


def decide(
    verdict: str,
    model: str,
    past: Sequence[Mapping[str, Any]],
    settings: DriftSettings,
    now: datetime,
    open_run: str | None,
    digest: str = "",
) -> Decision:
    """Decide about a retraining run. Pure.

    Args:
        verdict: of the check at hand.
        model: version of the model it was compared with; checks of other models do not count.
        past: earlier checks, oldest first.
        settings: persistence, window and cool-down.
        now: timezone-aware time of the check.
        open_run: a retraining run that has not ended, if there is one.
        digest: of the data at hand; the same data checked again is no further window.
    """
    if verdict == "DATA_QUALITY":
        return Decision(False, "the data is broken: retraining would teach the model the defect")
    if verdict != "DRIFT":
        return Decision(False, f"the verdict is {verdict}")
    mine = [check for check in past if check.get("model") == model]
    window = [*_windows(mine, digest), verdict][-settings.window :]
    drifted = window.count("DRIFT")
    if drifted < settings.persistence:
        return Decision(
            False, f"{drifted} of the last {settings.window} checks said DRIFT, {settings.persistence} must"
        )
    if open_run:
        return Decision(False, f"run {open_run} is retraining already")
    last = max((_time(check.get("at")) for check in past if check.get("retrain_run")), default=None)
    if last is not None and now - last < timedelta(hours=settings.cooldown_h):
        until = (last + timedelta(hours=settings.cooldown_h)).strftime("%Y-%m-%dT%H:%M:%SZ")
        return Decision(
            False,
            f"a retraining run was submitted less than {settings.cooldown_h:g} h ago; wait until {until}",
        )
    return Decision(True, f"{drifted} of the last {settings.window} checks said DRIFT")


def _windows(past: Sequence[Mapping[str, Any]], digest: str) -> list[str]:
    """Return the verdict on each window of data before this one, oldest first: its newest, where checked again."""
    newest: dict[str, str] = {}
    for index, check in enumerate(past):
        key = str(check.get("data_digest") or index)
        newest.pop(key, None)
        newest[key] = str(check.get("verdict"))
    newest.pop(digest, None)
    return list(newest.values())


def last_retraining(past: Sequence[Mapping[str, Any]]) -> str | None:
    """Return the id of the run that the newest retraining check submitted."""
    return next((str(check["retrain_run"]) for check in reversed(past) if check.get("retrain_run")), None)


def _parsed(line: str) -> dict[str, Any] | None:
    try:
        entry = json.loads(line)
    except ValueError:
        return None
    return entry if isinstance(entry, dict) and "verdict" in entry else None


def _last_byte(path: Path) -> bytes:
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1)


def _time(text: Any) -> datetime:
    return datetime.fromisoformat(str(text).replace("Z", "+00:00"))
