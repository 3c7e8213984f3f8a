"""What evctl itself tells the profile's channels, with the secrets that a run's own message is sent with."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evctl.errors import EvctlError
from evctl.profile import Profile
from evctl.secrets.local import mounted
from evctl.state import home

if TYPE_CHECKING:
    from evctl.backends.base import Run
    from evctl.notify.channels import Secrets
    from evctl.notify.sending import NotifyReport

TELLS = "notify_pipeline_status"
"""The task that tells how a run ended; its secrets are the channels'."""


@contextmanager
def credentials(profile: Profile, warn: Callable[[str], None]) -> Iterator[Secrets]:
    """Yield what that task sees in `/secrets`, from where the profile's runs have it; `EV_SECRETS_DIR` is used as it is.

    Args:
        warn: told what had to be assumed about the cluster.

    Raises:
        NotAllowedError: the cluster's secrets may not be read, naming the verb. UnavailableError: it does not answer.
    """
    if own := os.environ.get("EV_SECRETS_DIR"):
        yield Path(own)
    elif profile.backend == "local":
        with mounted(profile, TELLS) as folder:
            yield folder
    else:
        yield _of_cluster(profile, warn)


def settings(profile: Profile) -> dict[str, Any]:
    """Return the profile's channels as `evctl.notify` takes them."""
    return profile.notify.model_dump(mode="json", exclude_none=True)


def tell_end(profile: Profile, run: Run, warn: Callable[[str], None]) -> NotifyReport:
    """Tell how a run ended, in its exit handler's place, once for a run and state.

    The message has the handler's own key, so a receiver that heard of it already drops the repeat. Raises as `credentials`.
    """
    from evctl.documents import run_document
    from evctl.notify.sending import notify_run

    with credentials(profile, warn) as secrets:
        return notify_run(run_document(run), settings(profile), secrets=secrets, marker_dir=home() / "told")


def in_its_place(profile: Profile, run: Run, warn: Callable[[str], None]) -> str | None:
    """Tell how a run ended whose exit handler could not; return what became of it, None where nobody is to be told."""
    if not profile.notify.channels:
        return None
    try:
        report = tell_end(profile, run, warn)
    except EvctlError as error:
        return f"warning: it could not be told from here either: {error.message}; next: {error.hint or 'evctl doctor'}"
    if report.ok:
        return f"told from here: {report.summary}"
    return f"warning: it could not be told from here either: {report.undelivered}; next: evctl notify test --env {profile.name}"


def _of_cluster(profile: Profile, warn: Callable[[str], None]) -> dict[str, str]:
    from evctl.backends.kubeflow.secrets_place import cluster_secrets, run_namespace

    names = [secret.name for secret in profile.secrets if TELLS in secret.tasks]
    if not names:
        return {}
    place = cluster_secrets(profile, run_namespace(profile, warn))
    return {key: value for name in names for key, value in place.values(name).items()}
