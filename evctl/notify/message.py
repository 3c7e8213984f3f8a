"""What is told of a run or a drift check: one truthful message out of its record, safe to show anywhere.

Foreign text (a task's reason, a run's name) may hold secrets, vehicle ids and markup that a chat would
obey; `clean` takes all three out. Standard library only: the embedded archive carries this file.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

State = Literal["registered", "refused", "failed", "canceled", "finished", "unknown", "drift", "test"]
"""How a run ended (`finished`: nothing failed and nothing was registered), a drift alert, or a test."""

MAX_VALUE = 400
"""Characters kept of one foreign value; a stack trace does not belong in a chat."""

_VEHICLE = re.compile(r"(?i)\b(vehicle(?:[_ ]?ids?)?|vin)\b(\s*[=:#]?\s*)(['\"\[(]*)((?=\S*\d)[^\s'\"\])]+)")
_FLEET_ID = re.compile(r"(?i)\b(?:vehicle|veh|ev|vin|car)[-_]?[0-9a-f]*[0-9][-0-9a-z_]*\b")
_VIN = re.compile(r"\b(?=[A-HJ-NPR-Z0-9]*[0-9])(?=[A-HJ-NPR-Z0-9]*[A-Z])[A-HJ-NPR-Z0-9]{17}\b")
_USERINFO = re.compile(r"(?i)\b([a-z][a-z0-9+.-]*://)[^\s/@]+@")
_QUERY = re.compile(r"(?i)([?&][\w.-]*(?:token|key|secret|sig|password|auth|credential)[\w.-]*=)[^&\s]+")
_ASSIGNED = re.compile(r"(?i)\b((?:\w*_)?(?:token|password|passwd|secret|api_?key|access_?key(?:_id)?))(\s*[=:]\s*)\S+")
_BEARER = re.compile(r"(?i)\b(bearer|basic)\s+[A-Za-z0-9._~+/=-]{8,}")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2066-\u2069\ufeff]+")


@dataclass(frozen=True, slots=True)
class Message:
    """One thing to tell. `key` is the same for the same run and state, so receivers can drop a repeat."""

    state: State
    title: str
    text: str
    key: str
    facts: Mapping[str, Any] = field(default_factory=dict)
    """What the webhook carries beside title and text; cleaned values only."""


def clean(value: object, secrets: Iterable[str] = ()) -> str:
    """Return foreign text as one short line without secrets, vehicle ids or markup."""
    text = str(value)
    for secret in sorted((s for s in secrets if len(s) >= 4), key=len, reverse=True):
        text = text.replace(secret, "***")
    text = _CONTROL.sub(" ", text)
    text = _USERINFO.sub(r"\1***@", text)
    text = _QUERY.sub(r"\1***", text)
    text = _BEARER.sub(r"\1 ***", text)
    text = _ASSIGNED.sub(r"\1\2***", text)
    text = _VEHICLE.sub(r"\1\2\3(withheld)", text)
    text = _FLEET_ID.sub("(vehicle)", text)
    text = _VIN.sub("(vehicle)", text)
    # Slack obeys <!channel>, Discord @everyone, Markdown [text](url) and `code`.
    text = text.replace("<", "‹").replace(">", "›").replace("&", "＆").replace("@", "＠")
    text = text.replace("](", "] (").replace("`", "'")
    text = " ".join(text.split())
    return text if len(text) <= MAX_VALUE else text[: MAX_VALUE - 1] + "…"


def run_message(record: Mapping[str, Any], *, secrets: Iterable[str] = ()) -> Message:
    """Say how a run ended, from its record.

    `record` is the document of `evctl status -o json` (run_id, name, env, state, parameters, tasks, gate,
    model, url; `cancel_requested: true` counts as canceled); only run_id must be there. A run is judged by
    what its tasks did, not by its own state, which during the exit handler still reads RUNNING: canceled,
    then failed at a task, then refused by the gate, then registered, else finished.
    """
    hidden = tuple(secrets)
    state, what = _judge(record)
    run_id = clean(record.get("run_id", ""), hidden)
    facts: dict[str, Any] = {
        "run_id": run_id,
        "name": clean(record.get("name") or "", hidden),
        "env": clean(record.get("env") or "", hidden),
        "state": state,
    }
    facts |= {key: clean(value, hidden) if isinstance(value, str) else value for key, value in what.items()}
    version = (record.get("parameters") or {}).get("data_version")
    if version is not None:
        facts["data_version"] = clean(version, hidden)
    if record.get("url"):
        facts["url"] = clean(record["url"], hidden)
    title = f"run {run_id[:8]} {facts['env']}: {_HEADLINES[state]}".replace("  ", " ")
    return Message(state, title, "\n".join(_lines(facts)), message_key(run_id, state), facts)


def drift_message(check: Mapping[str, Any], *, secrets: Iterable[str] = ()) -> Message:
    """Say what a drift check found, from `evctl drift -o json`'s document."""
    hidden = tuple(secrets)
    verdict, data, model = (clean(check.get(key, ""), hidden) for key in ("verdict", "data", "model"))
    drifted = [clean(f["name"], hidden) for f in check.get("features") or () if f.get("drifted")]
    lines = [clean(reason, hidden) for reason in check.get("reasons") or ()]
    lines += [f"data: {data}", f"model: {model}", f"rows: {check.get('rows', 0)}"]
    lines.append(f"retraining: {'yes' if check.get('retrain') else 'no'}, {clean(check.get('retrain_reason', ''))}")
    facts = {
        "verdict": verdict,
        "env": clean(check.get("env", "")),
        "data": data,
        "model": model,
        "drifted": drifted[:10],
        "retrain": bool(check.get("retrain")),
    }
    # data that could not even be brought in has no digest: each such check is news
    key = message_key("drift", str(check.get("data_digest") or check.get("at")), str(check.get("model")), verdict)
    return Message("drift", f"drift check {facts['env']}: {verdict}", "\n".join(lines), key, facts)


