"""What follows a drift check: a retraining run, an alert."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from evctl.drift.checking import IsOpen, Submit
from evctl.errors import NotFoundError
from evctl.profile import Profile
from evctl.secrets.local import mounted
from evctl.state import home

TELLS = "notify_pipeline_status"
"""The task whose secrets an alert is sent with."""


def retraining(profile: Profile) -> tuple[Submit, IsOpen]:
    """Return how a retraining run is submitted in this environment, and how one is asked whether it goes on."""
    from evctl.backends import get_backend

    backend = get_backend(profile)

    def submit(data_version: str) -> str:
        from evctl import lifecycle

        with tempfile.TemporaryDirectory() as folder:
            return lifecycle.submit(profile, backend, {"data_version": data_version}, Path(folder))

    def is_open(run_id: str) -> bool:
        try:
            return not backend.get(run_id).finished
        except NotFoundError:
            return False

    return submit, is_open


def alert(profile: Profile, check: dict[str, Any]) -> str | None:
    """Tell the channels of drift or broken data, once for data, model and verdict. Returns what to say."""
    from evctl.notify.channels import known_secrets
    from evctl.notify.message import drift_message
    from evctl.notify.sending import notify

    if check["verdict"] not in {"DRIFT", "DATA_QUALITY"}:
        return None
    config = profile.notify.model_dump(mode="json", exclude_none=True)
    with mounted(profile, TELLS) as folder:
        message = drift_message(check, secrets=known_secrets(config, folder))
        report = notify(message, config, secrets_dir=folder, marker_dir=home() / "drift" / "told")
    return f"notify: {report.summary}" if report.deliveries else "notify: no channel is configured"
