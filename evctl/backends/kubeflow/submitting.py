"""Start a run once, whatever the network does, and keep pipeline versions named by content."""

from __future__ import annotations

import contextlib
import copy
import json
import re
import secrets
import time
from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from evctl.backends.base import PipelineVersion, RunRequest
from evctl.backends.kubeflow.api import V2, Api, equals
from evctl.backends.kubeflow.nodes import moment
from evctl.errors import ConflictError, EvctlError, UnavailableError
from evctl.profile import PIPELINE_NAME, Profile

POSTS = 3
"""How often a submission is sent when its answers are lost."""
LOOKS_S = (0.2, 0.5, 1.0, 2.0)
"""Pauses before each look for a submission whose answer was lost: it may still be on its way in the server."""
_DIGEST = re.compile(r"\bdigest ([0-9a-f]{12,64})\b")


def without_cache(spec: Mapping[str, Any]) -> dict[str, Any]:
    """Return a pipeline spec whose every task runs anew.

    kfp's own `enable_caching=False` reaches the outermost tasks only (kubeflow-facts 16).
    """
    changed = copy.deepcopy(dict(spec))
    dags = [changed.get("root", {}), *changed.get("components", {}).values()]
    for component in dags:
        for task in component.get("dag", {}).get("tasks", {}).values():
            task["cachingOptions"] = {}
    return changed


