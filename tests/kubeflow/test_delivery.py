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
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.life import live
from tests.fakes.kfp_life import Life, Plan, Played
from tests.kubeflow.conftest import Kubeflow
from tests.test_ci_files import evctl_lines, github

pytestmark = [pytest.mark.kubeflow, pytest.mark.slow]
QUICK = Plan(task_s=0.05)


def lives(plan: Plan) -> Callable[[str, Mapping[str, Any], Mapping[str, Any]], Life]:
    return lambda run_id, spec, parameters: Played(spec, run_id, datetime.now(UTC), parameters, plan)


def test_what_ci_delivers_is_uploaded_once_and_run(kubeflow: Kubeflow) -> None:
    kubeflow.profile()
    kubeflow.world.plan = QUICK
    for line in evctl_lines(github()):
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
        lives(replace(QUICK, failing=frozenset({"ingest-battery-data"}))),
        lives(replace(QUICK, slow={"train-fault-classifier": 60.0})),
    ]
    steps = ("run", "logs", "failed task", "cancel")
    rows = live("dev", 60.0, steps)
    assert {row["step"]: row["result"] for row in rows} == dict.fromkeys(steps, "pass"), rows


def test_a_crontab_line_with_an_empty_environment_works_or_says_what_is_missing(
    kubeflow: Kubeflow, tmp_path: Path
) -> None:
    kubeflow.profile()
    kubeflow.world.plan = QUICK
    evctl = Path(sys.executable).with_name("evctl")

    def cron(line: str) -> subprocess.CompletedProcess[str]:
        bare = ["/usr/bin/env", "-i", "PATH=/usr/bin:/bin", f"HOME={tmp_path}", "/bin/sh", "-c", line]
        return subprocess.run(bare, capture_output=True, text=True, check=False, cwd=tmp_path)

    done = cron(f"cd {kubeflow.folder.parent} && {evctl} run --env dev --data-version v1 -o json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["model"] is not None

    done = cron(f"cd / && {evctl} run --env dev --data-version v1 -o json")
    assert done.returncode == 9
    error = json.loads(done.stderr.splitlines()[-1])["error"]
    assert "no kubeconfig" in error["message"]
    assert "KUBECONFIG" in error["hint"]
    assert "kubeflow.host" in error["hint"]
