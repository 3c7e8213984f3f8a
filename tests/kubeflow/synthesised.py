"""What API, ML Metadata and pods of a real Kubeflow 2.17 say of a run of any compiled pipeline, made from its spec.

Names and ids are written as Argo and KFP's driver, launcher and compiler write them (argo-workflows `NodeID`, `expandTask`;
kubeflow/pipelines `argocompiler/dag.go`, `driver`, `importer_launcher.go`), by code that shares nothing with evctl's:
a loop's execution has the name that is shown, its iterations are all called `iteration-item`, and so is their node.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from evctl.backends.kubeflow import pods as pod_reader
from evctl.backends.kubeflow.join import Sources
from evctl.backends.metadata.values import Execution, RunMetadata

BEGAN = datetime(2026, 11, 27, 9, 0, tzinfo=UTC)
RUN_ID = "5f0c6a1e-0000-4000-8000-000000000001"
Path = tuple[str | int, ...]
OVER = ("ok", "cached", "skipped")
"""Ends after which what needs a task goes on."""


def node_id(workflow: str, name: str) -> str:
    """Argo's id of a node: FNV-1a, 32 bits."""
    number = 2166136261
    for byte in name.encode():
        number = (number ^ byte) * 16777619 % (1 << 32)
    return workflow if name == workflow else f"{workflow}-{number}"


@dataclass
class Node:
    name: str
    state: str | None
    children: list[str] = field(default_factory=list)


