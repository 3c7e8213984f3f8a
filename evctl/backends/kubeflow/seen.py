"""What is known of a run while its tree is walked: states by node, executions by parent, pods by task. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from evctl.backends.base import TERMINAL_RUN_STATES, RunState
from evctl.backends.kubeflow.nodes import Nodes
from evctl.backends.kubeflow.pods import Pod
from evctl.backends.kubeflow.workflow import Said
from evctl.backends.metadata.values import ROOT_TASK, Execution, RunMetadata
from evctl.backends.spec import Node


@dataclass(frozen=True, slots=True)
class Walk:
    """What is known of the run while its tree is walked."""

    state: RunState
    ended: datetime | None
    nodes: Nodes
    metadata: RunMetadata | None
    pods: tuple[Pod, ...] = ()
    logs: Mapping[str, str] = field(default_factory=dict)
    unread: Collection[str] = ()
    """Pods whose logs were not looked for."""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    deadline: str | None = None
    again: datetime | None = None
    """When its present life began, if that is not the first: a retry goes on with the executions of the one before."""
    ending: bool = False
    """Somebody has terminated it: what is killed now was cancelled."""
    messages: Mapping[str, Said] = field(default_factory=dict)
    """What Argo says of a node, by its place."""
    _inside: Mapping[int, Sequence[Execution]] = field(init=False, repr=False, compare=False)
    _at: Mapping[str, Sequence[Pod]] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        inside: dict[int, list[Execution]] = {}
        for each in self.executions():
            if each.parent is not None:
                inside.setdefault(each.parent, []).append(each)
        at: dict[str, list[Pod]] = {}
        for pod in self.pods:
            at.setdefault(pod.place, []).append(pod)
        object.__setattr__(self, "_inside", inside)
        object.__setattr__(self, "_at", at)

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

    def inside(self, parent: Execution | None, node: Node) -> Execution | None:
        """Return the newest execution of a task in a DAG (a retry may have made another).

        KFP writes a loop and an importer under the name that is shown, everything else under the spec's key.
        """
        if parent is None:
            return None
        inner = [e for e in self._inside.get(parent.id, ()) if e.iteration is None and e.importer == node.importer]
        found = [e for e in inner if e.task == node.key]
        if not found and node.title and (node.kind == "loop" or node.importer):
            found = [e for e in inner if e.task == node.title and e.is_dag == (node.kind == "loop")]
        return found[-1] if found else None

    def iterations(self, loop: Execution | None, place: str) -> list[tuple[int, Execution | None]]:
        """Return a loop's iterations in order; None stands for one that has not begun."""
        inner = self._inside.get(loop.id, ()) if loop is not None else ()
        found: dict[int, Execution | None] = dict.fromkeys(range(loop.iterations or 0) if loop else ())
        found |= dict.fromkeys(self.nodes.iterations(place))
        found |= {e.iteration: e for e in inner if e.iteration is not None}
        return sorted(found.items(), key=lambda each: each[0])

    def pods_of(self, place: str) -> list[Pod]:
        """Return the pods of a task, oldest first."""
        return [*self.at(place), *self.at(f"{place}.executor")]

    def drivers_of(self, place: str) -> list[Pod]:
        """Return the pods of a task's or DAG's driver, oldest first."""
        return list(self.at(f"{place}-driver"))

    def at(self, place: str) -> Sequence[Pod]:
        """Return the pods of one node, oldest first."""
        return self._at.get(place, ())
