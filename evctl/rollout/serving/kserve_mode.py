"""Which of KServe's deployment modes a service is in: Standard or Knative, and no other."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from typing import Any

from evctl.errors import NotAllowedError, NotFoundError, RefusedError
from evctl.kube import KubeApi
from evctl.rollout.serving import kserve_spec as spec
from evctl.rollout.target import ServiceTarget

KNOWN = ("Standard", "Knative")
OLD_NAMES = {"RawDeployment": "Standard", "Serverless": "Knative", "KNative": "Knative"}


def running(service: Mapping[str, Any]) -> str | None:
    """Return the mode a service runs in, or is to run in, by its name of today; None if nothing says."""
    told = (service.get("status") or {}).get("deploymentMode") or spec.annotations_of(service).get(spec.MODE)
    return OLD_NAMES.get(str(told), str(told)) if told else None


def mode_of(api: KubeApi, target: ServiceTarget, service: Mapping[str, Any] | None) -> str:
    """Return Standard or Knative. RefusedError: the profile, the service or the cluster says another mode."""
    asked = str(target.settings.get("mode") or "auto")
    if service is not None and (has := running(service)):
        if asked not in ("auto", has):
            raise RefusedError(
                f"InferenceService {target.name} runs in {has} mode, which KServe does not change to {asked}",
                hint=f"set serving: {{mode: {has}}}, or give the service another name",
            )
        return _known(has, f"InferenceService {target.name} runs in", "set serving: {name: ANOTHER}")
    if asked != "auto":
        return _known(OLD_NAMES.get(asked, asked), "the profile says", "set serving: {mode: Standard}, or Knative")
    found = _default_mode(api)
    return _known(found, "the cluster's default is", "set serving: {mode: Standard}, or Knative")


def too_old(service: Mapping[str, Any] | None) -> str | None:
    """Return why the KServe that wrote a service's status cannot be told a mode; None if it can.

    One that does not know the name takes its cluster's default mode instead, without a word.
    """
    told = str(((service or {}).get("status") or {}).get("deploymentMode") or "")
    if told not in ("RawDeployment", "Serverless"):
        return None
    return f"this KServe calls the mode {told}: 0.15 and older do not know the name {OLD_NAMES[told]}"


def check_age(target: ServiceTarget, service: Mapping[str, Any] | None) -> None:
    """Raise RefusedError when the cluster's KServe is too old to be told a mode."""
    if why := too_old(service):
        raise RefusedError(f"InferenceService {target.name}: {why}", hint="upgrade KServe to 0.16 or newer")


def _known(mode: str, who: str, hint: str) -> str:
    if mode not in KNOWN:
        raise RefusedError(
            f"{who} mode {mode}: evctl can prove a model in {' and '.join(KNOWN)} mode only, by its pods", hint=hint
        )
    return mode


def _default_mode(api: KubeApi) -> str:
    # not everyone may read KServe's settings: what the cluster serves tells as well
    with contextlib.suppress(NotFoundError, NotAllowedError, ValueError):
        settings = api.get("/api/v1/namespaces/kserve/configmaps/inferenceservice-config")
        mode = json.loads((settings.get("data") or {}).get("deploy") or "{}").get("defaultDeploymentMode")
        if mode:
            return OLD_NAMES.get(str(mode), str(mode))
    try:
        api.get("/apis/serving.knative.dev/v1")
    except (NotFoundError, NotAllowedError):
        return "Standard"
    return "Knative"
