"""Do the controllers run that act on what evctl writes: KServe's, and Argo's. What is written is taken without them too."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from evctl.doctor.checks import Finding, failed, passed, warned
from evctl.doctor.site import NotCheckedError, Site, side_by_side
from evctl.errors import NotAllowedError, NotFoundError, trim
from evctl.kube import KubeApi

KSERVE, ARGO = "kserve-controller-manager", "workflow-controller"
GROUP, RESOURCE = "serving.kserve.io", "inferenceservices"
HOOKS = tuple(
    f"/apis/admissionregistration.k8s.io/v1/{kind}webhookconfigurations" for kind in ("mutating", "validating")
)
INSTALL = "install KServe 0.21 (its controller is part of it)"
Document = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Sought:
    """A Deployment that was looked for by name, None where it was not seen, and the namespaces we may not look into."""

    found: dict[str, Any] | None
    hidden: tuple[str, ...] = ()


def kserve_controller(site: Site) -> Finding:
    """Does KServe's controller run? Without it nothing is deployed, and its webhook refuses what is written."""
    api = site.cluster()
    installed(api)
    spaces = tuple(dict.fromkeys(("kserve", site.profile.kubeflow.system_namespace)))
    try:
        clients = hook_clients(each for page in side_by_side(api.list, HOOKS) for each in page)
    except NotAllowedError:
        return _named(by_name(api, spaces, KSERVE), KSERVE, spaces, "ask for list on mutatingwebhookconfigurations")
    service = next((each["service"] for each in clients if each.get("service")), None)
    if service is not None:
        return _behind(api, str(service["namespace"]), str(service["name"]))
    if clients:
        # the webhook is asked by a check of its own
        return passed(f"outside the cluster, at {urlsplit(str(clients[0].get('url'))).netloc}")
    sought = by_name(api, spaces, KSERVE)
    if sought.found is None and not sought.hidden:
        return failed("KServe's definitions are there, but no webhook and no controller", INSTALL)
    return _named(sought, KSERVE, spaces, INSTALL)


def workflow_controller(site: Site) -> Finding:
    """Does Argo's controller run? Without it a run stays as it was submitted, for ever."""
    spaces = (site.profile.kubeflow.system_namespace,)
    sought = by_name(site.cluster(), spaces, ARGO)
    return _named(sought, ARGO, spaces, "set kubeflow.system_namespace in the profile")


def installed(api: KubeApi) -> None:
    """Raise NotCheckedError where KServe is not, as its own check tells."""
    try:
        api.get(f"/apis/{GROUP}/v1beta1")
    except NotFoundError as error:
        raise NotCheckedError("KServe is not installed") from error


def by_name(api: KubeApi, namespaces: Sequence[str], name: str) -> Sought:
    """Look for a Deployment in these namespaces, in their order."""
    hidden = []
    for space in namespaces:
        try:
            return Sought(api.get(f"/apis/apps/v1/namespaces/{space}/deployments/{name}"))
        except NotFoundError:
            continue
        except NotAllowedError:
            hidden.append(space)
    return Sought(None, tuple(hidden))


def hook_clients(configurations: Iterable[Document]) -> list[Document]:
    """Return who is asked about each InferenceService: `{service: {namespace, name}}`, or `{url}`."""
    hooks = [hook for configuration in configurations for hook in configuration.get("webhooks") or ()]
    return [hook["clientConfig"] for hook in hooks if any(_ours(rule) for rule in hook.get("rules") or ())]


def _ours(rule: Document) -> bool:
    return GROUP in (rule.get("apiGroups") or ()) and RESOURCE in (rule.get("resources") or ())


def serving(deployments: Iterable[Document], selector: Mapping[str, str]) -> list[Document]:
    """Return the Deployments whose pods a service selects."""

    def labels(deployment: Document) -> Mapping[str, str]:
        return ((deployment["spec"].get("template") or {}).get("metadata") or {}).get("labels") or {}

    return [each for each in deployments if selector and selector.items() <= labels(each).items()]


def state(deployment: Document) -> Finding:
    """Return whether a Deployment has a ready replica, with the command that shows why not."""
    space, name = deployment["metadata"]["namespace"], deployment["metadata"]["name"]
    status, wanted = deployment.get("status") or {}, int(deployment["spec"].get("replicas", 1))
    ready = int(status.get("readyReplicas") or 0)
    if ready:
        return passed(f"{space}/{name}, {ready} of {wanted} ready")
    if wanted == 0:
        said = f"the deployment {space}/{name} is scaled to 0"
        return failed(said, f"kubectl -n {space} scale deployment {name} --replicas=1")
    why = next((c.get("message") for c in status.get("conditions") or () if c.get("type") == "ReplicaFailure"), None)
    said = f"the deployment {space}/{name} has no ready replica of {wanted}" + (f": {trim(why, 160)}" if why else "")
    chosen = ",".join(f"{k}={v}" for k, v in (deployment["spec"]["selector"].get("matchLabels") or {}).items())
    return failed(said, f"kubectl -n {space} describe pods -l {chosen}")


def _behind(api: KubeApi, space: str, name: str) -> Finding:
    """Return the state of the controller behind a webhook's service."""
    try:
        selector = api.get(f"/api/v1/namespaces/{space}/services/{name}")["spec"].get("selector") or {}
        # its endpoints are made by hand: the controller runs outside, and is asked by a check of its own
        if not selector:
            return passed(f"outside the cluster, behind {space}/{name}")
        found = serving(api.list(f"/apis/apps/v1/namespaces/{space}/deployments"), selector)
    except NotFoundError:
        return failed(f"KServe's webhook asks the service {space}/{name}, which is not there", INSTALL)
    except NotAllowedError:
        return _named(by_name(api, (space,), KSERVE), KSERVE, (space,), f"kubectl -n {space} get deployments")
    if not found:
        return failed(f"no deployment is behind {space}/{name}, which KServe's webhook asks", INSTALL)
    findings = [state(each) for each in found]
    return next((each for each in findings if each.status == "pass"), findings[0])


def _named(sought: Sought, name: str, spaces: Sequence[str], fix: str) -> Finding:
    if sought.found is not None:
        return state(sought.found)
    if sought.hidden:
        where = " and ".join(sought.hidden)
        return warned(
            f"not checked: the deployment {name} may not be read in {where}", f"ask for get on deployments in {where}"
        )
    return warned(f"not checked: there is no deployment {name} in {' or '.join(spaces)}", fix)
