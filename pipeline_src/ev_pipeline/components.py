"""The steps as KFP sees them: paths in, one call into `ev_ml` or evctl, paths out. Decorated by `wiring`.

kfp cuts each function's source out of this file, so a body imports what it needs and knows no module constant; and it
reads the annotations, so this module has no postponed ones.
"""

from typing import List, NamedTuple  # noqa: UP035  kfp knows no list[Dataset]

from kfp import dsl


def ingest_battery_data(data_version: str, data: dict, raw_data: dsl.Output[dsl.Dataset]) -> None:
    """Bring a data version's raw telemetry in."""
    from pathlib import Path

    from ev_ml.ingest import ingest

    report = ingest(data_version, Path(raw_data.path), data=data)
    raw_data.metadata.update(summary=report.summary, rows=report.rows, vehicles=report.vehicles, digest=report.digest)
    print(report.summary)


def validate_battery_data(
    data: dict,
    raw_data: dsl.Input[dsl.Dataset],
    clean_data: dsl.Output[dsl.Dataset],
    report: dsl.Output[dsl.Artifact],
) -> None:
    """Set bad rows aside; fail when there are too many."""
    from pathlib import Path

    from ev_ml.split import check_labels
    from ev_ml.validate import validate

    found = validate(
        Path(raw_data.path),
        Path(clean_data.path),
        max_quarantined_share=data["max_quarantined_share"],
        min_vehicles=int(data["min_vehicles"]),
    )
    Path(report.path).write_text(found.to_json())
    # here and not in training, which is retried: data do not get better by trying again
    check_labels(Path(clean_data.path))
    clean_data.metadata.update(summary=found.summary, rows=found.kept, quarantined=found.quarantined)
    # what the bundle's provenance says of the data travels with it
    clean_data.metadata["data_digest"] = raw_data.metadata.get("digest", "")
    print(found.summary, found.reasons)


def generate_battery_features(clean_data: dsl.Input[dsl.Dataset], features: dsl.Output[dsl.Dataset]) -> None:
    """Compute one row of features a vehicle's session."""
    from pathlib import Path

    from ev_ml.features import generate

    found = generate(Path(clean_data.path), Path(features.path))
    features.metadata.update(summary=found.summary, sessions=found.sessions)
    features.metadata["data_digest"] = clean_data.metadata.get("data_digest", "")
    print(found.summary)


def generate_feature_shard(
    clean_data: dsl.Input[dsl.Dataset], shard: int, shards: int, part: dsl.Output[dsl.Dataset]
) -> None:
    """Compute the features of every `shards`-th row group of vehicles."""
    from pathlib import Path

    from ev_ml.features import generate

    found = generate(Path(clean_data.path), Path(part.path), shard=shard, shards=shards)
    part.metadata.update(summary=found.summary, sessions=found.sessions)
    part.metadata["data_digest"] = clean_data.metadata.get("data_digest", "")
    print(found.summary)


def merge_feature_shards(
    parts: dsl.Input[List[dsl.Dataset]],  # noqa: UP006
    features: dsl.Output[dsl.Dataset],
) -> None:
    """Join the shards into what one task would have written."""
    from pathlib import Path

    from ev_ml.features import merge

    found = merge([Path(part.path) for part in parts], Path(features.path))
    features.metadata.update(summary=found.summary, sessions=found.sessions)
    features.metadata["data_digest"] = parts[0].metadata.get("data_digest", "")
    print(found.summary)


def train_fault_classifier(environment: str, features: dsl.Input[dsl.Dataset], model: dsl.Output[dsl.Model]) -> None:
    """Choose, fit and calibrate the fault classifier (ev_fault_model.joblib)."""
    import os

    os.environ["ENVIRONMENT"] = environment
    from pathlib import Path

    from ev_ml.train import train

    report = train(Path(features.path), Path(model.path))
    model.metadata.update(
        summary=report.summary, framework="scikit-learn", file="ev_fault_model.joblib", **report.candidates
    )
    print(report.summary)


def evaluate_fault_model(
    model: dsl.Input[dsl.Model],
    features: dsl.Input[dsl.Dataset],
    metrics: dsl.Output[dsl.Metrics],
    classification_metrics: dsl.Output[dsl.ClassificationMetrics],
    evaluation: dsl.Output[dsl.Artifact],
    page: dsl.Output[dsl.HTML],
) -> NamedTuple("Outputs", [("accuracy", float), ("recall", float)]):  # type: ignore[valid-type]
    """Judge the model on held-out vehicles."""
    import json
    from pathlib import Path
    from typing import NamedTuple

    from ev_ml.evaluate import evaluate
    from ev_ml.evaluation_html import evaluation_html

    found = evaluate(Path(model.path), Path(features.path))
    Path(evaluation.path).write_text(found.to_json())
    Path(page.path).write_text(evaluation_html(json.loads(found.to_json())))
    for name in ("accuracy", "recall", "pr_auc", "roc_auc", "false_alarms_per_1000", "brier", "ece"):
        metrics.log_metric(name, getattr(found, name))
    metrics.metadata["summary"] = found.summary
    classification_metrics.log_confusion_matrix(list(found.classes), found.confusion)
    classification_metrics.log_roc_curve([x for x, _ in found.roc], [y for _, y in found.roc], found.roc_thresholds)
    # kfp writes no file for these, and a local cache takes an artifact without one for lost
    Path(metrics.path).write_text(found.to_json())
    Path(classification_metrics.path).write_text(json.dumps(found.confusion))
    print(found.summary)
    return NamedTuple("Outputs", [("accuracy", float), ("recall", float)])(found.accuracy, found.recall)


