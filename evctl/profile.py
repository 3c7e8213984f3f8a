"""An environment as one frozen typed value. The file formats and where values come from are `profile_files`' business."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, field_validator

from ev_pipeline.settings import (
    DataSettings,
    GateSettings,
    ImageSettings,
    PipelineSettings,
    SecretMount,
    Settings,
    StepSettings,
    TaskName,
)
from evctl.cron import cron_fields
from evctl.errors import UsageError
from evctl.shapes import GrpcAddress, Url, VariableName

SERVICE_NAME = "ev-battery-fault-classifier"
MODEL_NAME = "ev_battery_fault_classifier"
INSTALLING_S = 600.0
"""Seconds for a predictor that installs its packages first: some ninety, on a busy node in more than five minutes."""
PIPELINE_NAME = "ev-battery-health-fault-pipeline"


class AuthSettings(Settings):
    """How to be let in. Values come from the environment, a file or a command, never from the profile."""

    kind: Literal["none", "token", "cookie", "kubeconfig", "in_cluster"] = "none"
    token_env: VariableName = None
    """Name of the variable that holds the token (or the cookie)."""
    token_file: str | None = None
    """File that holds it; read anew at each renewal."""
    token_command: tuple[str, ...] = ()
    """Command that prints it on stdout; run anew at each renewal."""


class KubeflowSettings(Settings):
    """How to reach Kubeflow Pipelines and ML Metadata."""

    host: Url = None
    """URL of the KFP API; None forwards a port through the Kubernetes API."""
    metadata_host: GrpcAddress = None
    """`host:port` of ML Metadata's gRPC service; None forwards a port."""
    system_namespace: str = "kubeflow"
    """Where ml-pipeline, metadata-grpc-service and the object store run."""
    context: str | None = None
    """Context of the kubeconfig; None is its current one."""
    auth: AuthSettings = Field(default_factory=AuthSettings)
    ca_file: str | None = None
    request_timeout_s: Annotated[float, Field(gt=0)] = 10.0
    """Seconds for one request."""
    deadline_s: Annotated[float, Field(gt=0)] = 60.0
    """Seconds for one request with all its retries; a dead endpoint is told within 5 s all the same."""
    pipeline_root: str | None = None
    service_account: str | None = None
    object_store_endpoint: str | None = None
    """Endpoint of the artifact store; None reads it from ML Metadata's session info, or forwards a port."""


class ServingSettings(Settings):
    """The InferenceService (or the local ModelServer) a model is promoted to."""

    name: str = SERVICE_NAME
    namespace: str | None = None
    """None is the profile's."""
    mode: Literal["auto", "Standard", "Knative"] = "auto"
    runtime: str | None = None
    """ServingRuntime; None makes one of our image, named by its digest."""
    take_over: bool = False
    """Take over fields of the InferenceService that somebody else manages (server-side apply's force)."""
    image: str | None = None
    """The predictor's image, by digest; None (or empty, as an unset variable is) is the profile's own, where it is
    prebuilt. An embedded profile without one gets a predictor that installs its packages and our source at start."""
    service_account: str | None = None
    """The predictor's; None is the service's own name where the store has a secret (`secrets apply --store` makes it)."""
    min_replicas: Annotated[int, Field(ge=0)] = 1
    cpu: str = "1"
    memory: str = "2Gi"
    port: Annotated[int, Field(ge=0, le=65535)] = 0
    """Local only: the stable address's port; 0 picks a free one once and keeps it."""
    proof_timeout_s: Annotated[float, Field(gt=0)] = 300.0
    """Seconds for a new release to prove itself before the previous one is restored; where it says nothing and the
    predictor installs its packages at start, 600, which is also when a Deployment gives a rollout up."""
    max_recall_drop: Annotated[float, Field(ge=0, le=1)] = 0.02
    """How much worse than the live model's recorded recall a candidate may be."""
    history_limit: Annotated[int, Field(ge=2, le=200)] = 50


class ChannelSettings(Settings):
    """One notification channel. The URL itself is a secret: name where it is."""

    name: str
    kind: Literal["apprise", "webhook"] = "apprise"
    url_env: VariableName = None
    url_file: str | None = None
    """File (for example /secrets/NOTIFY_URL) that holds the URL."""
    hmac_env: VariableName = None
    hmac_file: str | None = None
    """Key that signs the webhook's body (HMAC-SHA256)."""


class NotifySettings(Settings):
    """Who is told how a run ended."""

    channels: tuple[ChannelSettings, ...] = ()
    attempts: Annotated[int, Field(ge=1, le=10)] = 3
    timeout_s: Annotated[float, Field(gt=0)] = 10.0


