"""What a run decided: the gate and the registered model. "The run succeeded" says neither (kubeflow-facts 5). Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from evctl.backends.base import GOOD_TASK_STATES, Gate, RegisteredModel, TaskState, TaskStatus
from evctl.backends.kubeflow.seen import Walk
from evctl.backends.metadata.values import RunMetadata
from evctl.backends.spec import Node, gate_sides

REGISTER_KEYS = ("register-fault-model", "register")
_NEGATED = {">=": "<", ">": "<=", "<=": ">", "<": ">=", "==": "is not", "!=": "is"}


def gate_of(tree: Sequence[Node] | None, tasks: Sequence[TaskStatus], seen: Walk) -> Gate:
    """Return what the gates before the register task decided (all of the run's gates where there is none)."""
    gates = list(_gates_before_register(tree or ())) or list(_all_gates(tree or ()))
    if not gates:
        return Gate()
    by_name = {line.name: line for line in tasks if line.kind == "gate"}
    sides = [gate_sides(node, _inputs(node, seen), seen.parameters) for node in gates]
    first = sides[0]
    accuracy, threshold = (first[3], first[4]) if first else (None, None)
    lines = [by_name.get(node.name) for node in gates]
    for node, line, side in zip(gates, lines, sides, strict=True):
        if line is not None and line.state is TaskState.SKIPPED and _said_no(node, seen):
            return Gate("refused", accuracy, threshold, (_why(node, side),))
    passed = all(line is not None and _open(line, tasks) for line in lines)
    return Gate("passed" if passed else "not_reached", accuracy, threshold)


def _said_no(node: Node, seen: Walk) -> bool:
    """A gate that was asked and refused, not one that was never reached."""
    states = [e.state for e in seen.executions() if e.task == node.key and e.is_dag]
    if states:
        return "CANCELED" in states
    return seen.nodes.state(node.key) == "SKIPPED"


def _open(gate: TaskStatus, tasks: Sequence[TaskStatus]) -> bool:
    """Passed once anything inside it has been started, or it has ended well."""
    if gate.state in GOOD_TASK_STATES:
        return True
    prefix = (*gate.path, gate.name)
    begun = [t for t in tasks if t.path[: len(prefix)] == prefix and t.state is not TaskState.PENDING]
    return any(t.state is not TaskState.SKIPPED for t in begun)


def _why(node: Node, side: tuple[str, str, str, float | None, float | None] | None) -> str:
    if side is None or side[3] is None:
        return f"{node.name} was not met"
    left, operator, right, value, bound = side
    return f"{left} {value:g} {_NEGATED[operator]} {f'{bound:g}' if bound is not None else right}"


def _inputs(node: Node, seen: Walk) -> dict[str, object]:
    found = [e for e in seen.executions() if e.task == node.key and e.is_dag]
    return dict(found[-1].inputs) if found else {}


def _gates_before_register(nodes: Sequence[Node], above: tuple[Node, ...] = ()) -> Iterator[Node]:
    for node in nodes:
        if node.kind == "task" and node.key in REGISTER_KEYS:
            yield from above
        inside = (*above, node) if node.kind == "gate" else above
        yield from _gates_before_register(node.children, inside)


def _all_gates(nodes: Sequence[Node]) -> Iterator[Node]:
    for node in nodes:
        if node.kind == "gate":
            yield node
        yield from _all_gates(node.children)


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
