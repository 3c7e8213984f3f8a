"""kfp.local 2.17.0 with live states: the only place that replaces its private functions.

`task_executor.execute_single_task` is wrapped (a task begins, is cached, ends), its pause between attempts and
`subprocess_task_handler.run_local_subprocess` are replaced (an attempt); and a condition over a named output, which kfp
cannot resolve, is. `tests/local/test_kfp_contract.py` holds them to what kfp has.
"""

from __future__ import annotations

import hashlib
import json
import math
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from evctl.backends.local.content import (
    argument_content,
    code_digest,
    drop_if_damaged,
    keep_digests,
    output_digests,
    source_content,
)
from evctl.backends.local.forks import Forks
from evctl.backends.local.recorder import Recorder
from evctl.backends.local.steps import Step

GOOD = {"SUCCEEDED", "CACHED"}
EXIT_PATIENCE_S = 40.0
"""Seconds an exit handler has in a cancelled run, so that `evctl cancel`, which waits a minute, sees the end."""


class Tracker:
    """What the two replaced functions do with a task. `current` is the task of this thread."""

    def __init__(
        self,
        recorder: Recorder,
        *,
        run_id: str,
        new_log: Callable[[str], Path],
        timeouts: Mapping[str, float],
        step_env: Callable[[str], Mapping[str, str]],
        exit_tasks: frozenset[str],
        use_cache: bool,
        forks: Forks | None = None,
        exit_patience_s: float = EXIT_PATIENCE_S,
    ) -> None:
        self.recorder, self.run_id = recorder, run_id
        self.new_log, self.timeouts, self.step_env = new_log, timeouts, step_env
        self.exit_tasks, self.use_cache, self.forks = exit_tasks, use_cache, forks
        self.cancelled = threading.Event()
        self._exit_patience_s, self._exit_deadline = exit_patience_s, math.inf
        self._here = threading.local()
        self.kept = {
            name: entry["outputs"]
            for name, entry in recorder.document["tasks"].items()
            if entry.get("state") in GOOD and "outputs" in entry and entry.get("ends") == 1
        }
        """Outputs of tasks that a retry keeps; a loop's tasks, which share a name, run again."""

    def cancel(self) -> None:
        """End what runs; the exit handler has `exit_patience_s` seconds from now for all its attempts."""
        self._exit_deadline = time.monotonic() + self._exit_patience_s
        self.cancelled.set()

    def install(self) -> None:
        """Replace the two functions in this process."""
        from kfp.local import subprocess_task_handler
        from kfp.local.orchestrator import enhanced_dag_orchestrator, task_executor

        original = task_executor.execute_single_task
        evaluator = enhanced_dag_orchestrator.ConditionEvaluator
        resolve = evaluator._resolve_pipeline_channel

        def execute_single_task(**call: Any) -> Any:
            return self.execute(original, call)

        task_executor.execute_single_task = execute_single_task
        task_executor.time = SimpleNamespace(sleep=self.pause)
        subprocess_task_handler.run_local_subprocess = self.run_attempt
        evaluator._resolve_pipeline_channel = staticmethod(
            lambda reference, store: named_output(reference, store, resolve)
        )

    def execute(self, original: Callable[..., Any], call: dict[str, Any]) -> Any:
        """Run one task by kfp's own function, recording what becomes of it."""
        from kfp.local import status
        from kfp.local.cache import LocalCache, _MissingArtifactError, get_local_cache

        name = call["task_name"].replace("-", "_")
        if name in self.kept and name not in self.exit_tasks:
            try:
                outputs = LocalCache._deserialize_outputs(self.kept[name])
            except _MissingArtifactError:
                pass  # what was kept has been deleted: run the task again
            else:
                self.recorder.keep(name)
                return outputs, status.Status.SUCCESS
        if self.cancelled.is_set() and name not in self.exit_tasks:
            self.recorder.end(name, "CANCELED", reason="the run was cancelled")
            return {}, status.Status.FAILURE
        spec = call["task_spec"].__class__()
        spec.CopyFrom(call["task_spec"])
        if not self.use_cache:
            spec.caching_options.enable_cache = False
        entry: Path | None = None
        cache = get_local_cache()
        if spec.caching_options.enable_cache and cache is not None:
            key = spec.caching_options.cache_key = self._cache_key(call)
            component = spec.component_ref.name
            entry = Path(cache._entry_path(cache.compute_key(component, "", [], {}, custom_cache_key=key)))
            drop_if_damaged(entry)
        self._here.task, self._here.failed = name, None
        self.recorder.begin(name)
        outputs, outcome = original(**{**call, "task_spec": spec, "unique_pipeline_id": self.run_id})
        if outcome == status.Status.SUCCESS:
            cached = self.recorder.attempts(name) == 0
            serialised = LocalCache._serialize_outputs(outputs)
            if entry is not None and not cached:
                keep_digests(entry, output_digests(serialised))
            self.recorder.end(name, "CACHED" if cached else "SUCCEEDED", outputs=serialised)
        else:
            stopped = self.cancelled.is_set() and name not in self.exit_tasks
            reason = "the run was cancelled" if stopped else self._here.failed or "no output was written"
            self.recorder.end(name, "CANCELED" if stopped else "FAILED", reason=reason)
        return outputs, outcome

    def pause(self, seconds: float) -> None:
        """Wait between two attempts; a cancelled run does not, but for its exit handler."""
        if self._here.task not in self.exit_tasks:
            self.cancelled.wait(seconds)
            return
        until = time.monotonic() + seconds
        while time.monotonic() < min(until, self._exit_deadline):
            time.sleep(0.05)

    def run_attempt(self, full_command: list[str], env_vars: dict[str, str] | None = None) -> int:
        """Run one attempt in a process of its own; kfp calls this in place of its own function."""
        name = self._here.task
        if self._overdue(name):
            return 1
        env = {**(env_vars or {}), **self.step_env(name)}
        number = self.recorder.attempt(name)
        step = Step(full_command, env, self.new_log(name), self.timeouts.get(name), self.forks)
        code = step.wait(lambda: self._overdue(name))
        self._here.failed = self._why(step, code, name) if code else None
        if code and not self._overdue(name):
            self.recorder.task(name, reason=f"attempt {number}: {self._here.failed}")
        return code

    def _overdue(self, name: str) -> bool:
        """Whether a task has to end: at once when the run is cancelled, the exit handler a while later."""
        return time.monotonic() >= self._exit_deadline if name in self.exit_tasks else self.cancelled.is_set()

    def _why(self, step: Step, code: int, name: str) -> str:
        if name in self.exit_tasks and self._overdue(name):
            return f"took longer than the {self._exit_patience_s:g} s it has in a cancelled run"
        return step.reason(code)

    def _cache_key(self, call: Mapping[str, Any]) -> str:
        """Key a task on what kfp's key leaves out: the code that is installed and the content of its inputs."""
        from kfp.local.orchestrator.orchestrator_utils import OrchestratorUtils

        component = call["components"][call["task_spec"].component_ref.name]
        container = call["executors"][component.executor_label].container
        arguments = OrchestratorUtils.make_task_arguments(
            task_inputs_spec=call["task_spec"].inputs, io_store=call["io_store"]
        )
        stated = {
            # its source is the fourth word of what kfp makes of a component
            "code": code_digest("".join(container.command[3:4])),
            "command": [*container.command, *container.args],
            "env": {variable.name: variable.value for variable in container.env},
            "arguments": {key: argument_content(value) for key, value in sorted(arguments.items())},
            "source": source_content(arguments),
        }
        return hashlib.sha256(json.dumps(stated, sort_keys=True, default=str).encode()).hexdigest()


def named_output(reference: str, store: Any, resolve: Callable[[str, Any], Any]) -> Any:
    """Resolve a condition's `task-output` channel; kfp.local knows only outputs that are called `Output`."""
    bare = reference.removeprefix("pipelinechannel--")
    for at in range(len(bare) - 1, 0, -1):
        if bare[at] == "-":
            try:
                return store.get_task_output(bare[:at], bare[at + 1 :])
            except (KeyError, ValueError):
                continue
    return resolve(reference, store)
