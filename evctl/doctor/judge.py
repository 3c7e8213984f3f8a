"""What is read from a cluster's objects: rights to ask for, nodes large enough, retry policies, quantities. Pure."""

from __future__ import annotations

import re
import shlex
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import yaml

from ev_pipeline.settings import TASKS, StepSettings
from evctl.profile import Profile
from evctl.rollout.serving.kserve_mode import OLD_NAMES

_UNITS = {
    "": 1.0, "n": 1e-9, "u": 1e-6, "m": 1e-3, "k": 1e3, "K": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15, "E": 1e18,
    "Ki": 2.0**10, "Mi": 2.0**20, "Gi": 2.0**30, "Ti": 2.0**40, "Pi": 2.0**50, "Ei": 2.0**60,
}  # fmt: skip


def quantity(text: str | int | float) -> float:
    """Return a Kubernetes quantity as a number: cores or bytes. ValueError for what is none."""
    found = re.fullmatch(r"([0-9.]+(?:e[0-9]+)?)([A-Za-z]*)", str(text).strip())
    if found is None or found[2] not in _UNITS:
        raise ValueError(f"{text!r} is no quantity")
    return float(found[1]) * _UNITS[found[2]]


@dataclass(frozen=True, slots=True)
class Right:
    """A verb on a resource that a command needs."""

    verb: str
    resource: str
    group: str = ""

    def __str__(self) -> str:
        return f"{self.verb} {self.resource}"

    @property
    def typed(self) -> str:
        """Return the resource as `kubectl create role --resource` takes it."""
        kind, slash, sub = self.resource.partition("/")
        return f"{kind}{'.' + self.group if self.group else ''}{slash}{sub}"


def rights(verbs: str, resources: str, group: str = "") -> tuple[Right, ...]:
    """Return each verb on each resource; both are written with spaces between."""
    return tuple(Right(verb, resource, group) for resource in resources.split() for verb in verbs.split())


FORWARD = (*rights("get", "services"), *rights("list", "pods"), *rights("get create", "pods/portforward"))
"""What a forwarded port needs. A web socket begins with a GET, so RBAC asks for `get`; Kubernetes from 1.35 on asks for
`create` too."""


def grant(purpose: str, namespace: str, missing: Sequence[Right], user: str | None) -> str:
    """Return the commands with which an administrator grants just what is missing."""
    by_resource: dict[str, list[str]] = {}
    for each in missing:
        by_resource.setdefault(each.typed, []).append(each.verb)
    groups: dict[tuple[str, ...], list[str]] = {}
    for resource, needed in by_resource.items():
        groups.setdefault(tuple(needed), []).append(resource)
    commands = []
    subject, _ = _subject(user)
    for number, (verbs, resources) in enumerate(groups.items(), 1):
        name = f"evctl-{purpose}" + (f"-{number}" if len(groups) > 1 else "")
        listed = ",".join(resources)
        commands += [
            f"kubectl -n {namespace} create role {name} --verb={','.join(verbs)} --resource={listed}",
            f"kubectl -n {namespace} create rolebinding {name} --role={name} {subject}",
        ]
    return " && ".join(commands)


def promoter(namespace: str, user: str | None) -> str:
    """Return the commands with which an administrator gives a promoter's documented Role (`rollout/role.yaml`)."""
    subject, name = _subject(user)
    return (
        f"evctl help role | kubectl apply -n {namespace} -f - && "
        f"kubectl -n {namespace} create rolebinding evctl-promoter-{name} --role=evctl-promoter {subject}"
    )


def _subject(user: str | None) -> tuple[str, str]:
    """Return how kubectl is told of a user, and a part of an object's name for it."""
    if account := re.fullmatch(r"system:serviceaccount:([^:]+):([^:]+)", user or ""):
        return f"--serviceaccount={account[1]}:{account[2]}", account[2]
    name = re.sub(r"[^a-z0-9.-]+", "-", (user or "YOU").lower()).strip("-.")
    return f"--user={shlex.quote(user or 'YOU')}", name


@dataclass(frozen=True, slots=True)
class Need:
    """What one attempt of a task asks of a node: cores, bytes, and accelerators by name."""

    task: str
    amounts: Mapping[str, float]
    said: str


def needs(profile: Profile) -> list[Need]:
    """Return what each task asks for, the largest first; tasks without limits are left out."""
    settings = profile.pipeline_settings()
    found = [_need(task, settings.step(task)) for task in TASKS]
    asked = [each for each in found if each.amounts]
    return sorted(asked, key=lambda need: (-need.amounts.get("cpu", 0), -need.amounts.get("memory", 0)))


def _need(task: str, step: StepSettings) -> Need:
    amounts, said = {}, []
    if step.cpu:
        amounts["cpu"] = quantity(step.cpu)
        said.append(f"cpu {step.cpu}")
    if step.memory:
        amounts["memory"] = quantity(step.memory)
        said.append(f"memory {step.memory}")
    if step.accelerator:
        amounts[step.accelerator.type] = float(step.accelerator.count)
        said.append(f"{step.accelerator.count} {step.accelerator.type}")
    return Need(task, amounts, ", ".join(said))


