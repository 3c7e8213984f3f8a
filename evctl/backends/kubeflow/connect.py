"""The way to one Kubeflow: by URL, from inside the cluster, or by ports forwarded through the Kubernetes API."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import threading
import warnings
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from evctl.backends.kubeflow.auth import Auth
from evctl.backends.kubeflow.transport import PolicyPool, Transport
from evctl.errors import EvctlError, NotFoundError, UnavailableError
from evctl.profile import Profile

if TYPE_CHECKING:
    from evctl.backends.kubeflow.portforward import Forward
    from evctl.backends.metadata.client import MetadataStore
    from evctl.kube import KubeApi

API_SERVICE, API_PORT = "ml-pipeline", 8888
METADATA_SERVICE, METADATA_PORT = "metadata-grpc-service", 8080
STORE_SERVICES = (("seaweedfs", 9000), ("minio-service", 9000), ("minio", 9000))
"""What KFP has installed as its object store, the newest first."""
METADATA_TIMEOUT_S, METADATA_PATIENCE_S = 5.0, 2.0
KUBERNETES_PAUSE_S = 30.0
"""Seconds in which a cluster that did not answer is not asked again: what it knows is worth no second wait."""
KUBERNETES_WAIT_S = 6.0
"""Seconds for a request to it, and for a read with its retries: a watch stands still meanwhile."""


def connect(profile: Profile) -> Connection:
    """Return the way to the profile's Kubeflow; nothing is opened before it is used."""
    return Connection(profile)