def documents_of(package: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return (pipeline spec, platform spec) of a compiled package."""
    import yaml

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    found = [each for each in yaml.load_all(package.read_text(), loader) if each]
    return found[0], found[1] if len(found) > 1 else {}


class Submitter:
    """Writes to one environment's KFP."""

    def __init__(self, connection: Any, api: Api, profile: Profile) -> None:
        self.connection, self.api, self.profile = connection, api, profile

    def submit(self, request: RunRequest) -> str:
        """Start a run and return its id. Its nonce finds it again where the answer was lost."""
        nonce = secrets.token_hex(8)
        settings = self.profile.kubeflow
        body: dict[str, Any] = {
            "display_name": request.name,
            "description": f"{request.description}; nonce {nonce}".lstrip("; "),
            "experiment_id": self.experiment_id(),
            "runtime_config": {"parameters": dict(request.parameters)},
        }
        if request.use_cache:
            pipeline, version = self.version_of(request.package, request.package_digest, request.description)
            body["pipeline_version_reference"] = {"pipeline_id": pipeline, "pipeline_version_id": version}
        else:
            spec, platform = documents_of(request.package)
            plain = without_cache(spec)
            body["pipeline_spec"] = {"pipeline_spec": plain, "platform_spec": platform} if platform else plain
        if settings.pipeline_root:
            body["runtime_config"]["pipeline_root"] = settings.pipeline_root
        if settings.service_account:
            body["service_account"] = settings.service_account
        return self._once(body, nonce)

    def experiment_id(self) -> str:
        """Return the profile's experiment, making it when it is missing."""
        return self.api.made_experiment_id(self.profile.experiment, f"made by evctl for profile {self.profile.name}")

    def version_of(self, package: Path, digest: str, description: str) -> tuple[str, str]:
        """Return (pipeline, version) ids of a package, uploading what is not there."""
        pipeline = self._pipeline_id()
        version, _ = self._version(pipeline, digest[:12], package, digest, description)
        return pipeline, str(version["pipeline_version_id"])

    def upload(self, package: Path, digest: str, *, description: str, set_default: bool) -> PipelineVersion:
        """Keep a version named by content. KFP's default is the newest, so an older one is made so by a second name."""
        pipeline = self._pipeline_id()
        name = digest[:12]
        version, made = self._version(pipeline, name, package, digest, description)
        if set_default and not made:
            newest = self.api.newest_version(pipeline)
            at = 2
            while newest is not None and digest_of(newest) != digest:
                version, made = self._version(pipeline, f"{name}-{at}", package, digest, description)
                newest, at = (None if made else newest), at + 1
        return self.shown(version, unchanged=not made)

    def shown(self, version: Mapping[str, Any], *, unchanged: bool = False) -> PipelineVersion:
        """Return a version's document as a value."""
        name = str(version.get("display_name") or version.get("name") or "")
        return PipelineVersion(
            PIPELINE_NAME,
            name,
            digest_of(version) or name,
            moment(version.get("created_at")),
            unchanged,
            str(version.get("description") or ""),
        )

    def _once(self, body: Mapping[str, Any], nonce: str) -> str:
        lost: EvctlError = UnavailableError("the KFP API answered a submission without a run id")
        for post in range(POSTS):
            try:
                made = self.api.create_run(body).get("run_id")
                if made:
                    return self._oldest(body, nonce, str(made)) if post else str(made)
            except UnavailableError as error:
                lost = error
            for pause in LOOKS_S:
                time.sleep(pause)
                # a server that is down for a moment is down for the look too
                with contextlib.suppress(UnavailableError):
                    if found := self._found(body, nonce):
                        return self._oldest(body, nonce, found[0])
        raise lost

    def _found(self, body: Mapping[str, Any], nonce: str) -> list[str]:
        """Return the runs of this submission, oldest first."""
        named = self.api.runs(
            predicates=[equals("display_name", body["display_name"])], experiment_id=body["experiment_id"], page=20
        )
        ours = [run for run in islice(named, 20) if nonce in str(run.get("description") or "")]
        return [str(run["run_id"]) for run in sorted(ours, key=lambda run: str(run.get("created_at")))]

    def _oldest(self, body: Mapping[str, Any], nonce: str, made: str) -> str:
        """Return the one run that stays; a second one, whose submission was late and not lost, is ended."""
        found = self._found(body, nonce) or [made]
        for extra in found[1:]:
            with contextlib.suppress(EvctlError):
                self.api.terminate(extra)
        return found[0]

    def _pipeline_id(self) -> str:
        found = self.api.pipeline_id(PIPELINE_NAME)
        if found is None:
            body = {"display_name": PIPELINE_NAME, "name": PIPELINE_NAME, "description": _ABOUT, **self.api.scope()}
            try:
                return str(self.connection.request("POST", f"{V2}/pipelines", body=body)["pipeline_id"])
            except (ConflictError, UnavailableError) as error:
                found = self.api.pipeline_id(PIPELINE_NAME)  # somebody else was faster, or our answer was lost
                if found is None:
                    raise error
        return found

    def _version(
        self, pipeline: str, name: str, package: Path, digest: str, description: str
    ) -> tuple[Mapping[str, Any], bool]:
        """Return a version and whether this call made it."""
        found = self.api.version_named(pipeline, name)
        if found is None:
            try:
                return self._send(pipeline, name, package, digest, description), True
            except (ConflictError, UnavailableError) as error:
                found = self.api.version_named(pipeline, name)
                if found is None:
                    raise error
        known = digest_of(found)
        if known is not None and known != digest:
            raise ConflictError(
                f"version {name} of {PIPELINE_NAME} exists with other content (digest {known[:12]})",
                hint="evctl upload names versions by their content; delete that one, or name another",
            )
        return found, False

    def _send(self, pipeline: str, name: str, package: Path, digest: str, description: str) -> Mapping[str, Any]:
        commit = re.search(r"commit (\S+?)[,;]?(\s|$)", description)
        tags = {"evctl-digest": digest[:32], "evctl-profile": self.profile.name}
        if commit:
            tags["evctl-commit"] = commit[1][:48]
        # kfp.Client's own method has no tags; what it speaks through is the connection's
        made = self.connection.kfp_client()._upload_api.upload_pipeline_version(
            str(package),
            name=name,
            pipelineid=pipeline,
            description=f"{description}; digest {digest}".lstrip("; "),
            tags=json.dumps(tags),
        )
        return {
            "pipeline_id": made.pipeline_id,
            "pipeline_version_id": made.pipeline_version_id,
            "display_name": made.display_name,
            "description": made.description,
            "created_at": made.created_at.isoformat() if made.created_at else None,
        }


_ABOUT = "Production-grade Kubeflow pipeline for EV Battery Health Fault Classification"


def digest_of(version: Mapping[str, Any]) -> str | None:
    """Return the digest that evctl wrote into a version's description."""
    found = _DIGEST.search(str(version.get("description") or ""))
    return found[1] if found else None
