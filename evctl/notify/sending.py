"""Tell the profile's channels how a run ended, once for a run and state, and never fail because of it.

For a component body: `report = notify_run(record, config)`; `report.summary` is the task's note,
`report.log` its lines. Needs only the standard library and, for Apprise channels, `apprise` (imported when
one is used). The embedded archive carries `evctl.notify`.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from evctl.notify.channels import Channel, ChannelError, Secrets, channels_from, known_secrets, send
from evctl.notify.message import Message, clean, message_key, run_message

__all__ = ["Delivery", "Message", "NotifyReport", "notify", "notify_run", "run_message", "test_message"]

FIRST_PAUSE_S = 0.5
"""Pause before the second attempt; doubles each time."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """What became of one message on one channel."""

    channel: str
    status: Literal["sent", "failed", "duplicate"]
    attempts: int = 0
    reason: str | None = None
    """Why it failed, one line without secrets; None otherwise."""


@dataclass(frozen=True, slots=True)
class NotifyReport:
    """What was told and to whom. Building one never raises."""

    message: Message
    deliveries: tuple[Delivery, ...]

    @property
    def ok(self) -> bool:
        """Whether no channel failed."""
        return all(d.status != "failed" for d in self.deliveries)

    @property
    def summary(self) -> str:
        """One short line for the task's note: what was told, which channels have it, which are dead."""
        told = self.message.state
        if not self.deliveries:
            return f"{told}; logged, no channel configured"
        parts = [
            f"{d.channel} " + (f"FAILED after {d.attempts}: {d.reason}" if d.status == "failed" else d.status)
            for d in self.deliveries
        ]
        return f"{told}; " + ", ".join(parts)

    @property
    def undelivered(self) -> str:
        """Which channels did not take it, and why, in one line; empty when all did."""
        return ", ".join(
            f"{d.channel} after {d.attempts} attempt(s): {d.reason}" for d in self.deliveries if d.status == "failed"
        )

    @property
    def log(self) -> str:
        """The message and each delivery as lines for the task's log."""
        return "\n".join([self.message.title, self.message.text, *(f"channel {p}" for p in self._channel_lines())])

    def _channel_lines(self) -> list[str]:
        return [
            f"{d.channel}: {d.status}, {d.attempts} attempt(s)" + (f": {d.reason}" if d.reason else "")
            for d in self.deliveries
        ]


def notify_run(
    record: Mapping[str, Any],
    config: Mapping[str, Any],
    *,
    secrets: Secrets | None = None,
    marker_dir: Path | None = None,
) -> NotifyReport:
    """Tell how a run ended; see `message.run_message` for the record and `notify` for the rest."""
    hidden = known_secrets(config, _at_hand(secrets))
    return notify(run_message(record, secrets=hidden), config, secrets=secrets, marker_dir=marker_dir)


def notify(
    message: Message,
    config: Mapping[str, Any],
    *,
    secrets: Secrets | None = None,
    marker_dir: Path | None = None,
    sleep: Callable[[float], None] = time.sleep,
) -> NotifyReport:
    """Send one message to every channel side by side. Never raises.

    Args:
        message: what to tell.
        config: `NotifySettings` as a dict: `channels`, `attempts` (tries each), `timeout_s` (seconds a try).
        secrets: what `/secrets/NAME` holds, or the folder where it is really; default `EV_SECRETS_DIR`, else `/secrets`.
        marker_dir: keeps one file per message key and channel, so nothing is sent twice; None relies on the
            `Idempotency-Key` that each webhook carries.
        sleep: the pause between attempts.
    """
    attempts, timeout_s = int(config.get("attempts", 3)), float(config.get("timeout_s", 10.0))
    channels = channels_from(config)
    if not channels:
        return NotifyReport(message, ())
    at_hand = _at_hand(secrets)
    hidden = known_secrets(config, at_hand)

    def deliver(channel: Channel) -> Delivery:
        marker = _marker(marker_dir, message, channel)
        if marker is not None and marker.exists():
            return Delivery(channel.name, "duplicate")
        delivery = _try(channel, message, at_hand, attempts, timeout_s, hidden, sleep)
        if marker is not None and delivery.status == "sent":
            delivery = _mark(marker, delivery)
        return delivery

    with ThreadPoolExecutor(max_workers=min(8, len(channels))) as pool:
        return NotifyReport(message, tuple(pool.map(deliver, channels)))


def test_message(env: str, now: float | None = None) -> Message:
    """Return the message of `evctl notify test`; each one is new, so it is never taken for a repeat."""
    at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(now))
    text = f"A test from evctl, environment {clean(env)}, {at}. Nothing has happened."
    return Message(
        "test",
        "evctl: test message",
        text,
        message_key("test", env, str(time.time_ns())),
        {"env": clean(env)},
    )


test_message.__test__ = False  # type: ignore[attr-defined]  # pytest takes imported test_* functions for tests


def _try(
    channel: Channel,
    message: Message,
    secrets: Secrets,
    attempts: int,
    timeout_s: float,
    hidden: tuple[str, ...],
    sleep: Callable[[float], None],
) -> Delivery:
    reason = ""
    for attempt in range(1, attempts + 1):
        try:
            send(channel, message, secrets, timeout_s)
        except ChannelError as error:
            reason = clean(error, hidden)
            if not error.transient:
                return Delivery(channel.name, "failed", attempt, reason)
        except Exception as error:  # a vendor's plugin may raise anything; a message must not fail a run
            reason = clean(f"{type(error).__name__}", hidden)
        else:
            return Delivery(channel.name, "sent", attempt)
        if attempt < attempts:
            sleep(FIRST_PAUSE_S * 2 ** (attempt - 1))
    return Delivery(channel.name, "failed", attempts, reason)


def _at_hand(given: Secrets | None) -> Secrets:
    return Path(os.environ.get("EV_SECRETS_DIR") or "/secrets") if given is None else given


def _marker(folder: Path | None, message: Message, channel: Channel) -> Path | None:
    return None if folder is None else folder / message_key(message.key, channel.name)


def _mark(marker: Path, delivery: Delivery) -> Delivery:
    try:
        marker.parent.mkdir(parents=True, exist_ok=True)
        marker.touch()
    except OSError as error:
        return Delivery(delivery.channel, "sent", delivery.attempts, f"a repeat cannot be told: {clean(error)}")
    return delivery
