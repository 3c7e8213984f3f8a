"""A run's life as the API, ML Metadata and Kubernetes would show it: recorded, or played from any compiled spec.

A life answers `at(seconds)` with a `Moment`. The played one keeps to what was measured (kubeflow-facts 1-8, 12-16): Argo
nodes called `executor`, DAGs that stay RUNNING in ML Metadata, a refused gate that is CANCELED there and SKIPPED in the API,
a terminated run that ends FAILED after its exit handler.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Protocol

ROOT = Path(__file__).parents[1] / "recordings" / "kubeflow-2.17"
NEVER = "1970-01-01T00:00:00Z"
_VALUE = re.compile(r"inputs\.parameter_values\['([^']+)'\]")


def stamp(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


@dataclass(frozen=True)
class Moment:
    """What each source says at one time. `run` holds the fields of a run document that change."""

    run: dict[str, Any]
    metadata: dict[str, Any] | None = None
    pods: list[dict[str, Any]] = field(default_factory=list)
    events: list[dict[str, Any]] = field(default_factory=list)


class Life(Protocol):
    def at(self, seconds: float) -> Moment: ...
    def terminated(self, seconds: float) -> Life: ...
    def retried(self, seconds: float) -> Life: ...


def load(name: str) -> Any:
    return json.loads((ROOT / name).read_text())


@dataclass(frozen=True)
class Recorded:
    """One recorded situation, for ever."""

    name: str

    def at(self, seconds: float) -> Moment:
        folder = ROOT / "runs" / self.name

        def maybe(file: str, default: Any) -> Any:
            return json.loads((folder / file).read_text()) if (folder / file).exists() else default

        events = [
            {**event, "involvedObject": {"kind": "Pod", "name": event["object"]}, "metadata": {"name": f"e{at}"}}
            for at, event in enumerate(maybe("pod_events.json", []))
        ]
        return Moment(maybe("run.json", {}), maybe("mlmd.json", None), maybe("pods.json", []), events)

    def terminated(self, seconds: float) -> Life:
        after = {"image_pull_error": "terminated_image_pull", "missing_secret": "terminated_missing_secret"}
        return Recorded(after.get(self.name, self.name))

    def retried(self, seconds: float) -> Life:
        return Recorded({"task_failed": "retry_after_failure"}.get(self.name, self.name))


@dataclass(frozen=True)
class Timeline:
    """A recorded whole life, played `speed` times as fast. A terminate goes on with the samples after the recorded one."""

    name: str
    speed: float = 1.0
    stopped_at: float | None = None

    def samples(self) -> list[dict[str, Any]]:
        return list(load(f"timelines/{self.name}.json"))

    def at(self, seconds: float) -> Moment:
        samples = self.samples()
        cut = next((s["t"] for s in samples if s.get("action") == "terminate"), None)
        now = seconds * self.speed
        if cut is not None and self.stopped_at is None:
            now = min(now, cut - 0.001)
        elif cut is not None and self.stopped_at is not None:
            now = cut + now - self.stopped_at * self.speed
        sample = [s for s in samples if "run" in s and s["t"] <= max(0.0, now)][-1]
        mlmd = sample["mlmd"]
        answers = {
            "GetContextByTypeAndName": {"context": mlmd.get("context")} if mlmd.get("context") else {},
            "GetExecutionsByContext": {"executions": mlmd.get("executions", [])},
            "GetEventsByExecutionIDs": {"events": mlmd.get("events", [])},
        }
        return Moment(sample["run"], answers)

    def terminated(self, seconds: float) -> Life:
        return replace(self, stopped_at=seconds)

    def retried(self, seconds: float) -> Life:
        return self


@dataclass(frozen=True)
class Plan:
    """How a played run goes. Tasks are named as KFP does, with dashes.

    `stuck` maps a task to the Kubernetes reason why its pod never starts.
    """

    task_s: float = 0.2
    outputs: Mapping[tuple[str, str], Any] = field(default_factory=dict)
    failing: frozenset[str] = frozenset()
    cached: frozenset[str] = frozenset()
    stuck: Mapping[str, str] = field(default_factory=dict)
    slow: Mapping[str, float] = field(default_factory=dict)
    attempts: Mapping[str, int] = field(default_factory=dict)
    loops: Mapping[str, int] = field(default_factory=dict)


@dataclass
class Item:
    """One task or DAG with its times in seconds since the run began. `end` is None while nobody knows it."""

    id: int
    key: str
    title: str
    dag: bool
    parent: Item | None
    begin: float
    end: float | None
    state: str
    inputs: dict[str, Any]
    outputs: dict[str, Any] = field(default_factory=dict)
    iteration: int | None = None
    iterations: int | None = None
    attempts: int = 1
    pod: str = ""
    why: str = ""

    def where(self) -> tuple[str, ...]:
        """The names of Argo's nodes around it, and its own."""
        at = self.iteration
        own = (self.key,) if at is None else (f"iteration-iterations({at}:{at})", "iteration-item")
        return (*(self.parent.where() if self.parent else ()), *own)

    @property
    def written(self) -> str:
        """The name in ML Metadata: a loop's is the one that is shown, its iterations' is always the same."""
        if self.iteration is not None:
            return "iteration-item"
        return self.title if self.iterations is not None else self.key


