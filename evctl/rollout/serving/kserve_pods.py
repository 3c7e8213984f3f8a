"""What a release's pods show: what the model did, what was done to the pod, and what is still going on. Pure."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from evctl.errors import trim

Object = Mapping[str, Any]
ENDS = 2
"""The second end of a model's server is one too many; its second restart would only come after the back-off."""
REFUSED = "refused: "
"""How our predictor begins its last line when a bundle is not to be served: no other start will change that."""
SHOWN = 240
SERVER = "kserve-container"
"""What KServe calls the predictor's container; all others (queue-proxy, istio-proxy, agent) were put beside it."""
HOPELESS = frozenset({"ImagePullBackOff", "InvalidImageName", "CreateContainerConfigError", "CreateContainerError"})
"""Waiting reasons that end a promotion. ErrImagePull is not one: the next attempt may succeed."""


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a pod fails, in one line, and whose log has the last word."""

    told: str
    pod: str | None = None
    container: str | None = None
    previous: bool = False
    """The last word is in the log of the container's run before."""
    words: str = ""
    """What the pod's status itself says of the end."""


def failure(pods: Sequence[Object], stuck: Collection[str]) -> Failure | None:
    """Return the first failure that is the release's own. `stuck`: pods that found no node for too long."""
    for pod in pods:
        if is_going(pod) or was_taken(pod):
            continue
        name, status = pod["metadata"]["name"], pod.get("status") or {}
        beside = _sidecars(pod)
        for each in status.get("initContainerStatuses") or ():
            if found := _init_failure(name, each, beside=each["name"] in beside):
                return found
        for each in status.get("containerStatuses") or ():
            if found := _container_failure(name, each):
                return found
        for condition in status.get("conditions") or ():
            nowhere = (condition.get("type"), condition.get("reason")) == ("PodScheduled", "Unschedulable")
            if nowhere and name in stuck:
                return Failure(f"pod {name} finds no node: {trim(str(condition.get('message')), 200)}")
    return None


def was_taken(pod: Object) -> bool:
    """Was this pod evicted, preempted, or lost with its node? Its ReplicaSet makes another one.

    Containers that end are started again in a Deployment's pod, so its phase is Failed only by what the node did.
    """
    status = pod.get("status") or {}
    disrupted = any(
        (each.get("type"), each.get("status")) == ("DisruptionTarget", "True")
        for each in status.get("conditions") or ()
    )
    return bool(disrupted or status.get("phase") == "Failed")


def losses(pods: Sequence[Object], *, least: int = 1) -> str:
    """Return what took pods away, in words to be added to others; nothing for fewer than `least`."""
    taken = [pod for pod in pods if was_taken(pod)]
    if len(taken) < least:
        return ""
    count = "a pod was" if len(taken) == 1 else f"{len(taken)} pods were"
    return f"; {count} taken away ({_why_taken(taken[-1])})"


def _why_taken(pod: Object) -> str:
    status = pod.get("status") or {}
    target: Object = next(
        (each for each in status.get("conditions") or () if each.get("type") == "DisruptionTarget"), {}
    )
    reason = status.get("reason") or target.get("reason") or "no reason told"
    message = status.get("message") or target.get("message")
    return f"{reason}: {trim(str(message), 160)}" if message else str(reason)


def is_going(pod: Object) -> bool:
    """Is this pod being deleted?"""
    return bool(pod["metadata"].get("deletionTimestamp"))


def is_ready(pod: Object) -> bool:
    """Does this pod take requests?"""
    conditions = (pod.get("status") or {}).get("conditions") or ()
    return any((each["type"], each["status"]) == ("Ready", "True") for each in conditions)


def doing(pods: Sequence[Object]) -> str:
    """Return what the first pod that is not ready waits for, in words to be added to others."""
    return next((f": {each}" for each in _busy(pods)), "")


