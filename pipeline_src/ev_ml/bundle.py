"""A model bundle: a folder written once, manifest last, verified before anything in it is unpickled.

    model.joblib     the `FaultModel`
    golden.json      rows and what the model must answer for them
    reference.json   the drift reference profile
    manifest.json    names, digests, metrics, schema, provenance, versions

The bundle's digest is over the three files' digests and the feature schema: provenance (run, time, commit) is told
in the manifest but does not change which model it is.
"""

from __future__ import annotations

import hashlib
import json
import platform
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ev_ml.errors import DataError

if TYPE_CHECKING:
    import pandas as pd

    from ev_ml.train import FaultModel

MODEL_NAME = "ev_battery_fault_classifier"
SCHEMA_VERSION = 1
MODEL, GOLDEN, REFERENCE, MANIFEST = "model.joblib", "golden.json", "reference.json", "manifest.json"
CONTENT = (MODEL, GOLDEN, REFERENCE)
LIBRARIES = ("scikit-learn", "numpy", "pandas", "joblib")
GOLDEN_ROWS = 12
TOLERANCE = 1e-6
"""Absolute difference of a probability that still counts as the same answer."""


class BundleError(DataError):
    """The bundle cannot be used."""


class IncompleteBundle(BundleError):
    """A file is missing: it was never finished, or is no bundle."""


class DigestMismatch(BundleError):
    """A file is not the one the manifest names."""


class VersionMismatch(BundleError):
    """Pickled with other library versions than are installed."""


class GoldenMismatch(BundleError):
    """The model does not answer its golden rows as recorded."""


@dataclass(frozen=True, slots=True)
class Manifest:
    """What `manifest.json` says."""

    name: str
    version: str
    digest: str
    files: Mapping[str, str]
    """sha256 by file name."""
    metrics: Mapping[str, Any]
    classes: tuple[str, ...]
    features: tuple[Mapping[str, Any], ...]
    """`name`, `unit`, `nullable` of each input, in order."""
    thresholds: Mapping[str, float]
    provenance: Mapping[str, Any]
    versions: Mapping[str, str]

    def to_json(self) -> str:
        """Return the manifest's file content."""
        return json.dumps(
            {
                "schema_version": SCHEMA_VERSION,
                "name": self.name,
                "version": self.version,
                "digest": self.digest,
                "files": dict(self.files),
                "metrics": dict(self.metrics),
                "classes": list(self.classes),
                "features": [dict(f) for f in self.features],
                "thresholds": dict(self.thresholds),
                "provenance": dict(self.provenance),
                "versions": dict(self.versions),
            },
            indent=1,
            sort_keys=True,
        )

    @classmethod
    def from_json(cls, text: str | bytes) -> Manifest:
        """Return a manifest. IncompleteBundle when it is not one."""
        try:
            document = json.loads(text)
            return cls(
                name=document["name"],
                version=document["version"],
                digest=document["digest"],
                files=document["files"],
                metrics=document["metrics"],
                classes=tuple(document["classes"]),
                features=tuple(document["features"]),
                thresholds=document["thresholds"],
                provenance=document["provenance"],
                versions=document["versions"],
            )
        except (ValueError, KeyError, TypeError) as error:
            raise IncompleteBundle(f"the manifest is not readable: {error}") from error


@dataclass(frozen=True, slots=True)
class LoadedBundle:
    """A verified bundle with its model in memory."""

    manifest: Manifest
    model: FaultModel


def versions() -> dict[str, str]:
    """Return the running Python's and libraries' versions."""
    python = ".".join(platform.python_version_tuple()[:2])
    return {"python": python, **{name: metadata.version(name) for name in LIBRARIES}}


def content_digest(files: Mapping[str, str], features: tuple[Mapping[str, Any], ...]) -> str:
    """Return the sha256 that names a bundle: over its content files' digests and the feature schema."""
    stated = json.dumps(
        {"files": {k: files[k] for k in CONTENT}, "features": [dict(f) for f in features]}, sort_keys=True
    )
    return hashlib.sha256(stated.encode()).hexdigest()


