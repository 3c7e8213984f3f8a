"""One real predictor process for the module's requests, over a real bundle."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.rollout.bundles import make_bundle

NAME = "ev-battery-fault-classifier"


@dataclass(frozen=True)
class Running:
    """A predictor that is ready."""

    url: str
    bundle: Path
    log: Path


def start(bundle: Path, work: Path) -> tuple[subprocess.Popen[bytes], Path]:
    work.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "ev_serving", "--bundle", str(bundle), "--announce", str(work / "port")]
    kept = {name: os.environ[name] for name in ("PATH", "PYTHONPATH", "LANG") if name in os.environ}
    with (work / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env={**kept, "HOME": str(work)})
    return process, work / "port"


@pytest.fixture(scope="session")
def good_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("served") / "bundle"
    make_bundle(folder, "v1", seed=11)
    return folder


@pytest.fixture(scope="session")
def predictor(good_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    work = tmp_path_factory.mktemp("predictor")
    process, announce = start(good_bundle, work)
    try:
        deadline = time.monotonic() + 60
        while not announce.exists():
            assert process.poll() is None, (work / "log").read_text()
            assert time.monotonic() < deadline, "the predictor was not ready within 60 s"
            time.sleep(0.05)
        yield Running(f"http://127.0.0.1:{announce.read_text().split()[0]}", good_bundle, work / "log")
    finally:
        process.terminate()
        process.wait(20)
