"""What the wiring needs to know of an environment: frozen, typed, unknown keys refused. No kfp here.

`evctl.profile` reads these from `profiles/*.yaml`; `build_pipeline(settings)` is a pure function of them. Each field says
its meaning, its unit and why the default is what it is.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator

TASKS = (
    "ingest_battery_data",
    "validate_battery_data",
    "generate_battery_features",
    "train_fault_classifier",
    "evaluate_fault_model",
    "register_fault_model",
    "deploy_model_kserve",
    "setup_drift_monitoring",
    "notify_pipeline_status",
)
"""The product's task names, in the order of the flow."""

DEFAULT_STEP = "__default__"

NEVER_CACHED = frozenset(TASKS[5:])
"""Tasks with side effects: a cache hit would mean they did not happen (kubeflow-facts 16)."""


def _named(value: str) -> str:
    if value not in (*TASKS, DEFAULT_STEP):
        raise ValueError(f"no task has this name; tasks are {', '.join(TASKS)}")
    return value


def _like(pattern: str, examples: str) -> AfterValidator:
    def check(value: str) -> str:
        if not re.fullmatch(pattern, value):
            raise ValueError(f"a quantity of Kubernetes is like {examples}")
        return value

    return AfterValidator(check)


TaskName = Annotated[str, AfterValidator(_named)]
"""A name that no task has would be a limit, or a secret, that silently nothing gets."""

CpuQuantity = Annotated[str, _like(r"[0-9]+(\.[0-9]+)?m?", "4, 0.5 or 500m")]
"""Kubernetes CPU quantity: cores ("4", "0.5") or millicores ("500m")."""

MemoryQuantity = Annotated[str, _like(r"[0-9]+(\.[0-9]+)?([EPTGM]i?|[kK]i?)?", "8Gi, 512Mi or 2G")]
"""Kubernetes memory quantity: bytes with an optional suffix ("8Gi")."""


class Settings(BaseModel):
    """Base of every settings model: frozen, and a key it does not know is an error."""

    # only what is used is built: a profile holds all its parts in one validator
    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)


class ImageSettings(Settings):
    """How the code gets into a pod."""

    mode: Literal["prebuilt", "embedded"] = "prebuilt"
    """`prebuilt`: an image that has the code, named by digest. `embedded`: a stock Python image, the packages installed at
    start, our source carried in the pipeline itself."""
    name: str | None = None
    """Image reference; None, or empty as an unset variable is, is the unset marker: it compiles, and `upload` and `run`
    refuse it."""
    packages: tuple[str, ...] = ()
    """What an embedded image installs at start, as `name==version`; empty means the pins of the running evctl."""

    @field_validator("name")
    @classmethod
    def _unset(cls, value: str | None) -> str | None:
        return value or None


class AcceleratorSettings(Settings):
    """An accelerator limit of a task."""

    type: str
    """Resource name, such as `nvidia.com/gpu`."""
    count: Annotated[int, Field(ge=1)] = 1


class StepSettings(Settings):
    """Resources and policy of one task. Limits are also the requests (kubeflow-facts 18)."""

    cpu: CpuQuantity | None = None
    memory: MemoryQuantity | None = None
    accelerator: AcceleratorSettings | None = None
    retries: Annotated[int, Field(ge=0, le=10)] = 0
    """How often a failed attempt is tried again (attempts = retries + 1)."""
    timeout_s: Annotated[int, Field(ge=1)] | None = None
    """Seconds one attempt may take; None is no limit."""
    cache: bool = True
    """Whether an identical earlier result may answer. Tasks with side effects are never cached, whatever this says."""


class SecretMount(Settings):
    """A Kubernetes secret that tasks see as files; locally a folder."""

    name: str
    mount_path: str = "/secrets"
    keys: tuple[str, ...] = ()
    """Keys that must exist; checked by `secrets apply` and `doctor`."""
    tasks: tuple[TaskName, ...] = ("train_fault_classifier",)
    """Which tasks mount it."""


class GateSettings(Settings):
    """Gates beside accuracy; each becomes a nested condition, since `and` compiles to one only (kubeflow-facts 15b)."""

    min_recall: Annotated[float, Field(ge=0, le=1)] | None = None
    """Smallest macro recall over the fault classes."""


class DataVersion(Settings):
    """Where one data version comes from: the simulator's fleet of that name, or a URI."""

    fleet: str | None = None
    """A fleet the simulator knows (`v1`, `v2`, `v3`)."""
    uri: str | None = None
    """A CSV or Parquet file, optionally gzipped: path, file://, s3://, gs://, http(s)://."""
    columns: dict[str, str] = Field(default_factory=dict)
    """The file's column name by ours (`pack_voltage_v: BatteryVoltage`)."""
    seed: int | None = None
    """Overrides the fleet's own seed."""
    vehicles: Annotated[int, Field(ge=1)] | None = None
    """Overrides the fleet's size."""


class DataSettings(Settings):
    """Data versions and what bad data a run puts up with."""

    versions: dict[str, DataVersion] = Field(
        default_factory=lambda: {v: DataVersion(fleet=v) for v in ("v1", "v2", "v3")}
    )
    max_quarantined_share: Annotated[float, Field(ge=0, le=1)] = 0.05
    """Share of rows that may be quarantined before the validation step fails."""
    min_vehicles: Annotated[int, Field(ge=1)] = 20
    """Fewer vehicles cannot be split into training and held-out ones."""
    shards: Annotated[int, Field(ge=1, le=64)] = 1
    """Parallel shards of `generate_battery_features` over vehicles; 1 is a single task."""


class PipelineSettings(Settings):
    """Everything the wiring needs, resolved."""

    environment: str = "prod"
    namespace: str = "mlops-prod"
    image: ImageSettings = Field(default_factory=ImageSettings)
    steps: dict[TaskName, StepSettings] = Field(default_factory=dict)
    """By task name; `__default__` is for tasks not named."""
    secrets: tuple[SecretMount, ...] = ()
    gates: GateSettings = Field(default_factory=GateSettings)
    deploy: Literal["auto", "manual"] = "manual"
    """`manual`: register, do not deploy. `auto`: promote what was registered, with proof."""
    accuracy_threshold: Annotated[float, Field(ge=0, le=1)] = 0.90
    data: DataSettings = Field(default_factory=DataSettings)
    store: str = ""
    """URI of the model store."""
    service: dict[str, Any] = Field(default_factory=dict)
    """`evctl.rollout.target.ServiceTarget` as JSON: what the deploy step promotes to."""
    notify: dict[str, Any] = Field(default_factory=dict)
    """`evctl.notify.sending.NotifyConfig` as JSON; URLs are names of secret keys, never values."""
    drift: dict[str, Any] = Field(default_factory=dict)
    """`ev_ml.drift.DriftConfig` as JSON."""

    def step(self, task: str) -> StepSettings:
        """Return the settings of a task, its own or `__default__`'s."""
        return self.steps.get(task) or self.steps.get(DEFAULT_STEP) or StepSettings()
