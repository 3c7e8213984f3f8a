"""A compiled pipeline spec as the tree a person sees: tasks, gates, loops, in the order of the flow. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ev_pipeline.settings import TASKS
from evctl.backends.base import NodeKind

_CHANNEL = re.compile(r"inputs\.parameter_values\['(?:pipelinechannel--)?([^']+)'\]")
_COMPARISON = re.compile(r"^\s*(?:\w+\()?\s*(\S+?)\s*\)?\s*(>=|<=|==|!=|>|<)\s*(?:\w+\()?(.+?)\)?\s*$")


@dataclass(frozen=True, slots=True)
class Node:
    """One task of the spec. `key` is KFP's name, `name` what people see, `condition` a gate's raw expression."""

    key: str
    kind: NodeKind
    title: str = ""
    children: tuple[Node, ...] = ()
    condition: str | None = None
    max_attempts: int = 1
    always_runs: bool = False
    aliases: Mapping[str, str] | None = None
    """A gate's inputs: pipeline channel by the name a person knows it by."""
    after: tuple[str, ...] = ()
    """What a task that always runs waits for."""
    importer: bool = False

    @property
    def name(self) -> str:
        """Name with underscores, as in the source."""
        titled = self.kind in ("gate", "loop") and self.title and not self.title.isdigit()
        return (self.title if titled else self.key).replace("-", "_")


def unwrap(document: Any) -> tuple[dict[str, Any] | None, dict[str, Any]]:
    """Return (pipeline spec, platform spec) of what the API keeps: bare, or one under the other's name."""
    if not isinstance(document, dict) or not document:
        return None, {}
    if "pipeline_spec" in document:
        return document["pipeline_spec"] or None, document.get("platform_spec") or {}
    return (document, {}) if "root" in document else (None, {})


def tree(spec: Mapping[str, Any]) -> tuple[Node, ...]:
    """Return the nodes of the root DAG, in the order of the flow."""
    executors = (spec.get("deploymentSpec") or {}).get("executors") or {}
    components = {
        name: {**component, "importer": "importer" in executors.get(component.get("executorLabel"), {})}
        for name, component in spec.get("components", {}).items()
    }
    return _dag(spec.get("root", {}).get("dag", {}), components)


def defaults(spec: Mapping[str, Any]) -> dict[str, Any]:
    """Return the pipeline's parameters that have defaults."""
    known = spec.get("root", {}).get("inputDefinitions", {}).get("parameters", {})
    return {name: what["defaultValue"] for name, what in known.items() if "defaultValue" in what}


def _dag(
    dag: Mapping[str, Any], components: Mapping[str, Any], above: Mapping[str, str] | None = None
) -> tuple[Node, ...]:
    tasks: Mapping[str, Any] = dag.get("tasks", {})
    return tuple(_node(key, tasks[key], components, above or {}) for key in _ordered(tasks, components))


def _node(key: str, task: Mapping[str, Any], components: Mapping[str, Any], above: Mapping[str, str]) -> Node:
    component = components.get(task.get("componentRef", {}).get("name", ""), {})
    trigger = task.get("triggerPolicy", {})
    nested = "dag" in component
    aliases = _aliases(task, above) if nested else {}
    return Node(
        key=key,
        kind=_kind(key, task, nested),
        title=task.get("taskInfo", {}).get("name", ""),
        children=_dag(component["dag"], components, aliases) if nested else (),
        condition=trigger.get("condition"),
        max_attempts=1 + int(task.get("retryPolicy", {}).get("maxRetryCount", 0)),
        always_runs=trigger.get("strategy") == "ALL_UPSTREAM_TASKS_COMPLETED",
        aliases=aliases if trigger.get("condition") else None,
        after=tuple(task.get("dependentTasks") or ()),
        importer=bool(component.get("importer")),
    )


def _kind(key: str, task: Mapping[str, Any], nested: bool) -> NodeKind:
    if "parameterIterator" in task or "artifactIterator" in task or "iteratorPolicy" in task:
        return "loop"
    if not nested:
        return "task"
    if task.get("triggerPolicy", {}).get("condition"):
        return "gate"
    return "exit_handler" if key.startswith("exit-handler-") else "group"


