"""The ways to the model from here: its address, the Kubernetes API's proxy of its service, or of a pod that is ready."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from evctl.errors import NotAllowedError, UnavailableError
from evctl.kube import KubeApi
from evctl.rollout.serving import kserve_mode as modes
from evctl.rollout.serving import kserve_spec as spec
from evctl.rollout.serving import kserve_split as split
from evctl.rollout.serving.kserve_golden import Golden, NobodyThere, Send, direct, proxied, reachable
from evctl.rollout.serving.kserve_pods import is_going, is_ready
from evctl.rollout.serving.kserve_proof import Observed
from evctl.rollout.target import ServiceTarget

Object = Mapping[str, Any]
T = TypeVar("T")


def addresses(service: Object, *, outer: bool = False) -> list[Send]:
    """Return the senders to a service's own address if that may be reached from here, and to its outer one."""
    inner = ((service.get("status") or {}).get("address") or {}).get("url")
    # an outer name need not be known, or routed, from here: to find that out may take seconds
    told = sorted(spec.addresses(service), key=lambda url: url != inner)
    return [direct(url) for url in told if reachable(url) and (outer or url == inner)]


def through_service(api: KubeApi, target: ServiceTarget, backend: str) -> list[Send]:
    """Return the sender through the API's proxy to the pods behind a Standard service's predictor or canary."""
    return [proxied(api, f"/api/v1/namespaces/{target.namespace}/services/{backend}:80")]


def through_pods(api: KubeApi, target: ServiceTarget, pods: Sequence[Object], revision: str | None) -> list[Send]:
    """Return the senders to a Knative revision's pods that take requests.

    Knative's `<service>-predictor` is a name of its gateway's (ExternalName), to which the API cannot proxy.
    """
    base = f"/api/v1/namespaces/{target.namespace}/pods"
    ready = [
        pod["metadata"]["name"]
        for pod in pods
        if (pod["metadata"].get("labels") or {}).get("serving.knative.dev/revision") == revision
        and is_ready(pod)
        and not is_going(pod)
    ]
    return [proxied(api, f"{base}/{name}:{spec.CONTAINER_PORT}") for name in ready]


def is_idle(service: Object | None, latest: Object | None, pods: Sequence[Object]) -> bool:
    """Is this a good revision that Knative has scaled to zero, with no address from here that would wake it?"""
    conditions = ((latest or {}).get("status") or {}).get("conditions") or ()
    ready = any((each.get("type"), each.get("status")) == ("Ready", "True") for each in conditions)
    name = ((latest or {}).get("metadata") or {}).get("name")
    mine = [pod for pod in pods if (pod["metadata"].get("labels") or {}).get("serving.knative.dev/revision") == name]
    return ready and all(is_going(pod) for pod in mine) and not addresses(service or {})


def most_asked(knative: Object | None) -> str | None:
    """Return the revision that gets most of a Knative service's requests."""
    status = (knative or {}).get("status") or {}
    shares = [(int(each.get("percent") or 0), each.get("revisionName")) for each in status.get("traffic") or ()]
    told = max(shares, key=lambda share: share[0], default=(0, None))[1]
    return str(told or status.get("latestReadyRevisionName") or "") or None


def ask(
    api: KubeApi, target: ServiceTarget, service: Object, observe: Callable[[], Observed], use: Callable[[Send], T]
) -> T:
    """Return what the model that serves says to a client. UnavailableError when no model server answers.

    `observe` looks at pods: asked for only where an address does not lead to the model.
    """

    def senders() -> Iterator[Send]:
        yield from addresses(service, outer=True)
        if modes.running(service) == "Knative":
            seen = observe()
            yield from through_pods(api, target, seen.pods, most_asked(seen.knative))
        else:
            yield from through_service(api, target, split.backend(target.name))

    url = next(iter(spec.addresses(service)), None)
    nowhere = f"{target.name} has no pod that is ready (it may be idle), and its address {url} cannot be reached here"
    return _first(senders(), use, nowhere=nowhere)


def ask_golden(api: KubeApi, target: ServiceTarget, golden: Golden, seen: Observed) -> None:
    """Send the golden rows to what was rolled out. ProofError, or UnavailableError when no model server answers."""
    service, senders = seen.service or {}, []
    # with a canary the service's address leads to both models, or in Standard mode to the stable one
    whole = seen.backend == split.backend(target.name) if seen.knative is None else spec.share(service) == 100
    if whole:
        senders += addresses(service)
    created = ((seen.knative or {}).get("status") or {}).get("latestCreatedRevisionName")
    if seen.knative is None:
        senders += through_service(api, target, seen.backend)
    else:
        senders += through_pods(api, target, seen.pods, created)
    nowhere = f"revision {created} has no pod that is ready"
    _first(senders, lambda send: golden.ask(target.name, send), nowhere=nowhere)


def _first(senders: Iterable[Send], use: Callable[[Send], T], *, nowhere: str) -> T:
    """Return what the first way gives on which a model server answers; else raise with what each of them gave."""
    told = []
    for send in senders:
        try:
            return use(send)
        except NobodyThere as error:
            told.append(error.message)
        except NotAllowedError as error:
            raise NotAllowedError("; ".join((*told, error.message)), hint=error.hint) from error
    raise UnavailableError("; ".join(dict.fromkeys(told)) or nowhere, hint="evctl serving")
