"""`evctl notify test`: a message over each configured channel."""

from __future__ import annotations

from typing import Any

from evctl import telling
from evctl.commands import resolve
from evctl.commands.options import Debug, Env, Format, Output, Quiet
from evctl.notify.sending import NotifyReport, notify, test_message
from evctl.output import columns, emit, say


def test(env: Env = None, output: Output = Format.table, quiet: Quiet = False, debug: Debug = False) -> int:
    """Send a test message to every channel; 9 when one of them does not take it."""
    profile = resolve.profile(env)
    with telling.credentials(profile, say) as secrets:
        report = notify(test_message(profile.name), telling.settings(profile), secrets=secrets)
    emit(report, output, _lines, _document, name="ok" if report.ok else "failed", quiet=quiet)
    return 0 if report.ok else 9


def _lines(report: NotifyReport) -> list[str]:
    if not report.deliveries:
        return ["no channel is configured: add notify.channels to the profile"]
    table = [("CHANNEL", "STATUS", "ATTEMPTS", "WHY")]
    table += [(d.channel, d.status, str(d.attempts), d.reason or "") for d in report.deliveries]
    lines = columns(table)
    if any(d.reason and d.reason.startswith(("no URL", "no key")) for d in report.deliveries):
        lines.append("next: evctl secrets apply, for a secret of the profile that notify_pipeline_status mounts")
    return lines


def _document(report: NotifyReport) -> dict[str, Any]:
    return {
        "ok": report.ok,
        "channels": [
            {"name": d.channel, "status": d.status, "attempts": d.attempts, "reason": d.reason}
            for d in report.deliveries
        ],
    }
