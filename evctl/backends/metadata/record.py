"""The record of a run as its exit handler on a cluster can know it: what `evctl.notify.sending.notify_run` takes."""

from __future__ import annotations

from typing import Any

from evctl.backends.metadata.outcome import outcome_of
from evctl.errors import EvctlError

STATES = {"registered": "SUCCEEDED", "refused": "SUCCEEDED", "failed": "FAILED", "cancelled": "CANCELED"}


def record_of(run_id: str, environment: str) -> dict[str, Any]:
    """Return the run's record by id; when ML Metadata cannot be asked, one that says so. Never raises."""
    record: dict[str, Any] = {"run_id": run_id, "env": environment, "tasks": []}
    try:
        outcome = outcome_of(run_id)
    except EvctlError as error:
        return {**record, "state": "UNKNOWN", "reason": f"how it ended could not be looked up: {error.message}"}
    given = dict(outcome.given)
    record["state"] = STATES[outcome.state]
    record["parameters"] = {"data_version": given["data_version"]} if "data_version" in given else {}
    record["gate"] = {"accuracy": given.get("accuracy"), "threshold": given.get("accuracy_threshold")}
    if outcome.state == "failed":
        record["tasks"] = [{"name": outcome.task or "", "state": "FAILED", "reason": outcome.reason}]
    if outcome.state == "refused":
        record["gate"] |= {"decision": "refused", "reasons": [outcome.reason]}
    if outcome.state == "registered" or "model_uri" in given:
        # a run may fail after its model was registered: the model is told all the same
        uri = str(given.get("model_uri") or "")
        record["model"] = {"version": given.get("model_version") or uri.rstrip("/").rpartition("/")[2], "uri": uri}
    return record
