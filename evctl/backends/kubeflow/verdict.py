"""What a run decided: the gate and the registered model. "The run succeeded" says neither (kubeflow-facts 5). Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from evctl.backends.base import GOOD_TASK_STATES, Gate, RegisteredModel, TaskState, TaskStatus
from evctl.backends.kubeflow.nodes import ROOT
from evctl.backends.kubeflow.seen import Walk
from evctl.backends.metadata.values import RunMetadata
from evctl.backends.spec import Node, gate_sides

REGISTER_KEYS = ("register-fault-model", "register")
_NEGATED = {">=": "<", ">": "<=", "<=": ">", "<": ">=", "==": "is not", "!=": "is"}


@dataclass(frozen=True, slots=True)
class _Gate:
    """A gate of the spec and its place among Argo's nodes. `either` names the branches it is one of: one of them opens."""

    node: Node
    place: str
    path: tuple[str, ...]
    either: str = ""


def gate_of(tree: Sequence[Node] | None, tasks: Sequence[TaskStatus], seen: Walk) -> Gate:
    """Return what the gates before the register task decided (all of the run's gates where there is none)."""
    found = tuple(_gates(tree or (), ROOT))
    gates = [gate for above, node in found if node.key in REGISTER_KEYS for gate in above]
    lines = _by_gate(tasks)
    gates = gates or [above[-1] for above, node in found if node.kind == "gate" and _in_reach(above[:-1], lines, tasks)]
    gates = list({gate.place: gate for gate in gates}.values())
    if not gates:
        return Gate()
    sides = [gate_sides(gate.node, _inputs(gate.node, seen), seen.parameters) for gate in gates]
    first = sides[0]
    accuracy, threshold = (first[3], first[4]) if first else (None, None)
    shown = [lines.get((*gate.path, gate.node.name)) for gate in gates]
    opened = {gate.either for gate, line in zip(gates, shown, strict=True) if line is not None and _open(line, tasks)}
    for gate, line, side in zip(gates, shown, sides, strict=True):
        if gate.either and gate.either in opened:
            continue
        if line is not None and line.state is TaskState.SKIPPED and _said_no(gate, seen):
            return Gate("refused", accuracy, threshold, (_why(gate.node, side),))
    passed = all(
        line is not None and (_open(line, tasks) or (gate.either and gate.either in opened))
        for gate, line in zip(gates, shown, strict=True)
    )
    return Gate("passed" if passed else "not_reached", accuracy, threshold)


def _by_gate(tasks: Sequence[TaskStatus]) -> dict[tuple[str, ...], TaskStatus]:
    """Return each gate's line; in a loop that of an iteration for which it opened, if it did for any."""
    found: dict[tuple[str, ...], TaskStatus] = {}
    for line in tasks:
        key = (*_names(line.path), line.name)
        if line.kind == "gate" and (key not in found or found[key].state is TaskState.SKIPPED):
            found[key] = line
    return found


def _in_reach(above: Sequence[_Gate], lines: Mapping[tuple[str, ...], TaskStatus], tasks: Sequence[TaskStatus]) -> bool:
    """Whether no gate lies in the branch that was not taken, where nothing is asked."""
    around = [lines.get((*gate.path, gate.node.name)) for gate in above if gate.either]
    return all(line is not None and (line.state is not TaskState.SKIPPED or _open(line, tasks)) for line in around)


def _said_no(gate: _Gate, seen: Walk) -> bool:
    """A gate that was asked and refused, not one that was never reached."""
    states = [e.state for e in seen.executions() if e.task == gate.node.key and e.is_dag]
    if states:
        return "CANCELED" in states
    return seen.nodes.state(gate.place) == "SKIPPED"


def _open(gate: TaskStatus, tasks: Sequence[TaskStatus]) -> bool:
    """Passed once anything inside it has been started, or it has ended well."""
    if gate.state in GOOD_TASK_STATES:
        return True
    prefix = (*gate.path, gate.name)
    begun = [t for t in tasks if t.path[: len(prefix)] == prefix and t.state is not TaskState.PENDING]
    return any(t.state is not TaskState.SKIPPED for t in begun)


def _names(path: Sequence[str]) -> tuple[str, ...]:
    return tuple(part for part in path if not part.isdigit())


def _why(node: Node, side: tuple[str, str, str, float | None, float | None] | None) -> str:
    if side is None or side[3] is None:
        return f"{node.name} was not met"
    left, operator, right, value, bound = side
    return f"{left} {value:g} {_NEGATED[operator]} {f'{bound:g}' if bound is not None else right}"


def _inputs(node: Node, seen: Walk) -> dict[str, object]:
    found = [e for e in seen.executions() if e.task == node.key and e.is_dag]
    refused = [e for e in found if e.state == "CANCELED"]
    return dict((refused or found)[-1].inputs) if found else {}


def _gates(
    nodes: Sequence[Node], place: str, path: tuple[str, ...] = (), above: tuple[_Gate, ...] = (), either: str = ""
) -> Iterator[tuple[tuple[_Gate, ...], Node]]:
    """Yield each node with the gates around it, itself included."""
    for node in nodes:
        here = f"{place}.{node.key}"
        inside = (*above, _Gate(node, here, path, either)) if node.kind == "gate" else above
        yield inside, node
        # If, Elif and Else are the branches of one group
        branches = here if node.key.startswith("condition-branches-") else ""
        yield from _gates(node.children, here, (*path, node.name), inside, branches)


def model_of(metadata: RunMetadata | None) -> RegisteredModel | None:
    """Return the model the register task reports; None when it did not end well or nothing can be asked."""
    for execution in reversed(metadata.executions if metadata else ()):
        if execution.task in REGISTER_KEYS and execution.state in ("COMPLETE", "CACHED"):
            outputs = execution.outputs
            uri = outputs.get("model_uri") or outputs.get("Output")
            if isinstance(uri, str) and uri:
                whole = uri if uri.endswith("/") else uri + "/"
                version = str(outputs.get("model_version") or whole.rstrip("/").rsplit("/", 1)[-1])
                return RegisteredModel(version, whole)
    return None
