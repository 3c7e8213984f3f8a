"""A cluster's service on a loopback port, through the Kubernetes API: what `kubectl port-forward` does, without it."""

from __future__ import annotations

import contextlib
import socket
import threading
from typing import Any

from evctl.backends.kubeflow.portforward_tunnel import Tunnel
from evctl.errors import EvctlError, NotFoundError, UnavailableError
from evctl.kube import KubeApi


class Forward:
    """Listens on 127.0.0.1 and carries each connection to a ready pod of a service.

    The pod is looked up for each connection, so one that goes away costs only what it carried.

    Args:
        port: the service's port.
    """

    def __init__(self, api: KubeApi, namespace: str, service: str, port: int) -> None:
        self.api, self.namespace, self.service, self.port = api, namespace, service, port
        self.reason: EvctlError | None = None
        """Why the last connection could not be carried."""
        # asked now, so that a missing service or right is told before anything is sent
        target(api, namespace, service, port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._closed = False
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def address(self) -> str:
        """Return `host:port` on this machine."""
        host, port = self._listener.getsockname()[:2]
        return f"{host}:{port}"

    def close(self) -> None:
        """Stop listening; connections that are open end with their peers."""
        self._closed = True
        with contextlib.suppress(OSError):
            # closing alone would leave the other thread in its accept, and the port open for one more
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        while not self._closed:
            try:
                here, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._carry, args=(here,), daemon=True).start()

    def _carry(self, here: socket.socket) -> None:
        try:
            pod, port = target(self.api, self.namespace, self.service, self.port)
            tunnel = Tunnel(self.api, self.namespace, pod, port)
            self.reason = None
            tunnel.carry(here)
        except EvctlError as error:
            self.reason = error
        finally:
            # not before the reason stands: who is cut off here looks for it
            with contextlib.suppress(OSError):
                here.shutdown(socket.SHUT_RDWR)
            here.close()


def target(api: KubeApi, namespace: str, service: str, port: int) -> tuple[str, int]:
    """Return (pod, its port) behind a service's port. UnavailableError when no pod is ready."""
    where = f"{namespace}/{service}"
    hint = "set kubeflow.system_namespace, or kubeflow.host, in the profile"
    try:
        found = api.get(f"/api/v1/namespaces/{namespace}/services/{service}")["spec"]
    except NotFoundError as error:
        raise UnavailableError(f"there is no service {where} on this cluster", hint=hint) from error
    known = [each for each in found.get("ports") or () if each.get("port") == port]
    if not known:
        raise UnavailableError(f"service {where} has no port {port}", hint=hint)
    selector = ",".join(f"{key}={value}" for key, value in (found.get("selector") or {}).items())
    if not selector:
        raise UnavailableError(
            f"service {where} selects no pods, so no port can be forwarded to it",
            hint="evctl doctor: does the server run?",
        )
    pods = api.list(f"/api/v1/namespaces/{namespace}/pods", labelSelector=selector)
    ready = [pod for pod in pods if _is_ready(pod)]
    if not ready:
        raise UnavailableError(
            f"no pod of service {where} is ready ({len(pods)} there)",
            hint=f"kubectl -n {namespace} get pods -l {selector}",
        )
    return str(ready[0]["metadata"]["name"]), _number(known[0].get("targetPort", port), ready[0], port)


def _is_ready(pod: dict[str, Any]) -> bool:
    conditions = (pod.get("status") or {}).get("conditions") or ()
    leaving = (pod.get("metadata") or {}).get("deletionTimestamp")
    return not leaving and any(each.get("type") == "Ready" and each.get("status") == "True" for each in conditions)


def _number(wanted: Any, pod: dict[str, Any], port: int) -> int:
    if isinstance(wanted, int):
        return wanted
    for container in (pod.get("spec") or {}).get("containers") or ():
        for each in container.get("ports") or ():
            if each.get("name") == wanted:
                return int(each["containerPort"])
    return port
