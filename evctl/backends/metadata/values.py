"""What ML Metadata holds of a run, as plain frozen values."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from evctl.backends.metadata import proto

ROOT_TASK = ""
"""Task name of the run's outermost DAG execution."""


@dataclass(frozen=True, slots=True)
class Execution:
    """One task or DAG of a run. `state` is ML Metadata's own word (`RUNNING`, `COMPLETE`, ...)."""

    id: int
    task: str
    state: str
    is_dag: bool
    parent: int | None = None
    display_name: str = ""
    pod: str | None = None
    namespace: str | None = None
    inputs: Mapping[str, Any] = field(default_factory=dict)
    outputs: Mapping[str, Any] = field(default_factory=dict)
    iteration: int | None = None
    """Index of this iteration, when it is one of a loop's."""
    iterations: int | None = None
    """How many a loop has."""
    created_at: datetime | None = None
    updated_at: datetime | None = None
    importer: bool = False
    """An importer is written by its own pod, under the name that is shown."""


@dataclass(frozen=True, slots=True)
class StoredArtifact:
    """An artifact. `store` is the session info KFP keeps with it (provider, endpoint, secret's name)."""

    id: int
    type: str
    uri: str
    display_name: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    store: str | None = None
    created_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Link:
    """An artifact's place at a task: `name` is the parameter's name, `output` says which way."""

    execution: int
    artifact: int
    name: str
    output: bool


@dataclass(frozen=True, slots=True)
class RunMetadata:
    """All of a run's metadata. Artifacts and links are empty where they were not asked for."""

    executions: tuple[Execution, ...] = ()
    links: tuple[Link, ...] = ()
    artifacts: Mapping[int, StoredArtifact] = field(default_factory=dict)
    pipeline_root: str | None = None
    store: str | None = None
    requests: int = field(default=0, compare=False)
    """In how many requests this was read."""


def plain(value: Any) -> Any:
    """Return a property's value as Python's own: numbers, strings, lists and dicts."""
    kind = value.WhichOneof("value")
    if kind is None:
        return None
    found = getattr(value, kind)
    if kind == "struct_value":
        return _struct(found)
    return found.value if kind == "proto_value" else found


def _struct(struct: Any) -> dict[str, Any]:
    return {key: _item(value) for key, value in struct.fields.items()}


def _item(value: Any) -> Any:
    kind = value.WhichOneof("kind")
    if kind == "struct_value":
        return _struct(value.struct_value)
    if kind == "list_value":
        return [_item(entry) for entry in value.list_value.values]
    return None if kind in (None, "null_value") else getattr(value, kind)


def when(milliseconds: int) -> datetime | None:
    """Return epoch milliseconds as UTC; 0 is none."""
    return datetime.fromtimestamp(milliseconds / 1000, UTC) if milliseconds else None


def execution(message: Any) -> Execution:
    """Return an `Execution` message as a value."""
    props = {key: plain(value) for key, value in message.custom_properties.items()}
    return Execution(
        id=message.id,
        task=str(props.get("task_name") or ROOT_TASK),
        state=proto.EXECUTION_STATES[message.last_known_state],
        is_dag="DAG" in message.type,
        parent=_integer(props.get("parent_dag_id")),
        display_name=str(props.get("display_name") or ""),
        pod=props.get("pod_name") or None,
        namespace=props.get("namespace") or None,
        inputs=_mapping(props.get("inputs")),
        outputs=_mapping(props.get("outputs")),
        iteration=_integer(props.get("iteration_index")),
        iterations=_integer(props.get("iteration_count")),
        created_at=when(message.create_time_since_epoch),
        updated_at=when(message.last_update_time_since_epoch),
        importer="Importer" in message.type,
    )


def artifact(message: Any) -> StoredArtifact:
    """Return an `Artifact` message as a value, KFP's own properties apart from the user's."""
    props = {key: plain(value) for key, value in message.custom_properties.items()}
    props |= {key: plain(value) for key, value in message.properties.items()}
    store = props.pop("store_session_info", None)
    name = props.pop("display_name", None)
    return StoredArtifact(
        id=message.id,
        type=message.type,
        uri=message.uri,
        display_name=str(name or message.name or ""),
        metadata=props,
        store=store if isinstance(store, str) else None,
        created_at=when(message.create_time_since_epoch),
    )


def link(message: Any) -> Link:
    """Return an `Event` message as a value."""
    keys = [step.key for step in message.path.steps if step.key]
    return Link(
        execution=message.execution_id,
        artifact=message.artifact_id,
        name=keys[0] if keys else "",
        output=proto.EVENT_TYPES[message.type] in ("OUTPUT", "DECLARED_OUTPUT", "INTERNAL_OUTPUT"),
    )


def latest(executions: Iterable[Execution]) -> tuple[Execution, ...]:
    """Return the newest execution of each task: a retry may have made another one."""
    newest = {(e.parent, e.task, e.iteration): e for e in sorted(executions, key=lambda e: e.id)}
    return tuple(sorted(newest.values(), key=lambda e: e.id))


def _integer(value: Any) -> int | None:
    return int(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}