@dataclass(frozen=True)
class Played:
    """A run of a compiled spec, task after task."""

    spec: Mapping[str, Any]
    run_id: str
    began: datetime
    parameters: Mapping[str, Any] = field(default_factory=dict)
    plan: Plan = field(default_factory=Plan)
    stopped_at: float | None = None
    again_at: float | None = None

    @property
    def workflow(self) -> str:
        return f"{self.spec.get('pipelineInfo', {}).get('name', 'pipeline')[:30]}-{self.run_id[:5]}"

    def terminated(self, seconds: float) -> Life:
        return replace(self, stopped_at=seconds)

    def retried(self, seconds: float) -> Life:
        return replace(self, again_at=seconds, stopped_at=None)

    def at(self, seconds: float) -> Moment:
        items = Player(self).play()
        root = items[0]
        over = root.end is not None and root.end <= seconds
        state = {"failed": "FAILED", "killed": "FAILED"}.get(root.state, "SUCCEEDED") if over else "RUNNING"
        if self.stopped_at is not None and not over:
            state = "CANCELING"
        history = [("PENDING", 0.0), ("RUNNING", 0.0)]
        if self.stopped_at is not None:
            history.append(("CANCELING", self.stopped_at))
        if self.again_at is not None:
            history += [("FAILED", self.again_at), ("RUNNING", self.again_at)]
        if over and root.end is not None:
            history.append((state, root.end))
        run: dict[str, Any] = {
            "state": state,
            "finished_at": self._time(root.end) if over and root.end is not None else NEVER,
            "state_history": [{"update_time": self._time(at), "state": name} for name, at in history],
            "run_details": {"task_details": list(self._details(items, seconds, over))},
        }
        shown = [item for item in items if item.begin <= seconds]
        return Moment(run, self._metadata(shown, seconds), list(self._pods(shown, seconds)))

    def _time(self, seconds: float) -> str:
        return stamp(self.began + timedelta(seconds=seconds))

    def _entry(self, name: str, state: str, begin: float, end: float | None, children: list[str]) -> dict[str, Any]:
        entry = {
            "run_id": self.run_id, "task_id": f"{name}-{begin:.3f}", "display_name": name, "state": state,
            "create_time": stamp(self.began), "start_time": self._time(begin),
            "end_time": self._time(end) if end is not None else "0001-01-01T00:00:00Z",
        }  # fmt: skip
        if children:
            entry["child_tasks"] = [{"pod_name": f"{self.workflow}-{child}"} for child in children]
        return entry

    def _details(self, items: list[Item], seconds: float, over: bool) -> Iterator[dict[str, Any]]:
        for item in items:
            if item.state == "omitted":
                if over or (item.end is not None and item.end <= seconds):
                    yield {"display_name": item.key, "run_id": self.run_id, "start_time": self._time(item.begin)}
                continue
            if item.begin > seconds:
                continue
            done = item.end is not None and item.end <= seconds
            said = {"failed": "FAILED", "killed": "FAILED", "skipped": "SKIPPED"}.get(item.state, "SUCCEEDED")
            state, end = (said, item.end) if done else ("RUNNING", None)
            if item.key == "":
                yield self._entry(self.workflow, state, item.begin, end, ["1"])
            elif item.iteration is None:
                yield self._entry(f"{item.key}-driver", "SUCCEEDED", item.begin, item.begin, ["2"])
                yield self._entry(item.key, state, item.begin, end, ["3"])
            if not item.dag:
                number = item.pod.rsplit("-", 1)[-1]
                children = [str(int(number) - back) for back in reversed(range(item.attempts))] if number else []
                yield self._entry("executor", "SKIPPED" if item.state == "cached" else state, item.begin, end, children)

    def _metadata(self, items: list[Item], seconds: float) -> dict[str, Any]:
        if not items:
            return {}
        base = int(self.began.timestamp() * 1000)

        def text(value: str) -> dict[str, str]:
            return {"string_value": value}

        executions = []
        for item in items:
            if item.state == "omitted":
                continue
            done = item.end is not None and item.end <= seconds
            state = {
                "ok": "COMPLETE", "cached": "CACHED", "failed": "FAILED", "skipped": "CANCELED", "killed": "RUNNING",
            }[item.state] if done else "RUNNING"  # fmt: skip
            if item.dag and state in ("COMPLETE", "FAILED"):
                state = "RUNNING"  # nobody ever closes them
            properties: dict[str, Any] = {
                "task_name": text(item.written),
                "display_name": text(item.title),
                "inputs": {"struct_value": item.inputs},
            }
            if item.parent is not None:
                properties["parent_dag_id"] = {"int_value": str(item.parent.id)}
            for name, number in (("iteration_index", item.iteration), ("iteration_count", item.iterations)):
                if number is not None:
                    properties[name] = {"int_value": str(number)}
            if not item.dag:
                begun = item.pod and item.begin + 0.05 <= seconds and not item.why and item.state != "cached"
                properties["pod_name"] = text(item.pod if begun else "")
                properties["namespace"] = text("kubeflow" if begun else "")
            if done and item.state in ("ok", "cached") and not item.dag:
                properties["outputs"] = {"struct_value": item.outputs}
            executions.append(
                {
                    "id": str(item.id),
                    "type": "system.DAGExecution" if item.dag else "system.ContainerExecution",
                    "last_known_state": state,
                    "custom_properties": properties,
                    "create_time_since_epoch": str(base + int(item.begin * 1000)),
                    "last_update_time_since_epoch": str(base + int(((item.end if done else None) or seconds) * 1000)),
                }
            )
        context = {
            "id": str(items[0].id), "name": self.run_id, "type": "system.PipelineRun",
            "custom_properties": {"pipeline_root": text(f"minio://mlpipeline/v2/artifacts/{self.run_id}")},
        }  # fmt: skip
        return {
            "GetContextByTypeAndName": {"context": context},
            "GetExecutionsByContext": {"executions": executions},
        }

    def _pods(self, items: list[Item], seconds: float) -> Iterator[dict[str, Any]]:
        for item in items:
            if item.dag or not item.pod or item.state in ("cached", "omitted", "skipped"):
                continue
            done = item.end is not None and item.end <= seconds
            status: dict[str, Any] = {
                "phase": "Running",
                "containerStatuses": [{"name": "main", "state": {"running": {}}}],
            }
            if item.why:
                said = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": item.why}
                status = {"phase": "Pending", "conditions": [{**said, "lastTransitionTime": self._time(item.begin)}]}
            elif done and item.state == "ok":
                status = {"phase": "Succeeded"}
            elif done:
                ended = {"name": "main", "state": {"terminated": {"exitCode": 1, "reason": "Error"}}}
                status = {"phase": "Failed", "containerStatuses": [ended]}
            node = ".".join(f"{part}(0)" for part in (self.workflow, "root", *item.where()[1:], "executor"))
            yield {
                "apiVersion": "v1", "kind": "Pod", "status": status,
                "metadata": {
                    "name": item.pod, "namespace": "kubeflow", "creationTimestamp": self._time(item.begin),
                    "labels": {"pipeline/runid": self.run_id},
                    "annotations": {"workflows.argoproj.io/node-name": node},
                },
            }  # fmt: skip


