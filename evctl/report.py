"""Gather what a run left behind and write it as one page."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from evctl.backends.base import Artifact, Backend, Outputs, Run
from evctl.documents import run_document
from evctl.drift import history
from evctl.errors import EvctlError, UnavailableError, trim
from evctl.profile import Profile
from evctl.report_page import report_page

MAX_DOCUMENT = 8 << 20
"""Bytes of a JSON artifact that are read; an evaluation is some tens of kilobytes."""


def write_report(profile: Profile, backend: Backend, run_id: str, target: Path | None) -> Path:
    """Write the report of a run and return where it is (default: `report-<run id>.html` here).

    Raises:
        NotFoundError: there is no such run. UnavailableError: the file cannot be written.
    """
    run, outputs = backend.get(run_id), _outputs(backend, run_id)
    path = target or Path(f"report-{run.run_id[:8]}.html")
    html = render(profile, run, outputs, lambda artifact, to: backend.fetch(artifact, to))
    try:
        path.write_text(html, encoding="utf-8")
    except OSError as error:
        raise UnavailableError(
            f"{path} cannot be written: {trim(str(error))}", hint="choose another with -f"
        ) from error
    return path.absolute()


def render(profile: Profile, run: Run, outputs: Outputs | None, fetch: Callable[[Artifact, Path], Path]) -> str:
    """Return the page of a run, from its task tree, its artifacts and the newest drift check of its model."""
    artifacts = {f"{a.task}.{a.name}": a for a in outputs.artifacts} if outputs else {}
    evaluation = document_of(artifacts.get("evaluate_fault_model.evaluation"), fetch)
    validation = document_of(artifacts.get("validate_battery_data.report"), fetch)
    version = run.model.version if run.model else None
    checks = [check for check in history.read(profile.name) if version and check.get("model") == version]
    return report_page(
        run_document(run),
        evaluation=evaluation,
        validation=validation,
        drift=checks[-1] if checks else None,
        provenance=provenance(run, outputs, evaluation) | bundle_provenance(profile, run),
    )


def provenance(run: Run, outputs: Outputs | None, evaluation: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return where the model comes from: digests, versions, the model family that won."""
    raw = next((a for a in outputs.artifacts if a.name == "raw_data"), None) if outputs else None
    values = dict(outputs.parameters) if outputs else {}
    return {
        "data digest": raw.metadata.get("digest") if raw else None,
        "data": raw.metadata.get("summary") if raw else None,
        "model family": (evaluation or {}).get("chosen") or None,
        "model digest": values.get("register_fault_model.model_digest"),
        "model": run.model.uri if run.model else None,
        "created": run.created_at.isoformat(timespec="seconds"),
        "duration": None if run.duration_s is None else f"{run.duration_s:.1f} s",
        "page": run.url,
    }


def bundle_provenance(profile: Profile, run: Run) -> dict[str, Any]:
    """Return what the registered model's manifest says of the code and libraries it was made with."""
    from evctl.rollout import registry

    if run.model is None:
        return {}
    try:
        manifest = registry.manifest_of(run.model.uri, profile.store.model_dump(mode="json"))
    except EvctlError:
        return {}
    made, versions = manifest.get("provenance") or {}, manifest.get("versions") or {}
    return {
        "model digest": manifest.get("digest"),
        "git commit": made.get("git_commit") or None,
        "pipeline digest": made.get("pipeline_digest") or None,
        "libraries": ", ".join(f"{name} {version}" for name, version in versions.items()) or None,
    }


def document_of(artifact: Artifact | None, fetch: Callable[[Artifact, Path], Path]) -> dict[str, Any] | None:
    """Return a JSON artifact, or None when it is missing, too large or no JSON."""
    if artifact is None:
        return None
    try:
        if artifact.path is not None and Path(artifact.path).is_file():
            return _read(Path(artifact.path))
        with tempfile.TemporaryDirectory() as folder:
            return _read(fetch(artifact, Path(folder) / artifact.name))
    except (EvctlError, OSError):
        return None


def _read(path: Path) -> dict[str, Any] | None:
    if path.stat().st_size > MAX_DOCUMENT:
        return None
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def _outputs(backend: Backend, run_id: str) -> Outputs | None:
    try:
        return backend.outputs(run_id)
    except EvctlError:
        return None
