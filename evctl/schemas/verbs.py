"""What each verb prints with `-o json`: one model a verb. `evctl help json` prints their JSON Schemas.

The documents are stable: a key is added, never renamed or removed. A test holds each verb's real output to its model.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from evctl.schemas.base import Document, Fixed
from evctl.schemas.runs import (
    Comparison,
    Experiments,
    Logs,
    Outputs,
    Plan,
    ReportFile,
    Run,
    Runs,
    Schedules,
    SchedulesApplied,
    SchedulesDeleted,
    Upload,
)
from evctl.schemas.serving import Drift, DriftHistory, History, Model, Models, Prediction, Release, Serving


class ProfileRow(Fixed):
    """One profile; `error` says why it is none."""

    name: str
    backend: str | None = None
    namespace: str | None = None
    description: str | None = None
    error: str | None = None


class Profiles(Fixed):
    """`profile list`."""

    profiles: list[ProfileRow]


class Setting(Fixed):
    """A value and where it comes from (`file:line`, or `default`)."""

    value: Any
    origin: str


class ProfileValues(Fixed):
    """`profile show`: values by dotted key."""

    name: str
    file: str
    values: dict[str, Setting]


class ProfileCheck(Fixed):
    """`profile check`."""

    valid: list[str]


class SecretKeys(Fixed):
    """A secret's name and keys; never values. `missing`: keys that the profile requires and it lacks."""

    name: str
    keys: list[str]
    missing: list[str]


class Secrets(Fixed):
    """`secrets list`."""

    secrets: list[SecretKeys]


class SecretChange(Document):
    """`secrets apply`: what changed, by key."""

    name: str
    changed: bool
    added: list[str]
    updated: list[str]
    removed: list[str]


class Compiled(Fixed):
    """`compile`: `current` is whether the file is what the profile compiles to."""

    env: str
    file: str
    digest: str
    current: bool


class Finding(Fixed):
    """One check of `doctor`; `fix` is the command or change that puts it right."""

    name: str
    status: str
    message: str
    fix: str | None
    duration_s: float


class Diagnosis(Fixed):
    """`doctor`: `status` is the worst of the checks'."""

    env: str
    status: str
    checks: list[Finding]


class Delivery(Fixed):
    """One channel's answer to a message."""

    name: str
    status: str
    attempts: int
    reason: str | None


class Deliveries(Fixed):
    """`notify test`."""

    ok: bool
    channels: list[Delivery]


class ErrorBody(Fixed):
    """What happened, and the command to type next."""

    code: str
    message: str
    hint: str | None


class Error(Fixed):
    """The last line of stderr when a verb fails under `-o json`."""

    error: ErrorBody


DOCUMENTS: dict[str, type[BaseModel]] = {
    "profile list": Profiles,
    "profile show": ProfileValues,
    "profile check": ProfileCheck,
    "secrets apply": SecretChange,
    "secrets list": Secrets,
    "compile": Compiled,
    "plan": Plan,
    "upload": Upload,
    "run": Run,
    "runs": Runs,
    "status": Run,
    "logs": Logs,
    "outputs": Outputs,
    "cancel": Run,
    "retry": Run,
    "models list": Models,
    "models show": Model,
    "promote": Release,
    "rollback": Release,
    "history": History,
    "serving": Serving,
    "predict": Prediction,
    "experiments": Experiments,
    "compare": Comparison,
    "report": ReportFile,
    "schedule apply": SchedulesApplied,
    "schedule list": Schedules,
    "schedule delete": SchedulesDeleted,
    "drift": Drift,
    "drift --history": DriftHistory,
    "notify test": Deliveries,
    "doctor": Diagnosis,
    "error": Error,
}
"""The document's model by verb; `error` is what stderr ends with."""


def schemas() -> dict[str, Any]:
    """Return every document's JSON Schema (draft 2020-12), by verb."""
    return {verb: model.model_json_schema() for verb, model in DOCUMENTS.items()}
