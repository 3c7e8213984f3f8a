"""Where runs happen: one Protocol, two engines."""

from __future__ import annotations

from typing import TYPE_CHECKING

from evctl.backends.base import Backend
from evctl.errors import UnavailableError

if TYPE_CHECKING:
    # the exit handler's pod passes through this package and has no pydantic
    from evctl.profile import Profile


def get_backend(profile: Profile) -> Backend:
    """Return the profile's engine; its SDK is imported when it is first needed."""
    if profile.backend == "local":
        from evctl.backends.local.backend import LocalBackend

        return LocalBackend(profile)
    raise UnavailableError(
        f"profile {profile.name} runs on Kubeflow, which this version does not drive yet",
        hint=f"evctl compile --env {profile.name} writes the package to upload by hand; evctl run --env local runs here",
    )