def _busy(pods: Sequence[Object]) -> Iterator[str]:
    for pod in pods:
        if is_going(pod) or was_taken(pod):
            continue
        status = pod.get("status") or {}
        for each in (*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())):
            state = each.get("state") or {}
            if waiting := (state.get("waiting") or {}).get("reason"):
                yield f"{each['name']} waits ({waiting})"
            elif "running" in state and not each.get("ready"):
                yield f"{each['name']} runs"
            elif code := (state.get("terminated") or {}).get("exitCode"):
                yield f"{each['name']} ended (exit code {code}) and is started again"
        for condition in status.get("conditions") or ():
            if (condition.get("type"), condition.get("reason")) == ("PodScheduled", "Unschedulable"):
                yield f"it waits for a node ({trim(str(condition.get('message')), 160)})"


def _sidecars(pod: Object) -> frozenset[str]:
    """Return the init containers that run beside the others for as long as the pod does."""
    listed = (pod.get("spec") or {}).get("initContainers") or ()
    return frozenset(str(each.get("name")) for each in listed if each.get("restartPolicy") == "Always")


def _init_failure(pod: str, status: Object, *, beside: bool) -> Failure | None:
    state, name = status.get("state") or {}, status["name"]
    if hopeless := _hopeless(pod, name, state):
        return hopeless
    if beside:
        return None  # not ours, and started again: what it keeps from being ready is told while it is waited for
    ended = state.get("terminated") or {}
    if ended.get("exitCode"):
        return _ended(pod, name, ended, "failed", previous=False)
    before = (status.get("lastState") or {}).get("terminated") or {}
    # a node that was started again runs an init container anew that had done its work
    if int(status.get("restartCount") or 0) and before.get("exitCode") != 0 and not ended:
        return _ended(pod, name, before, "failed", previous="waiting" not in state)
    return None


def _container_failure(pod: str, status: Object) -> Failure | None:
    state, name = status.get("state") or {}, status["name"]
    if hopeless := _hopeless(pod, name, state):
        return hopeless
    if name != SERVER or status.get("ready"):
        return None  # what serves now may have been started again in weeks gone by
    restarts, now = int(status.get("restartCount") or 0), state.get("terminated") or {}
    last = now or (status.get("lastState") or {}).get("terminated") or {}
    lines = str(last.get("message") or "").splitlines()
    hopeless_bundle = bool(lines) and lines[-1].startswith(REFUSED)
    backs_off = (state.get("waiting") or {}).get("reason") == "CrashLoopBackOff"
    ends = restarts + (1 if now or backs_off else 0)
    if ends < (1 if hopeless_bundle else ENDS):
        return None
    told = f"was restarted {restarts} times" if restarts >= ENDS else "ended twice" if ends >= ENDS else "ended"
    return _ended(pod, name, last, told, previous="running" in state)


def _hopeless(pod: str, name: str, state: Object) -> Failure | None:
    waiting = state.get("waiting") or {}
    if waiting.get("reason") not in HOPELESS:
        return None
    return Failure(f"pod {pod}, {name}: {waiting['reason']}: {_cause(str(waiting.get('message', '')))}")


def _cause(message: str) -> str:
    """Return a waiting message with its end, where the cause stands: the kubelet names the image again and again."""
    found = re.match(r'Back-off pulling image "([^"]+)"(?:: ErrImagePull)?:? ?(.*)', message, re.DOTALL)
    if not found or not found[2]:
        return trim(message, SHOWN)
    rest = " ".join(found[2].replace(found[1], "it").split())
    return f"{trim(found[1], 160)}: " + (rest if len(rest) <= SHOWN else f"…{rest[-SHOWN:]}")


def _ended(pod: str, container: str, ended: Object, told: str, *, previous: bool) -> Failure:
    code = f" (exit code {ended['exitCode']})" if ended.get("exitCode") else ""
    reason = f", {ended['reason']}" if ended.get("reason") not in (None, "Error", "Completed") else ""
    return Failure(
        f"pod {pod}, {container} {told}{code}{reason}", pod, container, previous, str(ended.get("message") or "")
    )
