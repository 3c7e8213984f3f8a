"""What the users' CI and `make e2e` do, as commands against a Kubeflow: the same scripts, over real sockets."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from tests.e2e.life import live
from tests.fakes.kfp_life import Life, Plan, Played
from tests.kubeflow.conftest import Kubeflow
from tests.test_ci_files import evctl_lines, github, gitlab

pytestmark = [pytest.mark.kubeflow, pytest.mark.slow]
QUICK = Plan(task_s=0.05)


def lives(plan: Plan) -> Callable[[str, Mapping[str, Any], Mapping[str, Any]], Life]:
    return lambda run_id, spec, parameters: Played(spec, run_id, datetime.now(UTC), parameters, plan)


@pytest.mark.parametrize("lines", [github, gitlab])
def test_what_ci_delivers_is_uploaded_once_and_run(kubeflow: Kubeflow, lines: Callable[[], list[str]]) -> None:
    kubeflow.profile()
    kubeflow.world.plan = QUICK
    for line in evctl_lines(lines()):
        if line.startswith(("upload", "run")):
            done = subprocess.run(
                [sys.executable, "-m", "evctl", *shlex.split(line), "-o", "json"],
                capture_output=True,
                text=True,
                check=False,
                env=dict(os.environ),
            )
            assert done.returncode == 0, done.stderr
            document = json.loads(done.stdout)
    assert document["state"] == "SUCCEEDED"
    assert document["model"] is not None
    assert len(kubeflow.world.versions) == 1
    assert len(kubeflow.world.runs) == 1


class Printed(dict[str, str]):
    """The log of every pod."""

    def __contains__(self, pod: object) -> bool:
        return True

    def __missing__(self, pod: str) -> str:
        return f"{pod} was here\n"


def test_the_life_of_make_e2e_goes_well_up_to_serving(kubeflow: Kubeflow) -> None:
    kubeflow.profile()
    kubeflow.world.logs = Printed()
    kubeflow.world.lives = [
        lives(QUICK),
        lives(replace(QUICK, cached=frozenset({"train-fault-classifier"}))),
        lives(QUICK),
        lives(replace(QUICK, failing=frozenset({"ingest-battery-data"}))),
        lives(replace(QUICK, slow={"train-fault-classifier": 60.0})),
    ]
    steps = ("run", "status", "logs", "run, cached", "gate refused", "failed task", "cancel")
    rows = live("dev", 60.0, steps)
    assert {row["step"]: row["result"] for row in rows} == dict.fromkeys(steps, "pass"), rows
