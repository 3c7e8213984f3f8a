"""Where runs happen: one Protocol, two engines."""

from __future__ import annotations

from typing import TYPE_CHECKING

from evctl.backends.base import Backend

if TYPE_CHECKING:
    # the exit handler's pod passes through this package and has no pydantic
    from evctl.profile import Profile


def get_backend(profile: Profile) -> Backend:
    """Return the profile's engine; its SDK is imported when it is first needed."""
    if profile.backend == "local":
        from evctl.backends.local.backend import LocalBackend

        return LocalBackend(profile)
    from evctl.backends.kubeflow.backend import KubeflowBackend

    return KubeflowBackend(profile)