class Connection:
    """A profile's Kubeflow. Each part is opened when it is first asked for, and kept."""

    def __init__(self, profile: Profile) -> None:
        self.profile = profile
        self._settings = profile.kubeflow
        self._transport: Transport | None = None
        self._metadata: MetadataStore | None = None
        self._kubernetes: KubeApi | None = None
        self._no_kubernetes: EvctlError | None = None
        self._store: str | None = None
        self._forwards: dict[str, Forward] = {}
        # a part's maker may need the Kubernetes API, never another part
        self._locks = {part: threading.Lock() for part in ("api", "metadata", "kubernetes", "store")}
        self._client: Any = None

    def transport(self) -> Transport:
        """Return the requests' policy over the API's address."""
        with self._locks["api"]:
            if self._transport is None:
                base = self._api_url()
                forward = self._forwards.get(API_SERVICE)
                self._transport = Transport(
                    base,
                    Auth(self._settings.auth, context=self._settings.context),
                    timeout_s=self._settings.request_timeout_s,
                    deadline_s=self._settings.deadline_s,
                    ca_file=self._settings.ca_file,
                    blame=lambda: forward.reason if forward else None,
                )
            return self._transport

    def request(
        self, method: str, path: str, *, query: Mapping[str, Any] | None = None, body: Any = None, raw: bool = False
    ) -> Any:
        """Return the answer's document (`raw`: its bytes). Raises only `evctl.errors`."""
        if raw:
            return b"".join(self.transport().stream(path, query=query))
        return self.transport().json(method, path, query=query, body=body)

    def stream(self, path: str, *, deadline_s: float | None = None, final: Collection[int] = ()) -> Iterator[bytes]:
        """Yield an answer's body as it comes. `deadline_s` and `final` are the transport's."""
        return self.transport().stream(path, deadline_s=deadline_s, final=final)

    def kfp_client(self) -> Any:
        """Return a quiet `kfp.Client` whose requests follow our policy."""
        if self._client is None:
            self._client = _client(self.transport(), self.profile.namespace)
        return self._client

    def metadata(self) -> MetadataStore:
        """Return ML Metadata's client. UnavailableError, NotAllowedError when there is no way to it."""
        with self._locks["metadata"]:
            if self._metadata is None:
                from evctl.backends.metadata.client import MetadataStore

                address = self._metadata_address()
                self._metadata = MetadataStore(
                    address, timeout_s=METADATA_TIMEOUT_S, patience_s=METADATA_PATIENCE_S, ca=self._metadata_ca()
                )
            return self._metadata

    def kubernetes(self) -> KubeApi | None:
        """Return the Kubernetes API; None where there is no access, and `no_kubernetes` says why."""
        with self._locks["kubernetes"]:
            if self._kubernetes is None and self._no_kubernetes is None:
                from evctl.kube_login import connect_kubernetes

                timeout_s = min(KUBERNETES_WAIT_S, self._settings.request_timeout_s)
                try:
                    self._kubernetes = connect_kubernetes(self._settings.context, timeout_s=timeout_s)
                    self._kubernetes.quiet_s = KUBERNETES_PAUSE_S
                    self._kubernetes.deadline_s = min(KUBERNETES_WAIT_S, self._settings.deadline_s)
                except EvctlError as error:
                    self._no_kubernetes = error
            return self._kubernetes

    @property
    def no_kubernetes(self) -> EvctlError | None:
        """Why there is no access to the cluster; None where there is, or nobody asked."""
        return self._no_kubernetes

    def object_store_endpoint(self) -> str | None:
        """Return a forwarded address of the cluster's own object store; None where there is none to forward to."""
        with self._locks["store"]:
            if self._store is None:
                for service, port in STORE_SERVICES:
                    with contextlib.suppress(EvctlError):
                        self._store = f"http://{self._forward(service, port)}"
                        break
            return self._store

    def url_of(self, run_id: str) -> str | None:
        """Return a run's page; None where only a forwarded port leads there."""
        host = self._settings.host
        if host is None:
            return None
        base = host.rstrip("/").removesuffix("/pipeline")
        path = "/pipeline/#/runs/details/" if urlsplit(host).path.rstrip("/") == "/pipeline" else "/#/runs/details/"
        return f"{base}{path}{run_id}"

    def close(self) -> None:
        """Close what was opened."""
        if self._metadata is not None:
            self._metadata.close()
        for each in self._forwards.values():
            each.close()

    def _api_url(self) -> str:
        if self._settings.host:
            host = self._settings.host.rstrip("/")
            return host if "://" in host else f"http://{host}"
        if in_pod():
            return f"http://{API_SERVICE}.{self._settings.system_namespace}:{API_PORT}"
        return f"http://{self._forward(API_SERVICE, API_PORT)}"

    def _metadata_address(self) -> str:
        if self._settings.metadata_host:
            return self._settings.metadata_host.rpartition("://")[2].rstrip("/")
        if in_pod():
            return f"{METADATA_SERVICE}.{self._settings.system_namespace}:{METADATA_PORT}"
        return str(self._forward(METADATA_SERVICE, METADATA_PORT))

    def _metadata_ca(self) -> bytes | None:
        """Return the authorities to trust where the profile's address says TLS; None is plain text, as KFP installs it."""
        host = self._settings.metadata_host or ""
        if not host.startswith(("https://", "grpcs://")):
            return None
        import certifi

        path = Path(self._settings.ca_file or certifi.where()).expanduser()
        try:
            return path.read_bytes()
        except OSError as error:
            raise NotFoundError(f"there is no CA file {path}", hint="see kubeflow.ca_file in the profile") from error

    def _forward(self, service: str, port: int) -> str:
        api = self.kubernetes()
        if api is None:
            assert self._no_kubernetes is not None
            raise UnavailableError(
                f"there is no way to {service} of profile {self.profile.name}: {self._no_kubernetes.message}",
                hint="set kubeflow.host (and metadata_host) in the profile, or export KUBECONFIG=FILE",
            )
        from evctl.backends.kubeflow.portforward import Forward

        forward = Forward(api, self._settings.system_namespace, service, port)
        self._forwards[service] = forward
        return forward.address


def in_pod() -> bool:
    """Whether this runs in a pod, where services answer by their names."""
    return bool(os.environ.get("KUBERNETES_SERVICE_HOST")) and not os.environ.get("KUBECONFIG")


def _client(transport: Transport, namespace: str) -> Any:
    """Return a `kfp.Client` that speaks through `transport` and writes nothing anywhere."""
    with quiet():
        import kfp.client
        import kfp_server_api

        # this file of the home's would add a login and a namespace of its own
        kfp.client.Client._LOCAL_KFP_CONTEXT = str(Path(os.devnull) / "no-context")
        # a namespace that is not the default one keeps it from asking the server before the policy stands
        client = kfp.client.Client(host=transport.base, namespace=namespace if namespace != "kubeflow" else "-")
        client._context_setting["namespace"] = ""
        apis = [value for value in vars(client).values() if hasattr(value, "api_client")]
        for api in {id(each.api_client): each.api_client for each in apis}.values():
            assert isinstance(api, kfp_server_api.ApiClient)
            api.rest_client.pool_manager = PolicyPool(transport)
    return client


_ONE_AT_A_TIME = threading.RLock()


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep kfp's prints, warnings and log lines off the streams.

    One thread at a time: all of this is the process's, and two that overlap would put back what the other had set.
    """
    with _ONE_AT_A_TIME, warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        before = logging.root.manager.disable
        logging.disable(logging.CRITICAL)
        try:
            yield
        finally:
            logging.disable(before)