class DriftSettings(Settings):
    """When new data counts as drifted, and when that submits a run."""

    min_rows: Annotated[int, Field(ge=1)] = 200
    min_vehicles: Annotated[int, Field(ge=1)] = 20
    psi_floor: Annotated[float, Field(gt=0)] = 0.1
    """Population Stability Index below which a feature has not moved, whatever the test says (industry's 0.1)."""
    fdr: Annotated[float, Field(gt=0, lt=1)] = 0.01
    """False discovery rate of Benjamini-Hochberg across features."""
    share: Annotated[float, Field(gt=0, le=1)] = 0.10
    """Share of features that must have drifted for DRIFT; fewer is WARN."""
    max_missing_increase: Annotated[float, Field(gt=0, le=1)] = 0.10
    persistence: Annotated[int, Field(ge=1)] = 1
    """How many of the last `window` checks must say DRIFT before a retraining run is submitted."""
    window: Annotated[int, Field(ge=1)] = 1
    cooldown_h: Annotated[float, Field(ge=0)] = 24.0


class ScheduleSettings(Settings):
    """A recurring run or drift check."""

    name: str
    verb: Literal["run", "drift"] = "run"
    cron: str
    """Five fields, in UTC; evctl adds KFP's seconds field (kubeflow-facts 20)."""
    parameters: dict[str, Any] = Field(default_factory=dict)
    enabled: bool = True
    max_concurrency: Annotated[int, Field(ge=1, le=10)] = 1
    catchup: bool = False

    @field_validator("cron")
    @classmethod
    def _five_fields(cls, value: str) -> str:
        try:
            cron_fields(value)
        except UsageError as error:
            raise ValueError(error.message) from error
        return value


class StoreSettings(Settings):
    """The model store."""

    uri: str
    """file:///..., a path, s3://bucket/prefix, gs://bucket/prefix."""
    endpoint: str | None = None
    """S3-compatible endpoint URL; None is AWS."""
    region: str | None = None
    secret: str | None = None
    """Kubernetes secret with AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY for pods; here the environment's are used."""
    model_registry: str | None = None
    """URL of a Kubeflow Model Registry that is told of each registered model; None tells none."""
    model_registry_token_env: VariableName = None
    """Name of the variable that holds its token."""


class Profile(Settings):
    """An environment: what `--env NAME` names."""

    # a secret in the wrong place is in no traceback either
    model_config = ConfigDict(hide_input_in_errors=True)

    name: str = ""
    """Set from the file's name."""
    description: str = ""
    backend: Literal["local", "kubeflow"] = "local"
    namespace: str = "default"
    experiment: str = "ev-battery"
    confirm: bool = False
    """Ask before promote and rollback; without a terminal `--yes` is required."""
    accuracy_threshold: Annotated[float, Field(ge=0, le=1)] = 0.90
    image: ImageSettings = Field(default_factory=ImageSettings)
    steps: dict[TaskName, StepSettings] = Field(default_factory=dict)
    secrets: tuple[SecretMount, ...] = ()
    gates: GateSettings = Field(default_factory=GateSettings)
    deploy: Literal["auto", "manual"] = "manual"
    data: DataSettings = Field(default_factory=DataSettings)
    store: StoreSettings
    serving: ServingSettings = Field(default_factory=ServingSettings)
    kubeflow: KubeflowSettings = Field(default_factory=KubeflowSettings)
    notify: NotifySettings = Field(default_factory=NotifySettings)
    drift: DriftSettings = Field(default_factory=DriftSettings)
    schedules: tuple[ScheduleSettings, ...] = ()
    pending_timeout_s: Annotated[float, Field(gt=0)] = 300.0
    """Seconds a task may be unable to start before `run` says so and exits 1."""
    poll_s: Annotated[float, Field(gt=0)] = 1.0
    """Seconds between two status requests of a watch."""

    def service(self) -> dict[str, Any]:
        """Return the service as this machine reaches it: the kubeconfig's context is no business of a pod's."""
        found = dict(self.pipeline_settings().service)
        return {**found, "context": self.kubeflow.context} if self.backend == "kubeflow" else found

    def pipeline_settings(self) -> PipelineSettings:
        """Return what the wiring needs of this profile."""
        serving = self.serving.model_dump(mode="json", exclude_none=True)
        if self.backend == "kubeflow":
            image = self.serving.image or (self.image.name if self.image.mode == "prebuilt" else None)
            serving = {**serving, "image": image} if image else {k: v for k, v in serving.items() if k != "image"}
            if self.image.mode == "embedded" and not image:
                serving["stock_image"] = self.image.name
                if "proof_timeout_s" not in self.serving.model_fields_set:
                    serving["proof_timeout_s"] = INSTALLING_S
            if self.store.secret:
                serving.setdefault("service_account", self.serving.name)
        return PipelineSettings(
            environment=self.name,
            namespace=self.namespace,
            image=self.image,
            steps=self.steps,
            secrets=self.secrets,
            gates=self.gates,
            deploy=self.deploy,
            accuracy_threshold=self.accuracy_threshold,
            data=self.data,
            store=self.store.uri,
            service={
                **serving,
                "namespace": self.serving.namespace or self.namespace,
                "backend": self.backend,
                "store": self.store.model_dump(mode="json", exclude_none=True),
            },
            notify=self.notify.model_dump(mode="json", exclude_none=True),
            drift=self.drift.model_dump(mode="json", exclude_none=True),
        )
