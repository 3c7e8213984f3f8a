"""A profile compiled to the pipeline's YAML: the same profile and code give the same bytes."""

from __future__ import annotations

import contextlib
import difflib
import hashlib
import io
import json
import tempfile
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evctl.errors import RefusedError, UsageError
from evctl.profile import Profile

SHOWN = "evctl plan shows the parameters"
VERSIONED_FILE = "ev_battery_fault_pipeline.yaml"


@dataclass(frozen=True, slots=True)
class CompiledPipeline:
    """A compiled package, which is two YAML documents once a secret is used.

    `digest` is the sha256 of its text as it was before the digest itself was written into it, for a model's provenance.
    """

    text: str
    digest: str
    spec: Mapping[str, Any]
    platform: Mapping[str, Any]

    def write(self, path: Path) -> None:
        """Write the package; a reader never sees half of it."""
        partial = path.with_name(path.name + ".part")
        partial.write_text(self.text)
        partial.replace(path)


def compile_profile(profile: Profile) -> CompiledPipeline:
    """Compile the pipeline for an environment."""
    import yaml

    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        from kfp import compiler

        from ev_pipeline.wiring import DIGEST_PLACE, build_pipeline

        with tempfile.TemporaryDirectory() as folder:
            target = Path(folder) / "pipeline.yaml"
            compiler.Compiler().compile(build_pipeline(profile.pipeline_settings()), str(target))
            blank = target.read_text()
    digest = hashlib.sha256(blank.encode()).hexdigest()
    text = blank.replace(DIGEST_PLACE, digest)
    # libyaml's parser where it is there: a package with its source in it is some 300 kB
    documents = list(yaml.load_all(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader)))
    platform = documents[1] if len(documents) > 1 else {}
    return CompiledPipeline(text, digest, documents[0], platform)


def difference(compiled: CompiledPipeline, path: Path) -> str:
    """Return a unified diff from a versioned file to what would be compiled now; empty when it is current."""
    before = path.read_text().splitlines() if path.is_file() else []
    return "\n".join(
        difflib.unified_diff(before, compiled.text.splitlines(), str(path), "compiled now", lineterm="", n=2)
    )


def require_image(profile: Profile) -> None:
    """Refuse a profile whose image a cluster could not run. The local engine needs none."""
    if profile.backend == "local":
        return
    where = f"profiles/{profile.name}.yaml"
    if profile.image.name is None:
        raise RefusedError(
            f"profile {profile.name} names no image",
            hint=f"set in {where}: image: {{name: <registry>/<name>@sha256:<digest>}}",
        )
    if profile.image.mode == "prebuilt" and "@sha256:" not in profile.image.name:
        raise RefusedError(
            f"image {profile.image.name} of profile {profile.name} is not named by digest",
            hint=f"set in {where}: image: {{name: <registry>/<name>@sha256:<digest>}}",
        )


def declared(spec: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Return the pipeline's parameters: `parameterType` and, where there is one, `defaultValue`."""
    return dict(spec.get("root", {}).get("inputDefinitions", {}).get("parameters", {}))


def coerce(spec: Mapping[str, Any], raw: Mapping[str, str]) -> dict[str, Any]:
    """Return parameters typed as the spec declares, its defaults filled in.

    Raises:
        UsageError: an unknown parameter (the known ones are listed), one of another type, or a missing one.
    """
    known = declared(spec)
    for name in raw:
        if name not in known:
            raise UsageError(
                f"no parameter {name}; the pipeline has {', '.join(sorted(known))}",
                hint=SHOWN,
            )
    values: dict[str, Any] = {}
    for name, definition in known.items():
        if name in raw:
            values[name] = _typed(name, raw[name], str(definition["parameterType"]))
        elif "defaultValue" in definition:
            values[name] = definition["defaultValue"]
        elif not definition.get("isOptional"):
            raise UsageError(f"parameter {name} is missing", hint=f"add --param {name}=<value>")
    return values


def _typed(name: str, text: str, kind: str) -> Any:
    words = {"NUMBER_DOUBLE": "a number", "NUMBER_INTEGER": "a whole number", "BOOLEAN": "true or false"}
    try:
        if kind == "STRING":
            return text
        if kind == "NUMBER_DOUBLE":
            return _finite(float(text))
        if kind == "NUMBER_INTEGER":
            return int(text)
        if kind == "BOOLEAN":
            return {"true": True, "false": False}[text.lower()]
        value = json.loads(text)
        if isinstance(value, list if kind == "LIST" else dict):
            return value
    except (ValueError, KeyError):
        pass
    raise UsageError(
        f"parameter {name} must be {words.get(kind, f'JSON of type {kind}')}, not {text!r}",
        hint=SHOWN,
    )


def _finite(value: float) -> float:
    if value != value or value in (float("inf"), float("-inf")):
        raise ValueError
    return value
