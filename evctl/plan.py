"""What a run would do, read from what was compiled. Pure."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from ev_pipeline.settings import TASKS
from evctl.compiler import CompiledPipeline, declared
from evctl.profile import Profile

LOCAL_IMAGE = "python-local"
"""What the local profile calls the image it does not use."""


@dataclass(frozen=True, slots=True)
class PlannedTask:
    """One task: `cpu` and `memory` as compiled, `timeout_s` in seconds."""

    name: str
    image: str
    cpu: str | None
    memory: str | None
    retries: int
    timeout_s: int | None
    cache: bool
    secrets: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class LastUpload:
    """What changes against the newest uploaded version."""

    version: str
    changes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """A run that has not been started."""

    env: str
    digest: str
    tasks: tuple[PlannedTask, ...]
    parameters: Mapping[str, Any]
    warnings: tuple[str, ...]
    last_upload: LastUpload | None = None

    def document(self) -> dict[str, Any]:
        """Return the plan as JSON."""
        return {**asdict(self), "tasks": [asdict(task) for task in self.tasks], "warnings": list(self.warnings)}

    def against(self, version: str, before: Mapping[str, Any], compiled: CompiledPipeline) -> Plan:
        """Return the plan with its difference to an uploaded version's pipeline spec."""
        return replace(self, last_upload=LastUpload(version, tuple(changes(before, compiled.spec))))


def plan_of(compiled: CompiledPipeline, profile: Profile) -> Plan:
    """Return the plan of a compiled pipeline in an environment."""
    found = {name: _task(*parts, compiled) for name, parts in _containers(compiled.spec).items()}
    tasks = tuple(sorted(found.values(), key=lambda t: TASKS.index(t.name) if t.name in TASKS else len(TASKS)))
    defaults = {name: each.get("defaultValue") for name, each in declared(compiled.spec).items()}
    return Plan(profile.name, compiled.digest, tasks, defaults, tuple(_warnings(profile, tasks)))


def changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """Return what differs between two pipeline specs, a line each: parameters, tasks, and what a task runs as."""
    said = _changed(
        "parameter ",
        {name: each.get("defaultValue") for name, each in declared(before).items()},
        {name: each.get("defaultValue") for name, each in declared(after).items()},
    )
    old, new = _containers(before), _containers(after)
    said += [f"task {name}: removed" for name in old if name not in new]
    for name, (_, task, label) in new.items():
        if name not in old:
            said.append(f"task {name}: new")
            continue
        said += _changed(f"{name} ", _facts(before, *old[name][1:]), _facts(after, task, label))
    return said


def _facts(spec: Mapping[str, Any], task: Mapping[str, Any], label: str) -> dict[str, Any]:
    container = spec["deploymentSpec"]["executors"][label]["container"]
    resources = container.get("resources", {})
    program = json.dumps([container.get("command"), container.get("args")])
    return {
        "image": container["image"],
        "cpu": resources.get("resourceCpuLimit"),
        "memory": resources.get("resourceMemoryLimit"),
        "accelerator": json.dumps(resources.get("accelerator")),
        "retries": task.get("retryPolicy", {}).get("maxRetryCount", 0),
        "cache": bool(task.get("cachingOptions", {}).get("enableCache")),
        # the pipeline's own digest is another whenever anything is
        "environment": json.dumps([v for v in container.get("env", ()) if v["name"] != "EV_PIPELINE_DIGEST"]),
        "inputs": hashlib.sha256(json.dumps(task.get("inputs"), sort_keys=True).encode()).hexdigest()[:12],
        "code": hashlib.sha256(program.encode()).hexdigest()[:12],
    }


def _changed(what: str, before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    names = [*before, *(name for name in after if name not in before)]
    return [f"{what}{n}: {before.get(n)} -> {after.get(n)}" for n in names if before.get(n) != after.get(n)]


def _containers(spec: Mapping[str, Any]) -> dict[str, tuple[str, Mapping[str, Any], str]]:
    """Return the tasks that run a container, by the product's name: key, task, executor label."""
    found = {}
    for dag in [spec["root"]["dag"], *(c["dag"] for c in spec["components"].values() if "dag" in c)]:
        for key, task in dag["tasks"].items():
            component = spec["components"][task["componentRef"]["name"]]
            if "executorLabel" in component:
                found[key.replace("-", "_")] = (key, task, component["executorLabel"])
    return found


def _task(key: str, task: Mapping[str, Any], label: str, compiled: CompiledPipeline) -> PlannedTask:
    container = compiled.spec["deploymentSpec"]["executors"][label]["container"]
    platforms = compiled.platform.get("platforms", {}).get("kubernetes", {})
    platform = platforms.get("deploymentSpec", {}).get("executors", {}).get(label, {})
    resources = container.get("resources", {})
    timeout = platform.get("activeDeadlineSeconds")
    return PlannedTask(
        name=key.replace("-", "_"),
        image=container["image"],
        cpu=resources.get("resourceCpuLimit"),
        memory=resources.get("resourceMemoryLimit"),
        retries=int(task.get("retryPolicy", {}).get("maxRetryCount", 0)),
        timeout_s=int(timeout) if timeout else None,
        cache=bool(task.get("cachingOptions", {}).get("enableCache")),
        secrets=tuple(mount["secretName"] for mount in platform.get("secretAsVolume", ())),
    )


def _warnings(profile: Profile, tasks: tuple[PlannedTask, ...]) -> list[str]:
    if profile.backend == "local":
        return _not_honoured_here(profile, tasks)
    said = []
    if profile.image.name is None:
        said.append("the image is unset: upload and run will refuse")
    if any(task.retries for task in tasks):
        said.append("a default Kubeflow retries infrastructure errors only, whatever a task's retries say")
    return said


def _not_honoured_here(profile: Profile, tasks: tuple[PlannedTask, ...]) -> list[str]:
    """Return what a profile asks for and one machine does not give."""
    said = []
    if profile.image.name not in (None, LOCAL_IMAGE) or profile.image.mode == "embedded" or profile.image.packages:
        said.append("this machine runs the code and the packages that are installed on it, whatever image says")
    if profile.data.shards > 1:
        said.append("this machine computes the features in one task, whatever data.shards says")
    limited = [task.name for task in tasks if task.cpu or task.memory]
    if limited:
        said.append(f"this machine does not enforce the CPU and memory limits of {', '.join(limited)}")
    accelerated = [name for name, step in profile.steps.items() if step.accelerator]
    if accelerated:
        said.append(f"this machine gives {', '.join(accelerated)} no accelerator but those it shows to every process")
    said += [
        f"the files of secret {secret.name} are in the folder $EV_SECRETS_DIR, not at {secret.mount_path}"
        for secret in profile.secrets
        if secret.tasks
    ]
    return said
