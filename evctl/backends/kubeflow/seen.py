"""What is known of a run while its tree is walked: states by node, executions by parent, pods by task. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from evctl.backends.base import TERMINAL_RUN_STATES, RunState
from evctl.backends.kubeflow.nodes import Nodes
from evctl.backends.kubeflow.pods import Pod
from evctl.backends.metadata.values import ROOT_TASK, Execution, RunMetadata


@dataclass(frozen=True, slots=True)
class Walk:
    """What is known of the run while its tree is walked."""

    state: RunState
    ended: datetime | None
    nodes: Nodes
    metadata: RunMetadata | None
    pods: tuple[Pod, ...] = ()
    logs: Mapping[str, str] = field(default_factory=dict)
    parameters: Mapping[str, Any] = field(default_factory=dict)
    deadline: str | None = None

    @property
    def live(self) -> bool:
        """Whether the run has not ended."""
        return self.state not in TERMINAL_RUN_STATES

    def executions(self) -> tuple[Execution, ...]:
        """Return the executions ML Metadata knows."""
        return self.metadata.executions if self.metadata else ()

    def root(self) -> Execution | None:
        """Return the run's outermost DAG."""
        return next((e for e in self.executions() if e.is_dag and e.task == ROOT_TASK), None)

    def inside(self, parent: Execution | None, key: str) -> Execution | None:
        """Return the newest execution of a task in a DAG (a retry may have made another)."""
        if parent is None:
            return None
        found = [e for e in self.executions() if e.parent == parent.id and e.task == key and e.iteration is None]
        return found[-1] if found else None

    def iterations(self, loop: Execution | None) -> list[Execution]:
        """Return a loop's iterations in order."""
        if loop is None:
            return []
        found = {e.iteration: e for e in self.executions() if e.parent == loop.id and e.iteration is not None}
        return [found[index] for index in sorted(found, key=lambda i: i or 0)]

    def pods_of(self, key: str, *, driver: bool = False) -> list[Pod]:
        """Return a task's pods, oldest first."""
        return [pod for pod in self.pods if pod.task == key and pod.driver == driver]