def build(
    folder: Path,
    *,
    model: Path,
    features: Path,
    evaluation: Mapping[str, Any],
    reference: Mapping[str, Any],
    provenance: Mapping[str, Any],
) -> Manifest:
    """Write a bundle into an empty folder and return its manifest.

    Args:
        evaluation: `Evaluation` as a dict. provenance: needs `data_version`; run id, digests, commit, times.
    """
    import joblib

    from ev_ml.features import FEATURE_UNITS
    from ev_ml.train import load_features

    folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(model, folder / MODEL)
    fitted: FaultModel = joblib.load(folder / MODEL)
    frame = load_features(features)
    rows = frame.iloc[:: max(1, len(frame) // GOLDEN_ROWS)].head(GOLDEN_ROWS)
    (folder / GOLDEN).write_text(json.dumps(golden(fitted, rows), indent=1))
    (folder / REFERENCE).write_text(json.dumps(dict(reference)))
    nullable = frame[list(fitted.features)].isna().any()
    schema = tuple(
        {"name": name, "unit": FEATURE_UNITS[name], "nullable": bool(nullable[name])} for name in fitted.features
    )
    files = {name: _sha256(folder / name) for name in CONTENT}
    digest = content_digest(files, schema)
    kept = ("accuracy", "recall", "pr_auc", "roc_auc", "false_alarms_per_1000", "brier", "ece", "sessions", "vehicles")
    manifest = Manifest(
        name=MODEL_NAME,
        version=f"{provenance['data_version']}-{digest[:12]}",
        digest=digest,
        files=files,
        metrics={
            **{key: evaluation[key] for key in kept},
            "per_class_recall": {name: each["recall"] for name, each in evaluation["per_class"].items()},
        },
        classes=fitted.classes,
        features=schema,
        thresholds=fitted.thresholds,
        provenance=dict(provenance),
        versions=versions(),
    )
    partial = folder / (MANIFEST + ".part")
    partial.write_text(manifest.to_json())
    partial.replace(folder / MANIFEST)
    return manifest


def golden(model: FaultModel, rows: pd.DataFrame) -> dict[str, Any]:
    """Return rows and the model's answers; NaN is null."""
    probability = model.predict_proba(rows)
    values = rows[list(model.features)].astype(object).where(rows[list(model.features)].notna(), None)
    return {
        "features": list(model.features),
        "rows": values.to_numpy().tolist(),
        "probabilities": [[float(p) for p in row] for row in probability],
        "classes": [str(name) for name in model.predict(rows)],
        "tolerance": TOLERANCE,
    }


def verify(folder: Path) -> Manifest:
    """Check completeness, digests and library versions; nothing is unpickled.

    Raises:
        IncompleteBundle, DigestMismatch, VersionMismatch.
    """
    if not (folder / MANIFEST).is_file():
        raise IncompleteBundle("no manifest.json: this is no finished bundle", hint="register the model again")
    manifest = Manifest.from_json((folder / MANIFEST).read_bytes())
    for name in CONTENT:
        if not (folder / name).is_file():
            raise IncompleteBundle(f"{name} is missing", hint="register the model again")
        if _sha256(folder / name) != manifest.files.get(name):
            raise DigestMismatch(f"{name} is not the file the manifest names", hint="fetch or register it again")
    if content_digest(manifest.files, manifest.features) != manifest.digest:
        raise DigestMismatch("the manifest's digest is not that of its files", hint="fetch or register it again")
    wrong = [f"{k} {v} (here {versions()[k]})" for k, v in manifest.versions.items() if versions().get(k, v) != v]
    if wrong:
        raise VersionMismatch(
            f"the model was pickled with {', '.join(wrong)}", hint="use the image it was trained in, or train again"
        )
    return manifest


def load(folder: Path) -> LoadedBundle:
    """Verify a bundle, load its model and check its golden rows. BundleError, whatever is wrong with it."""
    import joblib

    manifest = verify(folder)
    try:
        loaded = LoadedBundle(manifest, joblib.load(folder / MODEL))
    except Exception as error:  # a pickle may raise anything
        raise BundleError(
            f"{MODEL} is the recorded file, and cannot be loaded: {type(error).__name__}: {error}",
            hint="use the image it was trained in, or train again",
        ) from error
    check_golden(loaded, folder)
    return loaded


def check_golden(loaded: LoadedBundle, folder: Path) -> None:
    """Raise GoldenMismatch unless the model answers its golden rows as recorded."""
    import numpy as np
    import pandas as pd

    try:
        wanted = json.loads((folder / GOLDEN).read_text())
        rows = pd.DataFrame(wanted["rows"], columns=wanted["features"], dtype=float)
        answer = loaded.model.predict_proba(rows)
        worst = float(np.abs(answer - np.asarray(wanted["probabilities"])).max())
        allowed = float(wanted["tolerance"])
    except Exception as error:  # the model's own code runs here
        raise GoldenMismatch(f"the golden rows cannot be answered: {type(error).__name__}: {error}") from error
    if not worst <= allowed:
        raise GoldenMismatch(f"golden rows differ by {worst:.2g}, {allowed:.2g} is allowed")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
