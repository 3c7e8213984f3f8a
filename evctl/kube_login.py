"""The way to a cluster: a kubeconfig, or the account of the pod that this runs in."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from evctl.errors import NotAllowedError, UnavailableError, trim
from evctl.kube import KubeApi
from evctl.kube_errors import NoKubeconfig


def connect_kubernetes(
    context: str | None = None, *, kubeconfig: Path | str | None = None, timeout_s: float = 10.0
) -> KubeApi:
    """Return the cluster of a kubeconfig, `KUBECONFIG`, a pod's service account, or the home's, in this order.

    Raises:
        UnavailableError: there is none of them. NotAllowedError: a login plugin failed.
    """
    import kubernetes
    from kubernetes.config import ConfigException, kube_config

    named = str(kubeconfig) if kubeconfig else os.environ.get("KUBECONFIG")
    in_pod = bool(os.environ.get("KUBERNETES_SERVICE_HOST")) and not named and context is None
    # the package reads KUBECONFIG and HOME once, when it is imported
    own = Path.home() / ".kube" / "config"
    nothing = not named and context is None and not own.exists()
    named = named or str(own)
    try:
        if in_pod:
            settings = kubernetes.client.Configuration()
            kubernetes.config.load_incluster_config(client_configuration=settings)
            mine = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
            namespace = mine.read_text().strip() if mine.exists() else "default"
            return KubeApi(_quiet(kubernetes.client.ApiClient(settings)), namespace=namespace, timeout_s=timeout_s)
        with _plugin_heard():
            client = _quiet(kubernetes.config.new_client_from_config(named, context=context))
        return KubeApi(client, namespace=_namespace(named, context), timeout_s=timeout_s)
    except ConfigException as error:
        if "Invalid kube-config" in str(error) or "No such file" in str(error) or not str(error):
            raise (NoKubeconfig if nothing else UnavailableError)(
                "there is no access to a cluster: no kubeconfig, and this is no pod",
                hint="export KUBECONFIG=FILE, or set kubeflow.context in the profile",
            ) from error
        raise NotAllowedError(
            f"the kubeconfig gives no login: {trim(str(error), 160)}", hint="kubectl auth whoami"
        ) from error
    # by the package's own parser, which the deploy step's pod has
    except (OSError, ValueError, TypeError, AttributeError, KeyError, kube_config.yaml.YAMLError) as error:
        raise UnavailableError(
            f"the kubeconfig cannot be read: {trim(str(error), 120)}", hint="kubectl config view, or set KUBECONFIG"
        ) from error


@contextlib.contextmanager
def _plugin_heard() -> Iterator[None]:
    """Raise NotAllowedError for a login plugin that failed: the package logs that, and goes on as nobody."""
    heard: list[str] = []
    listener = logging.Handler(logging.ERROR)
    listener.emit = lambda record: heard.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger().addHandler(listener)
    try:
        yield
    finally:
        logging.getLogger().removeHandler(listener)
    if heard:
        # what the plugin itself printed comes behind the first point, and is not ours to repeat
        raise NotAllowedError(
            f"the kubeconfig's login plugin failed: {trim(heard[-1].partition('. ')[0], 120)}",
            hint="kubectl auth whoami",
        )


def _quiet(client: Any) -> Any:
    # the client's own retries would hide a dead server for a minute
    client.configuration.retries = False
    return client


def _namespace(kubeconfig: str, context: str | None) -> str:
    import kubernetes

    contexts, active = kubernetes.config.list_kube_config_contexts(kubeconfig)
    chosen = next((each for each in contexts if each["name"] == context), active)
    return str((chosen.get("context") or {}).get("namespace") or "default")