@dataclass
class Synthesis:
    """One run.

    Args:
        fates: how a task goes, by its path of keys and iterations: `ok` (the default), `cached`, `failed`, `driver_failed`,
            `killed` (its pod ended before its launcher could say so), `running`, `waiting` (its pod does not start).
        opens: whether a gate opens. counts: how many iterations a loop has. begun: how many of them have begun.
        state: the run's; None finds it. retried: whether the controller has KFP's default of retries on every node.
    """

    spec: Mapping[str, Any]
    fates: Mapping[Path, str] = field(default_factory=dict)
    opens: Mapping[str, bool] = field(default_factory=dict)
    counts: Mapping[str, int] = field(default_factory=dict)
    begun: Mapping[str, int] = field(default_factory=dict)
    outputs: Mapping[Path, Mapping[str, Any]] = field(default_factory=dict)
    state: str | None = None
    terminated: bool = False
    retried: bool = True
    workflow: str = "somebody-elses-x7k2p"

    def __post_init__(self) -> None:
        self.nodes: dict[str, Node] = {}
        self.executions: list[Execution] = []
        self.pods: list[dict[str, Any]] = []
        self.clock = 0
        root = self._execution("", None, is_dag=True)
        top = self._node(self.workflow, None, "SUCCEEDED")
        driver = self._node(f"{top}.root-driver", top, "SUCCEEDED")
        self.ended = self._dag("root", self.spec["root"]["dag"], top, driver, root, ())
        self._set(self.workflow, self._word(self.ended))

    def sources(self, *, metadata: bool = True, pods: bool = True, spec: bool = True) -> Sources:
        state = self.state or {"failed": "FAILED", "running": "RUNNING"}.get(self.ended, "SUCCEEDED")
        history = ["PENDING", "RUNNING", *(["CANCELING"] if self.terminated else []), state]
        details = [self._entry(node) for node in self.nodes.values()]
        run = {
            "run_id": RUN_ID, "display_name": "theirs", "state": state, "created_at": "2026-11-27T09:00:00Z",
            "finished_at": "1970-01-01T00:00:00Z" if state == "RUNNING" else "2026-11-27T09:10:00Z",
            "state_history": [{"state": each} for each in history], "run_details": {"task_details": details},
        }  # fmt: skip
        return Sources(
            run=run,
            spec=self.spec if spec else None,
            metadata=RunMetadata(tuple(self.executions)) if metadata else None,
            metadata_down=not metadata,
            pods=pod_reader.read(self.pods) if pods else None,
            env="dev",
        )

    def _entry(self, node: Node) -> dict[str, Any]:
        # an executor is made at the moment its task is
        task = self.nodes.get(node.name.removesuffix("(0)").removesuffix(".executor"), node)
        minute = list(self.nodes).index(task.name.removesuffix("(0)"))
        entry: dict[str, Any] = {
            "task_id": node.name, "display_name": self._display(node.name),
            "start_time": f"2026-11-27T{9 + minute // 60:02}:{minute % 60:02}:00Z", "end_time": "2026-11-27T23:00:00Z",
        }  # fmt: skip
        if node.state:
            entry["state"] = node.state
        if node.children:
            entry["child_tasks"] = [{"pod_name": node_id(self.workflow, child)} for child in node.children]
        return entry

    def _dag(self, key: str, dag: Mapping[str, Any], above: str, driver: str, own: Execution | None, path: Path) -> str:
        """Run a DAG below node `above`; return how it ended."""
        name = self._node(f"{above}.{key}", driver, "RUNNING")
        tasks, ends, lasts = dag["tasks"], {}, {}
        for each in _in_order(tasks):
            task = tasks[each]
            needs = [need for need in _needs(task) if need in tasks]
            hook = task.get("triggerPolicy", {}).get("strategy") == "ALL_UPSTREAM_TASKS_COMPLETED"
            if hook and any(ends[need] == "running" for need in needs):
                ends[each] = "absent"
                continue
            if hook:
                base = self._node(f"{name}.{needs[0]}.onExit", f"{name}.{needs[0]}", "SUCCEEDED")
                ends[each], lasts[each] = self._task(each, task, base, [base], own, path)
            elif any(ends[need] in ("running", "absent") for need in needs):
                ends[each] = "absent"
            else:
                froms = [lasts[need] for need in needs] or [name]
                fine = all(ends[need] in OVER for need in needs)
                ends[each], lasts[each] = self._task(each, task, name, froms, own, path, fine=fine)
        found = set(ends.values())
        ended = next((each for each in ("running", "absent") if each in found), None)
        ended = "running" if ended else ("failed" if found - {*OVER} else "ok")
        self._set(f"{above}.{key}", self._word(ended))
        return ended

    def _task(
        self,
        key: str,
        task: Mapping[str, Any],
        above: str,
        froms: list[str],
        own: Execution | None,
        path: Path,
        *,
        fine: bool = True,
    ) -> tuple[str, str]:
        """Run a task of a DAG; return how it ended and the node that what needs it hangs on."""
        component = self.spec["components"][task["componentRef"]["name"]]
        title = task.get("taskInfo", {}).get("name", "")
        if "parameterIterator" in task:
            return self._loop(key, title, component["dag"], above, froms, own, (*path, key), fine=fine)
        here: Path = (*path, key)
        executor = self.spec["deploymentSpec"]["executors"].get(component.get("executorLabel"), {})
        if "importer" in executor:
            node = self._hang(f"{above}.{key}", froms, "SUCCEEDED" if fine else None)
            if fine:
                self._execution(title, own, importer=True, state="COMPLETE")
            return ("ok" if fine else "omitted"), f"{above}.{key}"
        fate = self.fates.get(here, "ok")
        if str(executor.get("container", {}).get("image", "")).startswith("argostub/"):
            return self._claim(key, above, froms, own, fate, fine=fine), f"{above}.{key}"
        driver = f"{above}.{key}-driver"
        broken = fate == "driver_failed"
        node = self._hang(driver, froms, ("FAILED" if broken else "SUCCEEDED") if fine else None)
        if fine:
            self._pod(node, "driver", "Failed" if broken else "Succeeded")
        if not fine or broken:
            self._node(f"{above}.{key}", driver, None)
            return ("failed" if fine else "omitted"), f"{above}.{key}"
        if "dag" in component:
            open_ = self.opens.get(key, True) or "condition" not in task.get("triggerPolicy", {})
            execution = self._execution(key, own, title=title, is_dag=True, state="RUNNING" if open_ else "CANCELED")
            if not open_:
                self._node(f"{above}.{key}", driver, "SKIPPED")
                return "skipped", f"{above}.{key}"
            return self._dag(key, component["dag"], above, driver, execution, here), f"{above}.{key}"
        return self._leaf(key, title, above, driver, own, here, fate), f"{above}.{key}"

    def _leaf(self, key: str, title: str, above: str, driver: str, own: Execution | None, path: Path, fate: str) -> str:
        states = {"ok": "COMPLETE", "cached": "CACHED", "failed": "FAILED"}
        word = self._word({"killed": "failed", "waiting": "running"}.get(fate, fate))
        node = self._node(f"{above}.{key}", driver, word)
        inside = f"{node}.executor"
        executor = self._node(inside, node, "SKIPPED" if fate == "cached" else word, started=fate != "cached")
        pod = None
        if fate != "cached":
            phase = {"ok": "Succeeded", "running": "Running", "waiting": "Pending"}.get(fate, "Failed")
            pod = self._pod(executor, "impl", phase, fate)
        self._execution(
            key, own, title=title, state=states.get(fate, "RUNNING"),
            pod=None if fate == "waiting" else pod, outputs=self.outputs.get(path, {}) if fate in OVER else {},
        )  # fmt: skip
        return {"killed": "failed", "waiting": "running"}.get(fate, fate)

    def _claim(self, key: str, above: str, froms: list[str], own: Execution | None, fate: str, *, fine: bool) -> str:
        """What the driver does by itself: its pod is the task's only one, and has the task's name among Argo's nodes."""
        word = self._word(fate)
        node = self._hang(f"{above}.{key}", froms, word if fine else None)
        if not fine:
            return "omitted"
        pod = self._pod(node, "driver", {"running": "Running", "failed": "Failed"}.get(fate, "Succeeded"))
        if fate != "running":  # it writes nothing before it has ended
            states = {"cached": "CACHED", "failed": "FAILED"}
            self._execution(key, own, state=states.get(fate, "COMPLETE"), pod=pod)
        return fate

    def _loop(
        self,
        key: str,
        title: str,
        dag: Mapping[str, Any],
        above: str,
        froms: list[str],
        own: Execution | None,
        path: Path,
        *,
        fine: bool,
    ) -> tuple[str, str]:
        base = f"{above}.{key}"
        node = self._hang(base, froms, "RUNNING" if fine else None)
        if not fine:
            return "omitted", base
        count = self.counts.get(key, 2)
        loop = self._execution(title, own, title=title, is_dag=True, iterations=count)
        driver = self._node(f"{node}.iteration-driver", node, "SUCCEEDED")
        group = f"{node}.iteration-iterations"
        self.nodes[group] = Node(group, "RUNNING")
        self.nodes[driver].children.append(group)
        ends = []
        for index in range(min(count, self.begun.get(key, count))):
            item = self._node(f"{node}.iteration-iterations({index}:{index})", group, "RUNNING")
            inner = self._node(f"{item}.iteration-item-driver", item, "SUCCEEDED")
            own_item = self._execution("iteration-item", loop, title=title, is_dag=True, iteration=index)
            ends.append(self._dag("iteration-item", dag, item, inner, own_item, (*path, index)))
            self._set(f"{node}.iteration-iterations({index}:{index})", self._word(ends[-1]))
        if len(ends) < count and "failed" not in ends:
            ends.append("running")
        ended = next((each for each in ("running", "failed") if each in ends), "ok")
        self.nodes[group].state = self._word(ended)
        self._set(base, self._word(ended))
        return ended, base

    def _hang(self, name: str, froms: list[str], state: str | None) -> str:
        """Make a node that hangs on several; return where its own inside is."""
        inside = self._node(name, froms[0], state)
        for other in froms[1:]:
            self.nodes[other].children.append(name)
        return inside

    def _node(self, name: str, parent: str | None, state: str | None, *, started: bool = True) -> str:
        """Make a node; return the name its inside is under: its attempt's where every node is retried."""
        self.nodes[name] = Node(name, state)
        if parent is not None:
            self.nodes[parent].children.append(name)
        if not self.retried or state in (None, "SKIPPED") or not started:
            return name
        attempt = f"{name}(0)"
        self.nodes[attempt] = Node(attempt, state)
        self.nodes[name].children.append(attempt)
        return attempt

    def _set(self, name: str, state: str | None) -> None:
        for each in (name, f"{name}(0)"):
            if each in self.nodes:
                self.nodes[each].state = state

    @staticmethod
    def _word(ended: str) -> str:
        return {"failed": "FAILED", "running": "RUNNING"}.get(ended, "SUCCEEDED")

    @staticmethod
    def _display(name: str) -> str:
        parts = name.split(".")
        return ".".join(parts[-2:]) if parts[-1].startswith("onExit") else parts[-1]

    def _execution(
        self, task: str, parent: Execution | None, *, title: str = "", state: str = "RUNNING", **fields: Any
    ) -> Execution:
        self.clock += 1
        at = BEGAN + timedelta(seconds=self.clock)
        made = Execution(
            id=100 + self.clock, task=task, state=state, is_dag=fields.pop("is_dag", False), display_name=title,
            parent=parent.id if parent else None, created_at=at, updated_at=at + timedelta(seconds=5), **fields,
        )  # fmt: skip
        self.executions.append(made)
        return made

    def _pod(self, node: str, kind: str, phase: str, fate: str = "") -> str:
        name = f"{self.workflow}-system-container-{kind}-{node_id(self.workflow, node).rpartition('-')[2]}"
        status: dict[str, Any] = {"phase": phase}
        if phase == "Failed":
            ended = {"exitCode": 137, "reason": "OOMKilled"} if fate == "killed" else {"exitCode": 1, "reason": "Error"}
            status["containerStatuses"] = [{"name": "main", "state": {"terminated": ended}}]
        elif phase == "Running":
            status["containerStatuses"] = [{"name": "main", "state": {"running": {}}}]
        elif phase == "Pending":
            said = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/1 nodes"}
            status["conditions"] = [said]
        self.clock += 1
        self.pods.append({
            "metadata": {
                "name": name, "namespace": "kubeflow", "annotations": {pod_reader.NODE_NAME: node},
                "creationTimestamp": (BEGAN + timedelta(seconds=self.clock)).strftime("%Y-%m-%dT%H:%M:%SZ"),
            },
            "status": status,
        })  # fmt: skip
        return name


def _needs(task: Mapping[str, Any]) -> list[str]:
    found = list(task.get("dependentTasks", ()))
    for group in task.get("inputs", {}).values():
        for source in group.values():
            found += [
                value["producerTask"]
                for value in source.values()
                if isinstance(value, dict) and "producerTask" in value
            ]
    return list(dict.fromkeys(found))


def _in_order(tasks: Mapping[str, Any]) -> list[str]:
    order: list[str] = []
    while len(order) < len(tasks):
        order += [
            key for key in sorted(tasks)
            if key not in order and all(need in order for need in _needs(tasks[key]) if need in tasks)
        ]  # fmt: skip
    return order
