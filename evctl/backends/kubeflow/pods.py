"""Why a pod cannot start, or how it died, from the pod and its events. Pure; pods are Kubernetes JSON."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from evctl.backends.base import TaskStatus
from evctl.backends.kubeflow.nodes import moment, place_of
from evctl.backends.metadata.words import last_words as last_words
from evctl.errors import trim

_DRIVER_NAME = re.compile(r"-(container|dag)-driver-")
NODE_NAME = "workflows.argoproj.io/node-name"
RUN_LABEL = "pipeline/runid"
MEMORY = "killed for memory (OOMKilled): raise the step's memory in the profile"
DEADLINE = "deadline: it ran longer than its timeout (timeout_s of the step in the profile)"
_INDEX = re.compile(r"\(.*?\)$")
_BAD_WAITS = {
    "ImagePullBackOff", "ErrImagePull", "InvalidImageName", "ErrImageNeverPull", "CreateContainerConfigError",
    "CreateContainerError", "RunContainerError", "CrashLoopBackOff",
}  # fmt: skip
_BAD_EVENTS = {
    "FailedMount", "FailedAttachVolume", "FailedCreatePodSandBox", "FailedScheduling", "FailedMapVolume",
    "FailedCreate", "NetworkNotReady",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Pod:
    """A pod of a run and what is wrong with it, if anything."""

    name: str
    namespace: str
    task: str
    """KFP's task name, from Argo's node name."""
    driver: bool
    phase: str
    created_at: datetime | None
    blocked: str | None = None
    blocked_since: datetime | None = None
    death: str | None = None
    """Why it failed, where Kubernetes knows better than the log (memory, deadline, eviction)."""
    exit_code: int | None = None
    running: bool = False
    place: str = ""
    """Its node's place in the tree: tasks of one name in loops and groups are apart there."""
    leaving: str | None = None
    """Why it is taken away and yet not gone, as on a node that no longer answers."""


def read(items: Iterable[Mapping[str, Any]], events: Iterable[Mapping[str, Any]] = ()) -> tuple[Pod, ...]:
    """Return the run's pods, oldest first. Events may be Kubernetes' or `{reason, message, object}`."""
    by_pod: dict[str, list[Mapping[str, Any]]] = {}
    for event in events:
        target = (event.get("involvedObject") or event.get("regarding") or {}).get("name") or event.get("object")
        by_pod.setdefault(str(target), []).append(event)
    pods = [_pod(item, by_pod.get(item["metadata"]["name"], [])) for item in items]
    return tuple(sorted(pods, key=lambda pod: (str(pod.created_at), pod.name)))


def _pod(item: Mapping[str, Any], events: Sequence[Mapping[str, Any]]) -> Pod:
    meta, status = item["metadata"], item.get("status") or {}
    phase = status.get("phase") or "Unknown"
    created = moment(meta.get("creationTimestamp"))
    node_name = (meta.get("annotations") or {}).get(NODE_NAME) or ""
    task, driver = _task_of(node_name)
    blocked, since = _blocked(status, events, created) if phase == "Pending" else (None, None)
    exit_code, death = _death(status) if phase == "Failed" else (None, None)
    main = [c for c in status.get("containerStatuses") or () if c.get("name") == "main"]
    return Pod(
        name=meta["name"],
        namespace=meta.get("namespace") or "",
        task=task,
        driver=driver,
        phase=phase,
        created_at=created,
        blocked=blocked,
        blocked_since=since,
        death=death,
        exit_code=exit_code,
        running=any("running" in (c.get("state") or {}) for c in main),
        place=place_of(node_name),
        leaving=_leaving(meta, status) if phase in ("Pending", "Running", "Unknown") else None,
    )


def _task_of(node_name: str) -> tuple[str, bool]:
    """`wf(0).root(0).exit-handler-1(0).train(0).executor(0)` is train's own pod, `....train-driver(0)` its driver's."""
    parts = [_INDEX.sub("", part) for part in node_name.split(".")]
    if not parts[-1]:
        return "", False
    if parts[-1] == "executor" and len(parts) > 1:
        return parts[-2], False
    last = parts[-1]
    return (last.removesuffix("-driver"), True) if last.endswith("-driver") else (last, False)


