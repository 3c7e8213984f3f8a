"""Schedules of one profile in two places: runs on the server, drift checks in this machine's cron."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.kubeflow.conftest import Kubeflow

pytestmark = pytest.mark.kubeflow
Evctl = Callable[..., tuple[int, str, str]]
SCHEDULES = [
    {"name": "nightly", "verb": "run", "cron": "0 3 * * *", "parameters": {"data_version": "v1"}},
    {"name": "checks", "verb": "drift", "cron": "30 2 * * *", "parameters": {"data_version": "v1"}},
]


def test_a_machine_without_cron_still_lists_what_the_server_has_and_applies_nothing_by_halves(
    kubeflow: Kubeflow, evctl: Evctl, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kubeflow.profile(schedules=SCHEDULES[:1])
    code, _, err = evctl("schedule", "apply", "--env", "dev")
    assert code == 0, err
    kubeflow.profile(schedules=SCHEDULES)
    monkeypatch.setenv("PATH", str(tmp_path))
    code, out, err = evctl("schedule", "list", "--env", "dev", "-o", "json")
    listed = {each["name"]: (each["where"], each["state"]) for each in json.loads(out)["schedules"]}
    assert (code, listed) == (0, {"nightly": ("kubeflow", "applied"), "checks": (None, "not applied")})
    assert "no crontab command" in err and "apt install cron" in err
    kubeflow.world.recurring.clear()
    code, _, err = evctl("schedule", "apply", "--env", "dev")
    assert code == 9 and "no crontab command" in err
    assert not kubeflow.world.recurring
