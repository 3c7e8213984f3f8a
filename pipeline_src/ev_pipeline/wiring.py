"""The pipeline's graph: `build_pipeline(settings)` is a pure function of an environment's settings."""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from kfp import dsl, kubernetes

from ev_pipeline import components, embed
from ev_pipeline.settings import NEVER_CACHED, PipelineSettings

PIPELINE_NAME = "ev-battery-health-fault-pipeline"
DESCRIPTION = "Production-grade Kubeflow pipeline for EV Battery Health Fault Classification"
MODEL_NAME = "ev_battery_fault_classifier"
UNSET_IMAGE = "image-unset-see-profiles"
"""What an unset image compiles to; `upload` and `run` refuse it."""
DIGEST_PLACE = "digest-of-this-pipeline"
"""Where the compiler writes the compiled pipeline's digest, for a model's provenance."""
BACKOFF = "10s"
USES_STORE = frozenset({"register_fault_model", "deploy_model_kserve", "setup_drift_monitoring"})
STORE_KEYS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
"""Keys of the store's secret, which are also the variables that obstore reads."""


def build_pipeline(settings: PipelineSettings) -> Any:
    """Return the kfp pipeline of an environment: nine tasks, the gate, and the notification that always runs."""
    make = _maker(settings)
    data = settings.data.model_dump(mode="json", exclude_none=True)
    store = settings.service.get("store") or {"uri": settings.store}

    @dsl.pipeline(name=PIPELINE_NAME, description=DESCRIPTION)  # type: ignore[untyped-decorator]
    def ev_battery_pipeline(
        data_version: str = "v1",
        accuracy_threshold: float = settings.accuracy_threshold,
        environment: str = settings.environment,
    ) -> None:
        told = make(
            "notify_pipeline_status",
            run_id=dsl.PIPELINE_JOB_ID_PLACEHOLDER,
            environment=environment,
            notify=settings.notify,
        )
        with dsl.ExitHandler(told, name="ev-battery-health-fault"):
            raw = make("ingest_battery_data", data_version=data_version, data=data)
            clean = make("validate_battery_data", raw_data=raw.outputs["raw_data"], data=data)
            features = _features(make, clean.outputs["clean_data"], _shards(settings))
            model = make("train_fault_classifier", features=features.outputs["features"], environment=environment)
            judged = make("evaluate_fault_model", model=model.outputs["model"], features=features.outputs["features"])
            with _gates(settings, judged, accuracy_threshold):
                registered = make(
                    "register_fault_model",
                    model=model.outputs["model"],
                    features=features.outputs["features"],
                    evaluation=judged.outputs["evaluation"],
                    data_version=data_version,
                    store=store,
                    run_id=dsl.PIPELINE_JOB_ID_PLACEHOLDER,
                )
                deployed = None
                if settings.deploy == "auto":
                    deployed = make(
                        "deploy_model_kserve",
                        model_uri=registered.outputs["model_uri"],
                        service=settings.service,
                        run_id=dsl.PIPELINE_JOB_ID_PLACEHOLDER,
                        environment=environment,
                    )
                watched = make(
                    "setup_drift_monitoring",
                    features=features.outputs["features"],
                    model_name=MODEL_NAME,
                    model_uri=registered.outputs["model_uri"],
                    store=store,
                )
                if deployed is not None:
                    # the monitor is of the model that serves: it is set once that is so
                    watched.after(deployed)

    return ev_battery_pipeline


def _shards(settings: PipelineSettings) -> int:
    """Return how many shards to compile; one machine's two cores gain nothing from more processes."""
    return 1 if settings.service.get("backend") == "local" else settings.data.shards


def _features(make: Callable[..., Any], clean_data: Any, shards: int) -> Any:
    """Wire the features as one task, or as shards over vehicles and a task that joins them."""
    name = "generate_battery_features"
    if shards == 1:
        return make(name, clean_data=clean_data)
    with dsl.ParallelFor(list(range(shards)), name="feature-shards") as shard:
        part = make(name, body="generate_feature_shard", clean_data=clean_data, shard=shard, shards=shards)
    return make(name, body="merge_feature_shards", parts=dsl.Collected(part.outputs["part"]))


@contextmanager
def _gates(settings: PipelineSettings, judged: Any, threshold: Any) -> Iterator[None]:
    """Open the gates one inside the other: `and` would compile to its last condition only (kubeflow-facts 15b)."""
    with ExitStack() as gates:
        gates.enter_context(dsl.If(judged.outputs["accuracy"] >= threshold, name="accuracy-gate"))
        if settings.gates.min_recall is not None:
            gates.enter_context(dsl.If(judged.outputs["recall"] >= settings.gates.min_recall, name="recall-gate"))
        yield


def _maker(settings: PipelineSettings) -> Callable[..., Any]:
    """Return `make(task name, **inputs)`: the component decorated for this image, the task with its policy.

    `body` names the component's function where it is not the task's.
    """
    image = settings.image.name or UNSET_IMAGE
    # one machine's steps run what is installed there: pip would change it under the other runs
    embedded = settings.image.mode == "embedded" and settings.service.get("backend") != "local"
    packages = list(settings.image.packages) or (embed.pins() if embedded else [])

    def make(name: str, *, body: str | None = None, **inputs: Any) -> Any:
        function = getattr(components, body or name)
        if embedded:
            with tempfile.TemporaryDirectory() as empty:
                component = dsl.component(
                    function, base_image=image, packages_to_install=packages, embedded_artifact_path=empty
                )
            component = embed.with_source(component, function)
        else:
            component = dsl.component(function, base_image=image, install_kfp_package=False)
        if body == "merge_feature_shards":
            # whoever waits for the features knows them by this task's name
            component.component_spec.name = name.replace("_", "-")
        task = component(**inputs)
        _policy(task, name, settings)
        return task

    return make


def _policy(task: Any, name: str, settings: PipelineSettings) -> None:
    step = settings.step(name)
    task.set_caching_options(step.cache and name not in NEVER_CACHED)
    if step.cpu:
        task.set_cpu_request(step.cpu).set_cpu_limit(step.cpu)
    if step.memory:
        task.set_memory_request(step.memory).set_memory_limit(step.memory)
    if step.accelerator:
        task.set_accelerator_type(step.accelerator.type).set_accelerator_limit(step.accelerator.count)
    if step.retries:
        task.set_retry(step.retries, backoff_duration=BACKOFF, backoff_factor=2.0, backoff_max_duration="300s")
    if step.timeout_s:
        kubernetes.set_timeout(task, step.timeout_s)
    if name == "train_fault_classifier":
        # the parameter, exported by the body, wins; the constant is for whatever looks before the body runs
        task.set_env_variable("ENVIRONMENT", settings.environment)
    if name == "register_fault_model":
        task.set_env_variable("EV_PIPELINE_DIGEST", DIGEST_PLACE)
    for secret in settings.secrets:
        if name in secret.tasks:
            kubernetes.use_secret_as_volume(task, secret_name=secret.name, mount_path=secret.mount_path)
    credentials = settings.service.get("store", {}).get("secret")
    if credentials and name in USES_STORE:
        kubernetes.use_secret_as_env(task, secret_name=credentials, secret_key_to_env={key: key for key in STORE_KEYS})
