"""Answers with holes: a field that is missing or null, anywhere in any source, never stops a run from being shown."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from evctl.backends.base import Run, RunState, TaskState
from evctl.backends.kubeflow import pods as pod_reader
from evctl.backends.kubeflow.join import join
from evctl.backends.metadata.values import RunMetadata
from evctl.documents import run_document
from evctl.lifecycle import exit_code_of, standstill
from evctl.views import run_lines
from tests.kubeflow.recorded import SITUATIONS, load, situation

LIVES = 60


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if path:
        yield path
    if isinstance(value, dict):
        for key, each in value.items():
            yield from places(each, (*path, key))
    elif isinstance(value, list):
        for at, each in enumerate(value):
            yield from places(each, (*path, at))


def holed(document: Any, dice: random.Random, holes: int, keep: Callable[[tuple[Any, ...]], bool]) -> Any:
    """Return the document with some fields removed or null."""
    broken = copy.deepcopy(document)
    for _ in range(holes):
        path = dice.choice([path for path in places(broken) if not keep(path)])
        *above, last = path
        owner = broken
        for part in above:
            owner = owner[part]
        if isinstance(owner, dict) and dice.random() < 0.5:
            del owner[last]
        elif isinstance(owner, dict) or not isinstance(owner[last], dict):
            owner[last] = None
    return broken


def shown(run: Run) -> None:
    """Everything that is done with a run."""
    assert isinstance(run.state, RunState)
    assert all(isinstance(task.state, TaskState) for task in run.tasks)
    assert list(run_lines(run)) and run_document(run)
    assert exit_code_of(run) in (0, 1, 5, 8)
    standstill(run)


@pytest.mark.parametrize("name", SITUATIONS)
def test_a_run_document_with_holes_is_shown(name: str) -> None:
    whole = situation(name)
    dice = random.Random(name)
    spec_or_id = lambda path: path[0] in ("pipeline_spec", "run_id") or path[-1] in (0,)  # noqa: E731
    slim = {key: value for key, value in whole.run.items() if key != "pipeline_spec"}
    details = (slim.get("run_details") or {}).get("task_details") or []
    slim["run_details"] = {"task_details": dice.sample(details, min(12, len(details)))}
    for _ in range(LIVES):
        shown(join(replace(whole, run=holed(slim, dice, dice.randint(1, 6), spec_or_id))))


@pytest.mark.parametrize("name", ["missing_secret", "image_pull_error", "task_failed", "retries_exhausted"])
def test_pods_with_holes_are_read(name: str) -> None:
    whole = situation(name)
    dice = random.Random(name)
    items = load(f"runs/{name}/pods.json")
    for each in items:
        each["spec"] = {}
    named = lambda path: path[-1] in ("metadata", "name", "status", 0) or len(path) < 3  # noqa: E731
    for _ in range(LIVES):
        shown(join(replace(whole, pods=pod_reader.read(holed(items, dice, 3, named)))))


@pytest.mark.parametrize("name", sorted(set(SITUATIONS) - {"running_unschedulable"}))
def test_executions_that_are_not_there_yet_or_any_more_are_done_without(name: str) -> None:
    whole = situation(name)
    assert whole.metadata is not None
    dice = random.Random(name)
    for _ in range(LIVES):
        some = tuple(each for each in whole.metadata.executions if dice.random() < 0.7)
        shown(join(replace(whole, metadata=RunMetadata(some, whole.metadata.links, whole.metadata.artifacts))))
        shown(join(replace(whole, metadata=RunMetadata(some), spec=None)))