class Player:
    """Plays the spec in the order of its needs; pure, so a life can be asked about any second again."""

    def __init__(self, life: Played) -> None:
        self.life, self.plan = life, life.plan
        self.items: list[Item] = []
        self.next = int(life.run_id[:6], 16) * 1000 if re.match(r"[0-9a-f]{6}", life.run_id) else 1000

    def play(self) -> list[Item]:
        definitions = self.life.spec["root"].get("inputDefinitions", {}).get("parameters", {})
        defaults = {name: what["defaultValue"] for name, what in definitions.items() if "defaultValue" in what}
        root = self._item("", "", True, None, 0.0, {**defaults, **self.life.parameters})
        root.end, root.state, _ = self._dag(self.life.spec["root"]["dag"], root, 0.0)
        if root.end is not None and any(item.state in ("failed", "killed") for item in self.items[1:]):
            root.state = "failed"
        return self.items

    def _item(self, key: str, title: str, dag: bool, parent: Item | None, begin: float, inputs: dict[str, Any]) -> Item:
        self.next += 1
        pod = "" if dag else f"{self.life.workflow}-impl-{self.next * 10}"
        item = Item(self.next, key, title, dag, parent, begin, None, "ok", inputs, pod=pod)
        self.items.append(item)
        return item

    def _dag(self, dag: Mapping[str, Any], own: Item, begin: float) -> tuple[float | None, str, dict[str, Any]]:
        tasks = dag.get("tasks", {})
        done: dict[str, Item] = {}
        while len(done) < len(tasks):
            ready = [
                key for key in tasks if key not in done and all(need in done for need in _needs(tasks[key], tasks))
            ]
            assert ready, "the spec has a circle"
            for key in ready:
                done[key] = self._task(key, tasks[key], own, begin, [done[n] for n in _needs(tasks[key], tasks)], done)
        ends = [item.end for item in done.values()]
        states = {item.state for item in done.values()}
        end = None if None in ends else max([begin, *(e for e in ends if e is not None)])
        worst = next((each for each in ("killed", "failed") if each in states), "ok")
        given = {name: source.get("valueFromParameter", {}) for name, source in _outputs(dag).items()}
        found = {name: done.get(source.get("producerSubtask", "")) for name, source in given.items()}
        return end, worst, {n: item.outputs.get(given[n]["outputParameterKey"]) for n, item in found.items() if item}

    def _task(
        self, key: str, task: Mapping[str, Any], own: Item, begin: float, needs: list[Item], done: dict[str, Item]
    ) -> Item:
        always = task.get("triggerPolicy", {}).get("strategy") == "ALL_UPSTREAM_TASKS_COMPLETED"
        inputs = {name: self._value(source, own, done) for name, source in _parameters(task).items()}
        ends = [item.end for item in needs]
        start = float("inf") if None in ends else max([begin, *(e for e in ends if e is not None)])
        component = self.life.spec["components"][task["componentRef"]["name"]]
        item = self._item(key, task.get("taskInfo", {}).get("name", ""), "dag" in component, own, start, inputs)
        stopped = self.life.stopped_at
        if start == float("inf"):
            return item
        broken = any(need.state in ("failed", "killed", "omitted") for need in needs)
        if (broken or (stopped is not None and start >= stopped)) and not always:
            item.state, item.end = "omitted", start
        elif (condition := task.get("triggerPolicy", {}).get("condition")) and not _holds(condition, inputs):
            item.state, item.end = "skipped", start + self.plan.task_s / 4
        elif "dag" in component:
            self._group(item, task, component["dag"])
        else:
            self._leaf(item, always, component)
        return item

    def _group(self, item: Item, task: Mapping[str, Any], dag: Mapping[str, Any]) -> None:
        if "parameterIterator" not in task and "artifactIterator" not in task:
            item.end, item.state, item.outputs = self._dag(dag, item, item.begin + self.plan.task_s / 4)
            return
        item.iterations = self.plan.loops.get(item.key, 2)
        ends, states = [], []
        for index in range(item.iterations):
            one = self._item(item.key, item.title, True, item, item.begin, dict(item.inputs))
            one.iteration = index
            one.end, one.state, _ = self._dag(dag, one, item.begin)
            ends.append(one.end)
            states.append(one.state)
        item.end = None if None in ends else max(e for e in ends if e is not None)
        item.state = next((s for s in ("killed", "failed") if s in states), "ok")

    def _leaf(self, item: Item, always: bool, component: Mapping[str, Any]) -> None:
        plan, again = self.plan, self.life.again_at
        item.end = item.begin + plan.slow.get(item.key, plan.task_s)
        declared = component.get("outputDefinitions", {}).get("parameters", {})
        item.outputs = {
            name: plan.outputs.get((item.key, name), 0.95 if what["parameterType"].startswith("NUMBER") else "ok")
            for name, what in declared.items()
        }
        item.attempts = plan.attempts.get(item.key, 1)
        if item.key in plan.stuck:
            item.why, item.end = plan.stuck[item.key], None
        elif item.key in plan.failing and again is None:
            item.state = "failed"
        elif item.key in plan.failing and again is not None:
            # the API's retry keeps what succeeded and runs this again from then on
            item.begin = max(item.begin, again)
            item.end = item.begin + plan.task_s
        elif item.key in plan.cached:
            item.state = "cached"
        stopped = self.life.stopped_at
        if stopped is not None and not always and (item.end is None or item.end > stopped):
            item.state, item.end = "killed", max(stopped, item.begin)

    def _value(self, source: Mapping[str, Any], own: Item, done: Mapping[str, Item]) -> Any:
        if "componentInputParameter" in source:
            return own.inputs.get(source["componentInputParameter"])
        if produced := source.get("taskOutputParameter"):
            producer = done.get(produced["producerTask"])
            return producer.outputs.get(produced["outputParameterKey"]) if producer else None
        return source.get("runtimeValue", {}).get("constant")


def _outputs(dag: Mapping[str, Any]) -> Mapping[str, Any]:
    return dag.get("outputs", {}).get("parameters", {})


def _parameters(task: Mapping[str, Any]) -> Mapping[str, Any]:
    return task.get("inputs", {}).get("parameters", {})


def _needs(task: Mapping[str, Any], tasks: Mapping[str, Any]) -> list[str]:
    found = list(task.get("dependentTasks", ()))
    for group in task.get("inputs", {}).values():
        for source in group.values():
            for value in source.values():
                if isinstance(value, dict) and value.get("producerTask") in tasks:
                    found.append(value["producerTask"])
    return list(dict.fromkeys(found))


def _holds(condition: str, inputs: Mapping[str, Any]) -> bool:
    text = _VALUE.sub(lambda match: repr(inputs.get(match[1])), condition)
    left, operator, right = re.split(r"\s*(>=|<=|==|!=|>|<)\s*", text, maxsplit=1)
    a, b = (float(re.sub(r"^\w+\(|\)$", "", side)) for side in (left, right))
    return {">=": a >= b, "<=": a <= b, "==": a == b, "!=": a != b, ">": a > b, "<": a < b}[operator]
