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


def run_namespace(profile: Profile, warn: Callable[[str], None]) -> str:
    """Return where a run's pods look for secrets: Kubeflow's own namespace unless it keeps its users apart."""
    from evctl.backends.kubeflow.connect import connect

    if profile.namespace == profile.kubeflow.system_namespace:
        return profile.namespace
    connection = connect(profile)
    try:
        apart = connection.request("GET", "/apis/v2beta1/healthz").get("multi_user")
    except EvctlError as error:
        warn(
            f"warning: taking {profile.namespace} for the runs' namespace, since Kubeflow did not say: {error.message}"
        )
        return profile.namespace
    finally:
        connection.close()
    return profile.namespace if apart else profile.kubeflow.system_namespace
