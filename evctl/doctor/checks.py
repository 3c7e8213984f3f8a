"""Preflight: independent checks, run side by side, each with a time limit and the command that fixes it.

A check is a function that returns a `Finding` and raises only what it could not foresee (told as a failure).
`checks_for(profile)` is the registry: this machine's, and for another engine than local those of
`evctl.doctor.<backend>.engine_checks(profile) -> tuple[Check, ...]`.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from importlib.util import find_spec
from typing import Any, Literal

from evctl.errors import EvctlError, TimedOutError, trim
from evctl.profile import Profile

Status = Literal["pass", "warn", "fail"]
CHECK_S = 6.5
"""Seconds a check has: all run side by side, and on a busy machine too, where starting takes seconds, doctor answers
within ten."""
AGAIN = "the same command again, when there is less load"


@dataclass(frozen=True, slots=True)
class Finding:
    """What a check found; `fix` is the command or change that puts it right."""

    status: Status
    message: str
    fix: str | None = None


@dataclass(frozen=True, slots=True)
class Check:
    """A named question. `timeout_s` seconds without an answer are a failure."""

    name: str
    run: Callable[[], Finding]
    timeout_s: float = CHECK_S
    fix: str | None = None
    """What to look at when there is no answer."""


@dataclass(frozen=True, slots=True)
class Result:
    """A check with its answer and how long it took, in seconds."""

    name: str
    status: Status
    message: str
    fix: str | None
    duration_s: float

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-serialisable document."""
        return {
            "name": self.name,
            "status": self.status,
            "message": self.message,
            "fix": self.fix,
            "duration_s": round(self.duration_s, 3),
        }


def passed(message: str) -> Finding:
    """Return a pass."""
    return Finding("pass", message)


def warned(message: str, fix: str | None = None) -> Finding:
    """Return a warning: it works, but look at it."""
    return Finding("warn", message, fix)


def failed(message: str, fix: str | None = None) -> Finding:
    """Return a failure: a run, promotion or check would not work."""
    return Finding("fail", message, fix)


def checks_for(profile: Profile) -> tuple[Check, ...]:
    """Return this machine's checks and those of the profile's engine."""
    from evctl.doctor.local import local_checks

    checks = local_checks(profile)
    engine = f"evctl.doctor.{profile.backend}"
    if profile.backend != "local" and find_spec(engine) is not None:
        more: tuple[Check, ...] = import_module(engine).engine_checks(profile)
        checks = (*checks, *more)
    return checks


def diagnose(checks: Sequence[Check]) -> tuple[Result, ...]:
    """Run checks side by side and return their results in the given order; one that hangs is left behind."""
    waiting = [_started(check) for check in checks]
    return tuple(_collected(check, answers, start) for check, (answers, start) in zip(checks, waiting, strict=True))


def document(env: str, results: Sequence[Result]) -> dict[str, Any]:
    """Return `evctl doctor -o json`'s document."""
    return {"env": env, "status": worst(results), "checks": [result.to_json() for result in results]}


def worst(results: Sequence[Result]) -> Status:
    """Return the worst status among results."""
    found = {result.status for result in results}
    return "fail" if "fail" in found else "warn" if "warn" in found else "pass"


_Answers = queue.SimpleQueue[tuple[Finding, float]]


def _started(check: Check) -> tuple[_Answers, float]:
    answers: _Answers = queue.SimpleQueue()
    start = time.monotonic()

    def work() -> None:
        try:
            finding = check.run()
        except TimedOutError as error:
            finding = _timed_out(check, error.message)
        except EvctlError as error:
            finding = failed(error.message, error.hint)
        # a check may meet anything, and its neighbours must still be told; obstore's panics are no Exception
        except BaseException as error:
            finding = failed(f"{type(error).__name__}: {trim(str(error))}")
        if check.fix and "evctl doctor" in (finding.fix or ""):
            finding = replace(finding, fix=check.fix)  # an error elsewhere may send people here: not in a circle
        answers.put((finding, time.monotonic() - start))

    threading.Thread(target=work, name=f"doctor {check.name}", daemon=True).start()
    return answers, start


def _collected(check: Check, answers: _Answers, start: float) -> Result:
    try:
        left = max(0.0, check.timeout_s - (time.monotonic() - start))
        finding, took = answers.get(timeout=left) if left else answers.get_nowait()
    except queue.Empty:
        finding = _timed_out(check, f"timed out: no answer within {check.timeout_s:g} s")
        took = time.monotonic() - start
    return Result(check.name, finding.status, finding.message, finding.fix, took)


def _timed_out(check: Check, message: str) -> Finding:
    return failed(message, f"{AGAIN}; if it stays so: {check.fix}" if check.fix else AGAIN)
