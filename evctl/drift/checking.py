"""Check new data for drift against the model that serves: bring it in, make features, compare, keep.

The data goes through the pipeline's own functions, streamed; features are cached by the data's digest.
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evctl.drift import history
from evctl.errors import EvctlError, NotFoundError, UnavailableError, UsageError, trim
from evctl.profile import MODEL_NAME, Profile
from evctl.state import home

if TYPE_CHECKING:
    from ev_ml.reference import ReferenceProfile

AD_HOC = "given by --data"
"""Name under which a URI from the command line is brought in."""

HISTOGRAMS = 8
"""Features whose histograms are kept with a check, for the report."""

KEEP_CACHED = 5
"""Features files kept; older ones are removed."""

Submit = Callable[[str], str]
"""Starts a run with a data version and returns its id."""

IsOpen = Callable[[str], bool]
"""Whether a run has not ended."""


@dataclass(frozen=True, slots=True)
class Source:
    """The model whose reference is compared with."""

    version: str
    uri: str
    folder: Path


@dataclass(frozen=True, slots=True)
class Prepared:
    """New data as features, or what is broken about it."""

    digest: str
    features: Path | None
    defects: tuple[str, ...] = ()
    sample: Path | None = None
    """Raw telemetry of a few of its vehicles."""


def check(
    profile: Profile,
    *,
    data_version: str | None = None,
    uri: str | None = None,
    submit: Submit | None = None,
    is_open: IsOpen | None = None,
    now: datetime | None = None,
) -> dict[str, Any]:
    """Compare data with the serving model's reference, keep the check, return `evctl drift`'s document.

    Args:
        profile: the environment.
        data_version: a data version of the profile, or
        uri: a CSV or Parquet file.
        submit: given with `--retrain`; called when the decision says so.
        is_open: asks whether an earlier retraining run has not ended.
        now: time of the check.

    Raises:
        UsageError: neither or both of version and URI, an unknown version, `--retrain` with a URI, bad data.
        NotFoundError: there is no model to compare with.
    """
    from ev_ml.drift import DriftConfig, DriftReport, compare
    from ev_ml.drift_profile import profile_of
    from ev_ml.drift_units import blame
    from ev_ml.errors import DataError
    from ev_ml.sources import shown

    if (data_version is None) == (uri is None):
        raise UsageError("name the data", hint="evctl drift --data-version v2, or --data FILE")
    if submit is not None and data_version is None:
        raise UsageError(
            "--retrain needs a data version, since a run is submitted with one",
            hint="add the file to data.versions in the profile",
        )
    source = find_model(profile)
    config = DriftConfig.from_settings(profile.drift.model_dump())
    histograms: list[dict[str, Any]] = []
    try:
        reference, predict = load_model(source)
        prepared = prepare(profile, data_version, uri)
        if prepared.features is None:
            report = DriftReport("DATA_QUALITY", 0, 0, reasons=prepared.defects)
        else:
            counted = profile_of(prepared.features, reference, predict=predict)
            report = compare(reference, counted, config)
            if report.verdict == "DATA_QUALITY" and prepared.sample is not None:
                culprit = blame(prepared.sample, reference, config)
                report = replace(report, reasons=(*((culprit,) if culprit else ()), *report.reasons))
            names = [feature.name for feature in report.features[:HISTOGRAMS]]
            histograms = histograms_of(reference, counted, names)
    except DataError as error:
        raise UsageError(error.message, hint=error.hint) from error
    document = report.to_json()
    at = now or datetime.now(UTC)
    past = history.read(profile.name)
    decision = history.decide(
        report.verdict, source.version, past, profile.drift, at, _open_run(past, is_open), prepared.digest
    )
    run = submit(data_version) if decision.retrain and submit is not None and data_version else None
    document = {
        "verdict": document.pop("verdict"),
        "retrain": decision.retrain,
        **document,
        "at": at.strftime("%Y-%m-%dT%H:%M:%SZ"),
        "env": profile.name,
        "data": data_version or shown(str(uri)),
        "data_digest": prepared.digest,
        "model": source.version,
        "retrain_reason": decision.reason,
        "retrain_run": run,
    }
    history.append(profile.name, {**document, "histograms": histograms})
    return document


def find_model(profile: Profile) -> Source:
    """Return the model that serves, else the last one registered with a monitor, fetched and verified."""
    from evctl.rollout import registry

    store = profile.store.model_dump(mode="json")
    uri = live_model(profile)
    if uri is None:
        try:
            uri = str(registry.monitor(MODEL_NAME, store)["model_uri"])
        except NotFoundError:
            found = registry.models(store, MODEL_NAME)
            if not found:
                raise NotFoundError(
                    f"no model is registered in {profile.name} to compare with",
                    hint=f"evctl run --env {profile.name}",
                ) from None
            uri = str(max(found, key=_registered_at)["uri"])
    version = uri.rstrip("/").rsplit("/", 1)[-1]
    folder = home() / "cache" / "models" / hashlib.sha256(uri.encode()).hexdigest()[:16]
    return Source(version, uri, _fetched(uri, store, folder))


def live_model(profile: Profile) -> str | None:
    """Return the URI of the model that the release ledger says is live, if any."""
    from evctl.rollout.promotion import open_world
    from evctl.rollout.target import ServiceTarget

    if find_spec(f"evctl.rollout.serving.{'local' if profile.backend == 'local' else 'kserve'}") is None:
        return None
    world = open_world(ServiceTarget.of(profile.service()))
    live = world.ledger().read()[0].live
    return live.uri if live else None


def load_model(source: Source) -> tuple[ReferenceProfile, Any]:
    """Return a bundle's reference profile and its `predict_proba`."""
    from ev_ml.bundle import load
    from ev_ml.reference import ReferenceProfile

    loaded = load(source.folder)
    return ReferenceProfile.read(source.folder / "reference.json"), loaded.model.predict_proba