def _blocked(
    status: Mapping[str, Any], events: Sequence[Mapping[str, Any]], created: datetime | None
) -> tuple[str | None, datetime | None]:
    for condition in status.get("conditions") or ():
        if condition.get("type") == "PodScheduled" and condition.get("status") == "False":
            since = moment(condition.get("lastTransitionTime")) or created
            return _said(condition.get("reason") or "Unschedulable", condition.get("message")), since
    waits = list(status.get("initContainerStatuses") or ()) + list(status.get("containerStatuses") or ())
    for container in waits:
        waiting = (container.get("state") or {}).get("waiting") or {}
        if waiting.get("reason") in _BAD_WAITS:
            return _said(waiting["reason"], waiting.get("message")), created
    # Kubernetes keeps events: of a pod that has got its node since, that it had none is no news
    placed = any(c.get("type") == "PodScheduled" and c.get("status") == "True" for c in status.get("conditions") or ())
    past = {"FailedScheduling"} if placed else set()
    bad = [event for event in events if event.get("reason") in _BAD_EVENTS - past]
    if bad:
        last = bad[-1]
        since = moment(last.get("firstTimestamp") or last.get("eventTime")) or created
        return _said(last["reason"], last.get("message")), since
    return None, None


def _leaving(meta: Mapping[str, Any], status: Mapping[str, Any]) -> str | None:
    if status.get("reason") == "NodeLost" or status.get("phase") == "Unknown":
        return _said(status.get("reason") or "NodeLost", status.get("message") or "its node does not answer")
    # asked to go by a user or by Argo it goes within its grace; by the control plane it may have to wait for its node
    for condition in (status.get("conditions") or ()) if meta.get("deletionTimestamp") else ():
        if condition.get("type") == "DisruptionTarget" and condition.get("status") == "True":
            return _said(condition.get("reason") or "Disrupted", condition.get("message"))
    return None


def _said(reason: str, message: str | None) -> str:
    return trim(f"{reason}: {message}" if message else reason)


def _death(status: Mapping[str, Any]) -> tuple[int | None, str | None]:
    inits = {c.get("name"): _terminated(c) for c in status.get("initContainerStatuses") or ()}
    others = {c.get("name"): _terminated(c) for c in status.get("containerStatuses") or ()}
    main = others.pop("main", {})
    code = main.get("exitCode")
    for name, ended in (("main", main), *inits.items(), *others.items()):
        if ended.get("reason") == "OOMKilled":
            whose = "" if name == "main" else f"its container {name} was "
            return code, f"{whose}{MEMORY}"
    if status.get("reason") == "DeadlineExceeded":
        return code, DEADLINE
    # who took the pod away stands in a condition, whatever the containers say of their end
    for condition in status.get("conditions") or ():
        if condition.get("type") == "DisruptionTarget" and condition.get("status") == "True":
            return code, _said(condition.get("reason") or "Disrupted", condition.get("message"))
    if status.get("reason"):
        return code, _said(status["reason"], status.get("message"))
    if main.get("reason") not in (None, "Error", "Completed"):
        return code, _said(main["reason"], main.get("message"))
    if code in (None, 0):
        for name, ended in (*inits.items(), *others.items()):
            if ended.get("exitCode"):
                return code, _said(
                    f"its container {name} ended with exit code {ended['exitCode']}", ended.get("message")
                )
    return code, None


def _terminated(container: Mapping[str, Any]) -> Mapping[str, Any]:
    return (container.get("state") or {}).get("terminated") or {}


def own_pod(task: TaskStatus | None) -> str | None:
    """Return the task's own pod: before there is one, its driver's stands in for it."""
    return task.pod if task is not None and task.pod and not _DRIVER_NAME.search(task.pod) else None
