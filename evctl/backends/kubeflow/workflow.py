"""What Argo itself says of a run's nodes: why one has no pod, or lost it. KFP's API keeps none of this. Pure."""

from __future__ import annotations

import base64
import gzip
import json
import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from evctl.backends.kubeflow.nodes import moment, place_of
from evctl.backends.kubeflow.pods import DEADLINE, MEMORY
from evctl.errors import trim

PATH = "/apis/argoproj.io/v1alpha1/namespaces/{namespace}/workflows"
NOT_LOOKED_AT = "Argo's controller has not looked at it yet: is the deployment workflow-controller up? evctl doctor"
GONE = "its workflow is gone from the cluster, so nothing will move it"
_PLAIN = re.compile(r"^(main: )?(Error|Completed)?\s*\(exit code \d+\)|^(ContainerCreating|PodInitializing)")
"""What a pod says better, or what is no news."""


@dataclass(frozen=True, slots=True)
class Said:
    """One node's message. `waiting` while its pod is still to come."""

    text: str
    waiting: bool
    since: datetime | None = None


@dataclass(frozen=True, slots=True)
class Workflow:
    """A run's workflow: `begun` once the controller has looked at it; `said` by the place of a task or its driver."""

    begun: bool = True
    said: Mapping[str, Said] = field(default_factory=dict)


def read(document: Mapping[str, Any]) -> Workflow:
    """Return what a Workflow object says."""
    status = document.get("status") or {}
    said: dict[str, Said] = {}
    for node in _nodes(status).values():
        text, phase = str(node.get("message") or ""), node.get("phase")
        if node.get("type") != "Pod" or phase not in ("Error", "Failed", "Pending") or not text or _PLAIN.match(text):
            continue
        place = place_of(str(node.get("name") or "")).removesuffix(".executor")
        said[place] = Said(_known(text), phase == "Pending", moment(node.get("startedAt")))
    return Workflow(bool(status.get("phase")), said)


def _known(text: str) -> str:
    """Say as of a pod that is still there what Argo has kept of one that is gone."""
    if "OOMKilled" in text:
        return MEMORY
    return DEADLINE if "longer than the specified deadline" in text else trim(text)


def _nodes(status: Mapping[str, Any]) -> Mapping[str, Any]:
    if packed := status.get("compressedNodes"):
        try:
            found = json.loads(gzip.decompress(base64.b64decode(packed)))
        except (OSError, ValueError, EOFError, zlib.error):
            return {}
        return found if isinstance(found, dict) else {}
    return status.get("nodes") or {}
