"""The wheel, in a fresh environment and an empty folder: what a user who installs it gets."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path

import pytest

REPO = Path(__file__).parents[1]
SMALL = "\naccuracy_threshold: 0.5\ndata: {versions: {v1: {fleet: v1, vehicles: 72}}}\n"

pytestmark = [pytest.mark.slow, pytest.mark.local]


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A fresh environment with the wheel; what it depends on is borrowed from the one the tests run in."""
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    # built by what is installed here, beside the tree: no index is asked, nothing is left in the tree
    subprocess.run(
        [*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(tmp_path), str(REPO)], check=True
    )
    wheel = next(tmp_path.glob("evctl-*.whl"))
    venv = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(venv)], check=True)
    python = venv / "bin" / "python"
    subprocess.run([*pip, "--python", str(python), "install", "--no-deps", "--no-index", str(wheel)], check=True)
    packages = next((venv / "lib").glob("python*/site-packages"))
    (packages / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return packages


@pytest.fixture
def evctl(site: Path, tmp_path: Path) -> Callable[..., str]:
    empty = tmp_path / "empty"
    empty.mkdir()
    program = site.parents[2] / "bin" / "evctl"

    def ask(*line: str, code: int = 0) -> str:
        done = subprocess.run([program, *line], cwd=empty, env={**os.environ}, capture_output=True, text=True)
        assert done.returncode == code, done.stderr
        return done.stdout

    return ask


def test_an_installed_wheel_plans_and_runs_in_an_empty_folder(
    evctl: Callable[..., str], site: Path, tmp_path: Path, stranger: Path
) -> None:
    assert evctl("profile", "list", "-q").split() == ["dev", "local", "prod", "qa"]
    assert str(site) in evctl("profile", "show", "local", "-o", "json")
    assert "deploy_model_kserve" in evctl("plan")
    assert evctl("help", "role") == (REPO / "evctl" / "rollout" / "role.yaml").read_text()

    shipped = (site / "evctl" / "_profiles" / "local.yaml").read_text()
    (tmp_path / "empty" / "profiles").mkdir()
    (tmp_path / "empty" / "profiles" / "local.yaml").write_text(
        shipped.replace("deploy: auto", "deploy: manual") + SMALL
    )
    run_id = evctl("run").strip()
    run = json.loads(evctl("status", "-o", "json"))
    assert (run["run_id"], run["state"]) == (run_id, "SUCCEEDED")
    assert run["model"]["uri"].startswith(f"file://{stranger}/store/models/")
    outputs = json.loads(evctl("outputs", "-o", "json"))
    assert outputs["parameters"]["register_fault_model.model_version"] == run["model"]["version"]
    manifest = json.loads((Path(run["model"]["uri"].removeprefix("file://")) / "manifest.json").read_text())
    assert manifest["provenance"]["run_id"] == run_id
    # the steps ran the wheel's code: the tree's has a commit
    assert manifest["provenance"]["git_commit"] == ""
    assert sorted(path.name for path in (tmp_path / "empty").iterdir()) == ["profiles"]
    assert json.loads(evctl("models", "list", "-o", "json"))["models"][0]["version"] == run["model"]["version"]
