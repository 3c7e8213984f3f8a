"""The wheel, in an empty folder: the profiles ship in it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

REPO = Path(__file__).parents[1]


@pytest.mark.slow
def test_an_installed_wheel_knows_its_profiles_and_can_plan(tmp_path: Path) -> None:
    site, empty = tmp_path / "site", tmp_path / "empty"
    empty.mkdir()
    pip = [sys.executable, "-m", "pip", "--quiet"]
    subprocess.run([*pip, "wheel", "--no-deps", "--wheel-dir", str(tmp_path), str(REPO)], check=True)
    wheel = next(tmp_path.glob("evctl-*.whl"))
    subprocess.run([*pip, "install", "--no-deps", "--target", str(site), str(wheel)], check=True)
    env = {**os.environ, "PYTHONPATH": str(site)}

    def evctl(*line: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "evctl", *line], cwd=empty, env=env, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert evctl("profile", "list", "-q").split() == ["dev", "local", "prod", "qa"]
    assert str(site) in evctl("profile", "show", "local", "-o", "json")
    assert "deploy_model_kserve" in evctl("plan")