def _aliases(task: Mapping[str, Any], above: Mapping[str, str]) -> dict[str, str]:
    """Name a channel by the output it carries: `evaluate-accuracy` is `accuracy`, `evaluate-Output` is `evaluate`.

    Args:
        above: the names of the channels that the group around it was given.
    """
    names: dict[str, str] = {}
    for channel, source in task.get("inputs", {}).get("parameters", {}).items():
        bare = channel.removeprefix("pipelinechannel--")
        output = source.get("taskOutputParameter")
        if output:
            key = output.get("outputParameterKey", "")
            names[bare] = output.get("producerTask", bare).replace("-", "_") if key == "Output" else key
        else:
            given = str(source.get("componentInputParameter") or bare).removeprefix("pipelinechannel--")
            names[bare] = above.get(given) or _item(bare, above)
    return names


def _item(channel: str, above: Mapping[str, str]) -> str:
    """Name a loop's item: of what a task gave (`numbers[i]`), of the list in the pipeline (`item`)."""
    if channel.startswith("loop-item-param-"):
        return "item"
    of = channel.removesuffix("-loop-item")
    if of == channel:
        return channel
    return f"{above.get(of) or of.removesuffix('-Output').replace('-', '_')}[i]"


def _needs(task: Mapping[str, Any]) -> set[str]:
    found = set(task.get("dependentTasks", ()))
    for group in task.get("inputs", {}).values():
        for source in group.values():
            found |= {value["producerTask"] for value in source.values() if _produces(value)}
    return found


def _produces(value: Any) -> bool:
    return isinstance(value, dict) and "producerTask" in value


def _ordered(tasks: Mapping[str, Any], components: Mapping[str, Any]) -> Sequence[str]:
    """Topological order; ties go by the product's own order, then plain tasks before groups, then by name."""
    left = {key: _needs(task) & set(tasks) - {key} for key, task in tasks.items()}
    order: list[str] = []
    while left:
        ready = [key for key, needs in left.items() if not needs - set(order)] or list(left)
        first = min(ready, key=lambda key: _rank(key, tasks[key], components))
        order.append(first)
        del left[first]
    return order


def _rank(key: str, task: Mapping[str, Any], components: Mapping[str, Any]) -> tuple[int, bool, str]:
    name = key.replace("-", "_")
    nested = "dag" in components.get(task.get("componentRef", {}).get("name", ""), {})
    return (TASKS.index(name) if name in TASKS else len(TASKS), nested, key)


def gate_words(node: Node, inputs: Mapping[str, Any], parameters: Mapping[str, Any]) -> str | None:
    """Return a gate's condition as a person says it: `accuracy >= 0.9`."""
    sides = gate_sides(node, inputs, parameters)
    if sides is None:
        said = _CHANNEL.sub(lambda m: (node.aliases or {}).get(m[1], m[1]), node.condition or "")
        for sign, word in (("!(", "not ("), ("&&", "and"), ("||", "or")):
            said = said.replace(sign, word)
        return said or None
    left, operator, right, _, bound = sides
    if bound is not None and bound.is_integer():
        bound = int(bound)
    return f"{left} {operator} {bound if bound is not None else right}"


def gate_sides(
    node: Node, inputs: Mapping[str, Any], parameters: Mapping[str, Any]
) -> tuple[str, str, str, float | None, float | None] | None:
    """Return (left name, operator, right name, left value, right value) of a plain comparison, else None."""
    channels: dict[str, Any] = {key.removeprefix("pipelinechannel--"): value for key, value in inputs.items()}
    text = _CHANNEL.sub(lambda m: m[1], node.condition or "")
    found = _COMPARISON.match(text)
    if found is None or "&&" in text or "||" in text or text.lstrip().startswith("!"):
        return None
    left, operator, right = found[1], found[2], found[3].strip()
    names = node.aliases or {}

    def value(side: str) -> float | None:
        known = channels.get(side, parameters.get(side, side))
        try:
            return None if isinstance(known, bool) else float(known)
        except (TypeError, ValueError):
            return None

    return names.get(left, left), operator, names.get(right, right), value(left), value(right)
