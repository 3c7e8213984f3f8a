"""The one error tree: each class has a stable code, an exit code and room for the next command.

What happened is the message; why may follow it; `hint` is what to type next. Vendors' exceptions are turned into these at
their seams (`raise ... from error`); `evctl.cli` is the only place that catches them.
"""

from __future__ import annotations

from typing import ClassVar

MAX_FOREIGN_TEXT = 256
"""Characters kept of a foreign message: server bodies may carry stack traces or secrets."""


class EvctlError(Exception):
    """Base of everything evctl raises on purpose.

    Args:
        message: what happened and why, one line, no secret in it.
        hint: the command to type next, or what to change.
    """

    code: ClassVar[str] = "failed"
    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class FailedError(EvctlError):
    """The thing that was asked for was tried and failed."""


class UsageError(EvctlError):
    """The command line, a parameter or a profile is wrong; nothing was started."""

    code = "usage"
    exit_code = 2


class NotFoundError(EvctlError):
    """No run, task, model, version, profile or service of that name."""

    code = "not_found"
    exit_code = 3


class ElsewhereError(NotFoundError):
    """What is asked for lies where evctl never looks: nothing is lost."""


class NotAllowedError(EvctlError):
    """Authentication or RBAC says no."""

    code = "not_allowed"
    exit_code = 4


class RefusedError(EvctlError):
    """A gate, a preflight check or a policy says no."""

    code = "refused"
    exit_code = 5


class ConflictError(EvctlError):
    """Somebody else holds the lock, or the name exists with other content."""

    code = "conflict"
    exit_code = 6


class DriftError(EvctlError):
    """The data has drifted, or is of no quality to judge."""

    code = "drift"
    exit_code = 7


class NotFinishedError(EvctlError):
    """The run, or what it should produce, is not there yet."""

    code = "not_finished"
    exit_code = 8


class UnavailableError(EvctlError):
    """A server or a store does not answer."""

    code = "unavailable"
    exit_code = 9


class TimedOutError(UnavailableError):
    """A server has not answered in time: nothing else is known to be wrong."""


class DeadlineError(EvctlError):
    """We stopped waiting; what we waited for goes on."""

    code = "timeout"
    exit_code = 124


def trim(text: str, limit: int = MAX_FOREIGN_TEXT) -> str:
    """Return foreign text as one line of at most `limit` characters."""
    line = " ".join(text.split())
    return line if len(line) <= limit else line[: limit - 1] + "…"