def register_fault_model(
    model: dsl.Input[dsl.Model],
    features: dsl.Input[dsl.Dataset],
    evaluation: dsl.Input[dsl.Artifact],
    data_version: str,
    store: dict,
    run_id: str,
    bundle: dsl.Output[dsl.Model],
) -> NamedTuple("Outputs", [("model_uri", str), ("model_version", str), ("model_digest", str)]):  # type: ignore[valid-type]
    """Build the model bundle and publish it to the store, once."""
    import json
    import os
    from pathlib import Path
    from typing import NamedTuple

    from ev_ml.bundle import build
    from ev_ml.reference_of import reference_document
    from evctl.rollout.registry import publish

    folder = Path(bundle.path)
    provenance = {
        "data_version": data_version,
        "data_digest": features.metadata.get("data_digest", ""),
        "run_id": run_id,
        # the image knows its commit; a pipeline that named it would change with every commit
        "git_commit": os.environ.get("EV_GIT_COMMIT", ""),
        "pipeline_digest": os.environ.get("EV_PIPELINE_DIGEST", ""),
    }
    manifest = build(
        folder,
        model=Path(model.path),
        features=Path(features.path),
        evaluation=json.loads(Path(evaluation.path).read_text()),
        reference=reference_document(Path(features.path), Path(model.path)),
        provenance=provenance,
    )
    published = publish(folder, store)
    bundle.metadata.update(
        summary=f"{published.version}{' (unchanged)' if published.unchanged else ''}", digest=manifest.digest
    )
    print(f"registered {published.version} at {published.uri}")
    return NamedTuple("Outputs", [("model_uri", str), ("model_version", str), ("model_digest", str)])(
        published.uri, published.version, manifest.digest
    )


def deploy_model_kserve(model_uri: str, service: dict, run_id: str, environment: str) -> NamedTuple(  # type: ignore[valid-type]
    "Outputs", [("model", str), ("revision", int), ("summary", str)]
):
    """Promote the registered model with proof; what served before comes back when it does not prove itself."""
    from typing import NamedTuple

    from evctl.rollout.promotion import deploy

    done = deploy(service, model_uri, run_id, f"pipeline {environment}")
    told = f"{'serving' if done['changed'] else 'unchanged:'} {done['model']}, revision {done['revision']}"
    print(told)
    return NamedTuple("Outputs", [("model", str), ("revision", int), ("summary", str)])(
        done["model"], done["revision"], told
    )


def setup_drift_monitoring(
    features: dsl.Input[dsl.Dataset],
    model_name: str,
    model_uri: str,
    store: dict,
    reference_profile: dsl.Output[dsl.Artifact],
) -> None:
    """Keep the registered model's reference profile where the drift check looks for it."""
    from pathlib import Path

    from ev_ml.drift_profile import profile_of
    from ev_ml.reference import ReferenceProfile
    from evctl.rollout.registry import fetch, set_monitor

    folder = fetch(model_uri, store, Path(reference_profile.path))
    reference = ReferenceProfile.read(folder / "reference.json")
    rows = profile_of(Path(features.path), reference).rows
    set_monitor(model_name, model_uri, store)
    reference_profile.metadata.update(summary=f"reference of {rows:,} rows kept", model_name=model_name)
    print(f"{model_name}: reference of {rows:,} rows kept for {model_uri}")


def notify_pipeline_status(
    status: dsl.PipelineTaskFinalStatus, run_id: str, environment: str, notify: dict
) -> NamedTuple("Outputs", [("outcome", str), ("summary", str), ("undelivered", str)]):  # type: ignore[valid-type]
    """Tell truly how the run ended: looked up by run id, since the status handed in may not know."""
    import json
    import os
    from pathlib import Path
    from typing import NamedTuple

    from evctl.notify.sending import notify_run

    record_file, told = os.environ.get("EVCTL_RUN_RECORD"), None
    if record_file:
        record = json.loads(Path(record_file).read_text())
        # a pod has no place to remember in: there the receiver drops a repeat by its key
        told = Path(record_file).parent / "told"
    else:
        from evctl.backends.metadata.record import record_of

        record = record_of(run_id, environment)
    report = notify_run(record, notify, marker_dir=told)
    print(report.log)
    return NamedTuple("Outputs", [("outcome", str), ("summary", str), ("undelivered", str)])(
        report.message.state, report.summary, report.undelivered
    )
