"""The users' CI files: their evctl commands are run as commands, and both say the same."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from evctl.profile_files import load_profile
from evctl.rollout.target import ServiceTarget

REPO = Path(__file__).parents[1]
GITHUB, GITLAB = REPO / ".github" / "workflows" / "pipeline.yml", REPO / ".gitlab-ci.yml"
EVCTL = ".venv/bin/evctl "
DEV = """
backend: local
store: {uri: "${EVCTL_HOME}/store"}
image: {mode: prebuilt, name: python-local}
accuracy_threshold: 0.8
data:
  versions:
    v1: {fleet: v1, vehicles: 64}
"""


def github() -> list[str]:
    jobs = yaml.safe_load(GITHUB.read_text())["jobs"]
    runs = [step.get("run", "") for name in ("change", "deliver") for step in jobs[name]["steps"]]
    return [line.strip() for run in runs for line in run.splitlines()]


def gitlab() -> list[str]:
    jobs: dict[str, Any] = yaml.safe_load(GITLAB.read_text())
    parts = [jobs[name].get(part, []) for name in ("change", "image", "deliver") for part in ("script", "after_script")]
    return [line for part in parts for line in part]


def evctl_lines(lines: list[str]) -> list[str]:
    return [line.removeprefix(EVCTL) for line in lines if line.startswith(EVCTL)]


def test_both_files_run_the_same_commands_in_the_same_order() -> None:
    assert evctl_lines(github()) == evctl_lines(gitlab())
    verbs = [line.split()[0] for line in evctl_lines(github())]
    assert verbs == ["compile", "profile", "plan", "plan", "compile", "upload", "run", "report"]


def command(line: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "evctl", *shlex.split(line)],
        capture_output=True,
        text=True,
        check=False,
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(REPO)},
    )


@pytest.mark.parametrize("line", evctl_lines(github())[:4])
def test_what_checks_a_change_needs_no_cluster_and_passes_here(line: str) -> None:
    done = command(line, REPO)
    assert done.returncode == 0, done.stderr


def test_a_stale_versioned_file_fails_the_check(tmp_path: Path) -> None:
    (tmp_path / "pipeline_src").mkdir()
    shutil.copytree(REPO / "profiles", tmp_path / "profiles")
    stale = (REPO / "pipeline_src" / "ev_battery_fault_pipeline.yaml").read_text().replace("8Gi", "4Gi")
    (tmp_path / "pipeline_src" / "ev_battery_fault_pipeline.yaml").write_text(stale)
    done = command(evctl_lines(github())[0], tmp_path)
    assert done.returncode == 1
    assert "8Gi" in done.stderr


@pytest.mark.slow
@pytest.mark.local
def test_what_delivers_runs_as_written_where_dev_is_this_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(REPO / "profiles", tmp_path / "profiles")
    (tmp_path / "profiles" / "dev.yaml").write_text(DEV)
    (tmp_path / "dist").mkdir()
    digest = "registry.invalid/ev-battery@sha256:" + "a" * 64
    monkeypatch.setenv("EV_IMAGE", digest)
    for line in evctl_lines(github())[4:]:
        done = command(line, tmp_path)
        assert done.returncode == 0, f"{line}: {done.stderr}"
    assert digest in (tmp_path / "dist" / "ev_battery_fault_pipeline.yaml").read_text()
    assert "<html" in (tmp_path / "dist" / "report.html").read_text()


def test_the_image_is_only_ever_named_by_its_digest_and_no_registry_is_written_down() -> None:
    for file in (GITHUB, GITLAB):
        text = file.read_text()
        assert "EV_IMAGE=" in text
        assert not re.search(r"\b[\w-]+\.(io|com|dev|net|org)(/|:\d)", text), file
        assert ":latest" not in text
    assert "@${{ steps.image.outputs.digest }}" in GITHUB.read_text()
    assert "RepoDigests" in GITLAB.read_text()


def test_make_knows_the_targets_they_call() -> None:
    targets = {line.split()[1] for line in github() + gitlab() if line.startswith("make ")}
    assert targets == {"setup-dev", "setup", "test"}
    known = set(re.findall(r"^([a-z0-9-]+):", (REPO / "Makefile").read_text(), re.MULTILINE))
    assert targets <= known


def test_a_secret_reaches_the_cluster_job_by_variable_and_file_never_on_a_command_line() -> None:
    assert not [line for line in github() if "secrets." in line]
    assert "umask 077" in github()
    logins = [line for line in gitlab() if "PASSWORD" in line]
    assert logins
    assert all("--password-stdin" in line for line in logins)


@pytest.mark.parametrize("env", ["dev", "qa", "prod"])
def test_the_image_that_was_built_is_what_the_predictor_runs(env: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVCTL_PROFILES", str(REPO / "profiles"))

    def image() -> str | None:
        found = ServiceTarget.of(load_profile(env).profile.pipeline_settings().service).settings.get("image")
        return found if found is None else str(found)

    assert image() is None
    monkeypatch.setenv("EV_IMAGE", "somewhere/ev-battery@sha256:" + "b" * 64)
    assert image() == "somewhere/ev-battery@sha256:" + "b" * 64
