"""What a run would do, read from what was compiled. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from ev_pipeline.settings import TASKS
from evctl.compiler import CompiledPipeline, declared
from evctl.profile import Profile


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
class Plan:
    """A run that has not been started."""

    env: str
    digest: str
    tasks: tuple[PlannedTask, ...]
    parameters: Mapping[str, Any]
    warnings: tuple[str, ...]

    def document(self) -> dict[str, Any]:
        """Return the plan as JSON."""
        return {**asdict(self), "tasks": [asdict(task) for task in self.tasks], "warnings": list(self.warnings)}


def plan_of(compiled: CompiledPipeline, profile: Profile) -> Plan:
    """Return the plan of a compiled pipeline in an environment."""
    found = {}
    dags = [compiled.spec["root"]["dag"], *(c["dag"] for c in compiled.spec["components"].values() if "dag" in c)]
    for dag in dags:
        for key, task in dag["tasks"].items():
            component = compiled.spec["components"][task["componentRef"]["name"]]
            if "executorLabel" in component:
                found[key.replace("-", "_")] = _task(key, task, component["executorLabel"], compiled)
    tasks = tuple(sorted(found.values(), key=lambda t: TASKS.index(t.name) if t.name in TASKS else len(TASKS)))
    defaults = {name: each.get("defaultValue") for name, each in declared(compiled.spec).items()}
    return Plan(profile.name, compiled.digest, tasks, defaults, tuple(_warnings(profile, tasks)))


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
    said = []
    if profile.backend == "local":
        if profile.data.shards > 1:
            said.append("this machine computes the features in one task, whatever data.shards says")
        limited = [task.name for task in tasks if task.cpu or task.memory]
        if limited:
            said.append(f"this machine does not enforce the CPU and memory limits of {', '.join(limited)}")
    else:
        if profile.image.name is None:
            said.append("the image is unset: upload and run will refuse")
        if any(task.retries for task in tasks):
            said.append("a default Kubeflow retries infrastructure errors only, whatever a task's retries say")
    return said
