"""Real bundles, registered in a store of the test's own, and a local service that is always ended."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from evctl.rollout.registry import Published, publish
from evctl.rollout.serving.local import LocalWorld
from evctl.rollout.target import ServiceTarget
from tests.rollout.bundles import make_bundle
from tests.rollout.memory import MemoryWorld


@pytest.fixture(scope="session")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders of three bundles; `worse` has a recall far below the others'."""
    root = tmp_path_factory.mktemp("bundles")
    made = {"a": ("v1", 1, 0.9), "b": ("v2", 2, 0.91), "worse": ("v3", 3, 0.5)}
    for name, (version, seed, recall) in made.items():
        make_bundle(root / name, version, seed=seed, recall=recall)
    return {name: root / name for name in made}


@pytest.fixture
def service(tmp_path: Path) -> dict[str, Any]:
    """The service settings as a profile hands them over."""
    return {
        "name": "ev-battery-fault-classifier",
        "namespace": "local",
        "backend": "local",
        "store": {"uri": str(tmp_path / "store")},
        "proof_timeout_s": 60.0,
    }


@pytest.fixture
def target(service: dict[str, Any]) -> ServiceTarget:
    return ServiceTarget.of(service)


@pytest.fixture
def models(bundles: dict[str, Path], target: ServiceTarget) -> dict[str, Published]:
    return {name: publish(folder, target.store) for name, folder in bundles.items()}


@pytest.fixture
def world(target: ServiceTarget) -> Iterator[LocalWorld]:
    made = LocalWorld(target)
    yield made
    made.stop()


@pytest.fixture
def memory(tmp_path: Path) -> MemoryWorld:
    return MemoryWorld(tmp_path / "service")
