"""What follows a drift check: a retraining run, an alert."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from evctl.drift.checking import IsOpen, Submit
from evctl.errors import EvctlError, NotFoundError
from evctl.output import say
from evctl.profile import Profile
from evctl.state import home
from evctl.telling import credentials, settings


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
    config = settings(profile)
    if not profile.notify.channels:
        return "notify: no channel is configured"
    try:
        with credentials(profile, say) as secrets:
            message = drift_message(check, secrets=known_secrets(config, secrets))
            report = notify(message, config, secrets=secrets, marker_dir=home() / "drift" / "told")
    except EvctlError as error:  # what was found stands, told or not
        return f"notify: FAILED: {error.message}; next: {error.hint or 'evctl doctor'}"
    return f"notify: {report.summary}"
