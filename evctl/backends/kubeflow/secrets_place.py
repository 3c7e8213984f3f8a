"""Where a run's pods look for their secrets on a cluster."""

from __future__ import annotations

from collections.abc import Callable

from evctl.errors import EvctlError
from evctl.profile import Profile
from evctl.secrets.cluster import ClusterSecrets


def cluster_secrets(profile: Profile, namespace: str) -> ClusterSecrets:
    """Return the secrets of a namespace of the profile's cluster."""
    from evctl.kube_login import connect_kubernetes

    return ClusterSecrets(connect_kubernetes(profile.kubeflow.context), namespace)


def namespace_of_runs(profile: Profile, *, apart: bool | None) -> str:
    """Return where the pods of runs are: Kubeflow's own namespace where it does not keep its users `apart`; None: unknown."""
    return profile.kubeflow.system_namespace if apart is False else profile.namespace


def run_namespace(profile: Profile, warn: Callable[[str], None]) -> str:
    """Return where a run's pods look for secrets, asking Kubeflow."""
    from evctl.backends.kubeflow.connect import connect

    if profile.namespace == profile.kubeflow.system_namespace:
        return profile.namespace
    connection = connect(profile)
    try:
        apart = bool(connection.request("GET", "/apis/v2beta1/healthz").get("multi_user"))
    except EvctlError as error:
        warn(
            f"warning: taking {profile.namespace} for the runs' namespace, since Kubeflow did not say: {error.message}"
        )
        return namespace_of_runs(profile, apart=None)
    finally:
        connection.close()
    return namespace_of_runs(profile, apart=apart)