def prepare(profile: Profile, data_version: str | None, uri: str | None) -> Prepared:
    """Bring data in and compute its features, from the cache when the same bytes were checked before."""
    from ev_ml.drift_units import sample_of
    from ev_ml.errors import DataError
    from ev_ml.features import generate
    from ev_ml.ingest import ingest
    from ev_ml.sources import MissingColumnError
    from ev_ml.validate import validate

    settings = profile.data.model_dump(mode="json")
    name = data_version or AD_HOC
    if uri is not None:
        first: dict[str, Any] = next(iter(settings["versions"].values()), {})
        settings["versions"] = {
            **settings["versions"],
            name: {"uri": uri, "columns": first.get("columns") or {}},
        }
    cache = home() / "cache" / "drift"
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache, prefix="work-") as work:
            raw, clean, features = (Path(work) / f"{part}.parquet" for part in ("raw", "clean", "features"))
            try:
                brought = ingest(name, raw, data=settings)
            except MissingColumnError as error:
                return Prepared("", None, (error.message,))
            kept = cache / f"{brought.digest.removeprefix('sha256:')[:24]}-{code_digest()}.parquet"
            if kept.exists():
                kept.touch()
                return Prepared(brought.digest, kept, sample=kept.with_suffix(".sample"))
            try:
                limit = profile.data.max_quarantined_share
                validate(raw, clean, max_quarantined_share=limit, min_vehicles=0)
            except DataError as error:
                return Prepared(brought.digest, None, (error.message,))
            generate(clean, features)
            sample_of(clean, kept.with_suffix(".sample"))
            features.replace(kept)
    except OSError as error:
        raise UnavailableError(f"{cache} cannot be used: {trim(str(error))}", hint="evctl doctor") from error
    _prune(cache)
    return Prepared(brought.digest, kept, sample=kept.with_suffix(".sample"))


def code_digest() -> str:
    """Return a digest of the code that makes features: changed code is never answered from the cache."""
    import ev_ml

    folder = Path(ev_ml.__file__).parent
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*.py")):
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()[:12]


def histograms_of(reference: ReferenceProfile, counted: Any, names: list[str]) -> list[dict[str, Any]]:
    """Return the shares of some features over the reference's bins, then and now."""
    from ev_ml.drift_stats import shares

    columns = {column.name: column for column in reference.features}
    return [
        {
            "name": name,
            "unit": columns[name].unit,
            "low": columns[name].low,
            "high": columns[name].high,
            "reference": [round(float(s), 5) for s in shares(columns[name].counts)],
            "new": [round(float(s), 5) for s in shares(counted.features[name].counts)],
        }
        for name in names
    ]


def _fetched(uri: str, store: dict[str, Any], folder: Path) -> Path:
    """Fetch a bundle once; a version never changes, and `load` verifies its digests each time."""
    from evctl.rollout import registry

    if (folder / "manifest.json").exists():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(dir=folder.parent, prefix="work-"))
    try:
        registry.fetch(uri, store, work)
        shutil.rmtree(folder, ignore_errors=True)
        work.replace(folder)
    except EvctlError:
        shutil.rmtree(work, ignore_errors=True)
        raise
    return folder


def _registered_at(manifest: dict[str, Any]) -> str:
    provenance = manifest.get("provenance") or {}
    return str(provenance.get("created_at") or provenance.get("at") or manifest.get("version"))


def _open_run(past: list[dict[str, Any]], is_open: IsOpen | None) -> str | None:
    run = history.last_retraining(past)
    return run if run and is_open is not None and is_open(run) else None


def _prune(cache: Path) -> None:
    files = sorted(cache.glob("*.parquet"), key=lambda path: path.stat().st_mtime, reverse=True)
    for path in files[KEEP_CACHED:]:
        path.unlink(missing_ok=True)
        path.with_suffix(".sample").unlink(missing_ok=True)
