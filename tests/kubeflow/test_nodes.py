"""Argo's nodes by place, held to what a real Argo 4.0.5 made of a loop and an exit hook as KFP's compiler writes them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from evctl.backends.kubeflow import nodes
from tests.kubeflow.synthesised import Synthesis, node_id

RECORDED = json.loads((Path(__file__).parents[1] / "recordings" / "argo-4.0" / "loop_nodes.json").read_text())
WORKFLOW = "c-helper-loop"


def run() -> dict[str, Any]:
    """The recorded nodes as KFP's API would list them."""
    details = []
    for each in RECORDED:
        children = [{"pod_name": child} for child in each["children"]]
        details.append({"display_name": each["displayName"], "state": each["phase"].upper(), "child_tasks": children})
    return {"run_details": {"task_details": details}}


def test_ids_are_the_hashes_of_names() -> None:
    assert {each["id"] for each in RECORDED} == {node_id(WORKFLOW, each["name"]) for each in RECORDED}
    found = nodes.read(run())
    assert found.exact and found.workflow == WORKFLOW


def test_every_node_is_found_at_its_place_and_nothing_else_is() -> None:
    found = nodes.read(run())
    for each in RECORDED:
        place = nodes.place_of(each["name"])
        if place:
            assert found.state(place) is not None, place
    assert found.iterations("root.for-loop-1") == (0, 1) and found.iterations("root.exit-handler-1") == ()
    assert found.state("root.for-loop-1.work") is None and found.state("root.after.work") is None
    assert found.tried(f"{nodes.iteration('root.for-loop-1', 1)}.work") == 1


def test_the_places_of_the_walk_are_argos_own() -> None:
    wanted = {
        f"{nodes.iteration('root.for-loop-1', 1)}.work.executor",
        "root.for-loop-1.iteration-driver",
        f"root.exit-handler-1.{nodes.HOOK}.work",
        "root.exit-handler-1.work",
    }
    assert wanted <= {nodes.place_of(each["name"]) for each in RECORDED}


@pytest.mark.parametrize("index", [0, 1])
def test_two_tasks_of_one_name_have_each_their_own_state(index: int) -> None:
    document = run()
    name = f"({index}:{index})(0).iteration-item(0).work"
    at = next(at for at, each in enumerate(RECORDED) if each["name"].endswith(name))
    document["run_details"]["task_details"][at]["state"] = "FAILED"
    found = nodes.read(document)
    states = {i: found.state(f"{nodes.iteration('root.for-loop-1', i)}.work") for i in (0, 1)}
    assert states == {index: "FAILED", 1 - index: "SUCCEEDED"}
    assert found.state("root.exit-handler-1.work") == "SUCCEEDED"


def test_what_is_synthesised_is_named_as_argo_names_it() -> None:
    spec = {
        "root": {"dag": {"tasks": {
            "for-loop-1": {"componentRef": {"name": "comp-loop"}, "parameterIterator": {}},
            "after": {"componentRef": {"name": "comp-work"}, "dependentTasks": ["for-loop-1"]},
        }}},
        "components": {
            "comp-loop": {"dag": {"tasks": {"work": {"componentRef": {"name": "comp-work"}}}}},
            "comp-work": {"executorLabel": "exec-work"},
        },
        "deploymentSpec": {"executors": {"exec-work": {"container": {}}}},
    }  # fmt: skip
    made = Synthesis(spec, workflow=WORKFLOW)
    mine = {name for name in made.nodes if "for-loop-1" in name and "-driver" not in name}
    argos = {each["name"] for each in RECORDED if "for-loop-1" in each["name"] and "-driver" not in each["name"]}
    assert mine == argos


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("2026-11-23T07:08:12.123456789Z", "2026-11-23T07:08:12.123456+00:00"),
        ("2026-11-23T09:08:12+02:00", "2026-11-23T09:08:12+02:00"),
        ("2026-11-23T07:08:12", "2026-11-23T07:08:12+00:00"),
        ("1970-01-01T00:00:00Z", None),
        ("0001-01-01T00:00:00Z", None),
        ("soon", None),
    ],
)
def test_times_of_any_spelling_are_read(text: str, wanted: str | None) -> None:
    found = nodes.moment(text)
    assert (found.isoformat() if found else None) == wanted
