"""What the cluster's checks share: each part of it is asked once, and within the time a check has."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from evctl.backends.kubeflow.connect import Connection, connect, in_pod
from evctl.backends.kubeflow.secrets_place import namespace_of_runs
from evctl.backends.kubeflow.transport import Transport
from evctl.doctor.checks import Check, Finding, warned
from evctl.doctor.judge import FORWARD, Right
from evctl.errors import EvctlError, NotFoundError
from evctl.kube import KubeApi
from evctl.profile import Profile

REQUEST_S, DEADLINE_S = 3.0, 3.0
"""Seconds for one of a check's requests, and with its retries: two that follow each other end within the check's time, so
that it can say itself which one failed, and one that waited for another's answer is not taken for slow."""
READY = "kubectl get --raw /readyz shows whether the cluster answers"
AT_ONCE = 64
"""Connections to the Kubernetes API that may stand side by side."""
S = TypeVar("S")
T = TypeVar("T")


class NotCheckedError(Exception):
    """What a check asks something else first, which has failed and says so itself."""


class Once(Generic[T]):
    """A value made at the first call, by whichever thread comes first; what it raises is raised to all."""

    def __init__(self, make: Callable[[], T]) -> None:
        self._make, self._lock = make, threading.Lock()
        self._found: list[T] = []
        self._error: EvctlError | NotCheckedError | None = None

    def __call__(self) -> T:
        """Return the value, or raise what making it raised."""
        with self._lock:
            if self._error is not None:
                raise self._error
            if not self._found:
                try:
                    self._found.append(self._make())
                except (EvctlError, NotCheckedError) as error:
                    self._error = error
                    raise
            return self._found[0]


class Site:
    """A profile's Kubeflow as the checks see it."""

    def __init__(self, profile: Profile) -> None:
        settings = profile.kubeflow
        limits = {
            "request_timeout_s": min(settings.request_timeout_s, REQUEST_S),
            "deadline_s": min(settings.deadline_s, DEADLINE_S),
        }
        self.profile = profile.model_copy(update={"kubeflow": settings.model_copy(update=limits)})
        self.connection: Connection = connect(self.profile)
        self.access: Once[KubeApi] = Once(self._access)
        """The Kubernetes API, asked for its version. Raises what is wrong with it."""
        self.transport: Once[Transport] = Once(self._transport)
        self.health: Once[dict[str, object]] = Once(self._health)
        """What the KFP API says of itself. Raises what is wrong with it."""
        self.unforwardable: Once[list[Right]] = Once(lambda: self.missing(FORWARD, settings.system_namespace))
        """The rights that we lack to forward ports to Kubeflow's services."""

    @property
    def env(self) -> str:
        """Return the profile's name, for commands."""
        return self.profile.name

    @property
    def forwards(self) -> bool:
        """Whether anything is reached through a port forwarded by the Kubernetes API."""
        settings = self.profile.kubeflow
        return not in_pod() and (settings.host is None or settings.metadata_host is None)

    def cluster(self) -> KubeApi:
        """Return the Kubernetes API. NotCheckedError where `kubernetes` says why there is none."""
        try:
            return self.access()
        except EvctlError as error:
            raise NotCheckedError("the Kubernetes API cannot be asked, see kubernetes") from error

    def multi_user(self) -> bool | None:
        """Whether KFP keeps users apart; None when it does not answer."""
        try:
            return bool(self.health().get("multi_user"))
        except (EvctlError, NotCheckedError):
            return None

    def runs_namespace(self) -> str:
        """Return where the pods of runs are, as far as Kubeflow says."""
        return namespace_of_runs(self.profile, apart=self.multi_user())

    def missing(self, wanted: Sequence[Right], namespace: str) -> list[Right]:
        """Return the rights that we lack, asked of the API server (SelfSubjectAccessReview) side by side."""
        api = self.cluster()
        answers = side_by_side(lambda each: api.can_i(each.verb, each.group, each.resource, namespace)[0], wanted)
        return [each for each, allowed in zip(wanted, answers, strict=True) if not allowed]

    def blame_the_right(self, error: EvctlError, host: str | None) -> None:
        """Raise NotCheckedError where `error` is of what lies behind a port that we may not forward, for want of a `host`."""
        if host is not None or not self.forwards:
            return
        with contextlib.suppress(EvctlError):
            if self.unforwardable():
                raise NotCheckedError("no port may be forwarded, see right: forward") from error

    def _access(self) -> KubeApi:
        api = self.connection.kubernetes()
        if api is None:
            raise self.connection.no_kubernetes or NotFoundError("there is no access to a cluster")
        api.deadline_s = self.profile.kubeflow.deadline_s
        # the checks ask side by side, and a full pool is told on stderr
        api.client.rest_client.pool_manager.connection_pool_kw["maxsize"] = AT_ONCE
        api.get("/version")
        return api

    def _transport(self) -> Transport:
        if self.forwards:
            self.cluster()
        try:
            return self.connection.transport()
        except EvctlError as error:
            self.blame_the_right(error, self.profile.kubeflow.host)
            raise

    def _health(self) -> dict[str, object]:
        self.transport()
        try:
            return dict(self.connection.request("GET", "/apis/v2beta1/healthz"))
        except EvctlError as error:
            self.blame_the_right(error, self.profile.kubeflow.host)
            raise


def side_by_side(ask: Callable[[S], T], of: Sequence[S]) -> list[T]:
    """Return the answers in order. Unlike a pool's, these threads keep no process from ending."""
    answers: list[T | BaseException] = [TimeoutError()] * len(of)

    def work(index: int) -> None:
        try:
            answers[index] = ask(of[index])
        except Exception as error:  # raised again where the answer is taken
            answers[index] = error

    threads = [threading.Thread(target=work, args=(index,), daemon=True) for index in range(len(of))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = []
    for answer in answers:
        if isinstance(answer, BaseException):
            raise answer
        found.append(answer)
    return found


def check(name: str, ask: Callable[[Site], Finding], site: Site, fix: str = READY) -> Check:
    """Return a check that says so when what it needs has failed already. `fix`: what to look at without an answer."""

    def run() -> Finding:
        try:
            return ask(site)
        except NotCheckedError as reason:
            return warned(f"not checked: {reason}")

    return Check(name, run, fix=fix)