def usable(nodes: Iterable[Mapping[str, Any]], pods: Iterable[Mapping[str, Any]] = ()) -> list[dict[str, float]]:
    """Return what each node that takes pods without tolerations can give, less what `pods` on it have asked for."""
    taken, found = _taken(pods), []
    for node in nodes:
        less = taken[(node.get("metadata") or {}).get("name")]
        spec, status = node.get("spec") or {}, node.get("status") or {}
        taints = {taint.get("effect") for taint in spec.get("taints") or ()}
        ready = [c.get("status") for c in status.get("conditions") or () if c.get("type") == "Ready"]
        if spec.get("unschedulable") or taints & {"NoSchedule", "NoExecute"} or "False" in ready or "Unknown" in ready:
            continue
        found.append({name: quantity(value) - less[name] for name, value in (status.get("allocatable") or {}).items()})
    return found


def _taken(pods: Iterable[Mapping[str, Any]]) -> defaultdict[str | None, defaultdict[str, float]]:
    taken: defaultdict[str | None, defaultdict[str, float]] = defaultdict(lambda: defaultdict(float))
    for pod in pods:
        spec = pod.get("spec") or {}
        for container in spec.get("containers") or ():
            for name, value in ((container.get("resources") or {}).get("requests") or {}).items():
                taken[spec.get("nodeName")][name] += quantity(value)
    return taken


def homeless(wanted: Sequence[Need], nodes: Sequence[Mapping[str, float]]) -> list[Need]:
    """Return the tasks that fit on no node."""
    return [need for need in wanted if not any(_fits(need, node) for node in nodes)]


def _fits(need: Need, node: Mapping[str, float]) -> bool:
    return all(node.get(name, 0.0) >= amount for name, amount in need.amounts.items())


Policy = Literal["exact", "infrastructure only", "multiplied"]


def retry_policy(config_map: Mapping[str, Any]) -> Policy:
    """Return which of the three a workflow controller's ConfigMap makes of a task's retries (kubeflow-facts 15).

    `exact`: as the pipeline says. `infrastructure only`: a component that exits non-zero is not retried.
    `multiplied`: the default retries DAGs too, so that attempts multiply.
    """
    data = config_map.get("data") or {}
    defaults = _yaml(data.get("workflowDefaults")) or _yaml(data.get("config")).get("workflowDefaults") or {}
    template = (defaults.get("spec") or {}).get("templateDefaults") or {}
    strategy = template.get("retryStrategy")
    if not isinstance(strategy, Mapping):
        return "exact"
    # Argo's own default is OnFailure
    policy = strategy.get("retryPolicy") or "OnFailure"
    return "infrastructure only" if policy in ("OnError", "OnTransientError") else "multiplied"


def _yaml(text: str | None) -> dict[str, Any]:
    try:
        found = yaml.safe_load(text or "")
    except yaml.YAMLError:
        return {}
    return found if isinstance(found, dict) else {}


def provider_session(config_map: Mapping[str, Any], provider: str, bucket: str) -> dict[str, str]:
    """Return KFP's session parameters for a bucket from the ConfigMap `kfp-launcher`; {} is the installation's default."""
    settings = _yaml((config_map.get("data") or {}).get("providers")).get(provider) or {}
    overrides = [o for o in settings.get("overrides") or () if o.get("bucketName") == bucket]
    chosen = {**(settings.get("default") or {}), **(overrides[0] if overrides else {})}
    credentials = chosen.get("credentials") or {}
    secret = credentials.get("secretRef") or {}
    found = {key: chosen.get(key) for key in ("endpoint", "region", "disableSSL")}
    found |= {key: secret.get(key) for key in ("secretName", "accessKeyKey", "secretKeyKey", "tokenKey")}
    found["fromEnv"] = credentials.get("fromEnv")
    return {
        key: str(value).lower() if isinstance(value, bool) else str(value)
        for key, value in found.items()
        if value is not None
    }


def default_mode(config_map: Mapping[str, Any]) -> str | None:
    """Return the deployment mode that KServe's ConfigMap `inferenceservice-config` makes the default; None: it says none."""
    deploy = _yaml((config_map.get("data") or {}).get("deploy"))
    mode = deploy.get("defaultDeploymentMode")
    return OLD_NAMES.get(str(mode), str(mode)) if mode else None


def image_tag(deployment: Mapping[str, Any]) -> str | None:
    """Return the tag of a Deployment's first image; None where it is named by digest alone."""
    containers = (((deployment.get("spec") or {}).get("template") or {}).get("spec") or {}).get("containers") or ()
    managers = [c for c in containers if c.get("name") == "manager"] or list(containers)
    name = str(managers[0].get("image") or "") if managers else ""
    tag = name.partition("@")[0].rpartition("/")[2].partition(":")[2]
    return tag or None