def message_key(*parts: str) -> str:
    """Return the idempotency key of what these parts name."""
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]


_HEADLINES: Mapping[State, str] = {
    "registered": "model registered",
    "refused": "refused by the gate",
    "failed": "failed",
    "canceled": "cancelled",
    "finished": "finished without registering a model",
    "unknown": "ended, how is not known",
}


def _judge(record: Mapping[str, Any]) -> tuple[State, dict[str, Any]]:
    tasks = [t for t in record.get("tasks") or () if t.get("name") != "notify_pipeline_status"]
    gate = record.get("gate") or {}
    if record.get("state") == "UNKNOWN":
        return "unknown", {"reason": record.get("reason") or "no reason recorded"}
    measured = {key: gate[key] for key in ("accuracy", "threshold") if gate.get(key) is not None}
    if record.get("cancel_requested") or str(record.get("state")).upper() in {"CANCELED", "CANCELING"}:
        return "canceled", {}
    failed = next((t for t in tasks if str(t.get("state")).upper() == "FAILED"), None)
    if failed is not None:
        reason = failed.get("reason") or record.get("reason") or "no reason recorded"
        return "failed", {"task": failed.get("name", ""), "reason": reason} | _model(record)
    if str(record.get("state")).upper() == "FAILED":
        return "failed", {"reason": record.get("reason") or "no reason recorded"} | _model(record)
    if any(str(t.get("state")).upper() == "CANCELED" for t in tasks):
        return "canceled", {}
    if gate.get("decision") == "refused":
        reasons = "; ".join(str(r) for r in gate.get("reasons") or ())
        return "refused", measured | ({"reason": reasons} if reasons else {})
    if record.get("model"):
        return "registered", measured | _model(record)
    return "finished", measured


def _model(record: Mapping[str, Any]) -> dict[str, Any]:
    model = record.get("model") or {}
    return {f"model_{key}": model[key] for key in ("version", "uri") if model.get(key)}


_LABELS = (
    ("model_version", "model"),
    ("model_uri", "stored at"),
    ("data_version", "data"),
    ("name", "run name"),
)


def _lines(facts: Mapping[str, Any]) -> list[str]:
    lines = []
    if facts.get("task"):
        lines.append(f"failed at {facts['task']}")
    if facts.get("reason"):
        lines.append(f"why: {facts['reason']}")
    if facts.get("accuracy") is not None:
        threshold = facts.get("threshold")
        against = f" (threshold {threshold:.4g})" if isinstance(threshold, (int, float)) else ""
        lines.append(f"accuracy: {float(facts['accuracy']):.4g}{against}")
    lines += [f"{label}: {facts[key]}" for key, label in _LABELS if facts.get(key)]
    lines.append(f"run: {facts['run_id']}")
    lines.append(
        f"next: evctl {'logs' if facts['state'] == 'failed' else 'status'} {facts['run_id']}"
        + (" --failed" if facts["state"] == "failed" else "")
    )
    if facts.get("url"):
        lines.append(str(facts["url"]))
    return lines
