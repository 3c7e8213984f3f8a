"""A fake Kubeflow per test, a profile that names it, and the backend over the real connection."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from evctl.backends.kubeflow.backend import KubeflowBackend
from evctl.compiler import CompiledPipeline, compile_profile
from evctl.profile import Profile
from evctl.profile_files import load_profile
from tests.fakes.kfp_server import KfpServer
from tests.fakes.kfp_state import World
from tests.fakes.mlmd_server import MlmdServer


@dataclass
class Kubeflow:
    """A fake Kubeflow and how to reach it. `kubeconfig` names its Kubernetes side."""

    world: World
    api: KfpServer
    mlmd: MlmdServer
    folder: Path
    kubeconfig: Path

    def profile(self, name: str = "dev", **changes: Any) -> Profile:
        """Write the profile where `--env` looks, and load it."""
        kubeflow = {
            "host": self.api.url,
            "metadata_host": self.mlmd.host,
            "deadline_s": 10,
            **changes.pop("kubeflow", {}),
        }
        values = {
            "backend": "kubeflow", "namespace": "mlops-dev", "experiment": "ev-battery-dev",
            "image": {"mode": "embedded", "name": "python:3.11-slim"}, "store": {"uri": "s3://ev/store"},
            "kubeflow": kubeflow, **changes,
        }  # fmt: skip
        (self.folder / f"{name}.yaml").write_text(yaml.safe_dump(values))
        return load_profile(name).profile

    def backend(self, **changes: Any) -> KubeflowBackend:
        return KubeflowBackend(self.profile(**changes))


@pytest.fixture
def kubeflow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Kubeflow]:
    folder = tmp_path / "profiles"
    folder.mkdir()
    monkeypatch.setenv("EVCTL_PROFILES", str(folder))
    world = World()
    with KfpServer(world) as api, MlmdServer(world.metadata, lambda: list(world.runs)) as mlmd:
        kubeconfig = tmp_path / "kubeconfig"
        context = {"cluster": "fake", "user": "fake", "namespace": "kubeflow"}
        kubeconfig.write_text(
            yaml.safe_dump(
                {
                    "apiVersion": "v1", "kind": "Config", "current-context": "fake",
                    "clusters": [{"name": "fake", "cluster": {"server": api.url}}],
                    "users": [{"name": "fake", "user": {"token": "none"}}],
                    "contexts": [{"name": "fake", "context": context}],
                }
            )
        )  # fmt: skip
        monkeypatch.setenv("KUBECONFIG", str(kubeconfig))
        yield Kubeflow(world, api, mlmd, folder, kubeconfig)


@pytest.fixture(autouse=True)
def compiled_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compile each profile once a session: the same profile and code give the same bytes (tests/test_compiler.py)."""
    from evctl import compiler
    from evctl.commands import plan, upload

    def remembered(profile: Profile) -> compiler.CompiledPipeline:
        key = profile.model_dump_json()
        if key not in _COMPILED:
            _COMPILED[key] = _COMPILE(profile)
        return _COMPILED[key]

    for module in (compiler, plan, upload):
        monkeypatch.setattr(module, "compile_profile", remembered)


_COMPILE: Callable[[Profile], CompiledPipeline] = compile_profile
_COMPILED: dict[str, CompiledPipeline] = {}


@pytest.fixture
def evctl(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Run a command line; returns (exit code, stdout, stderr)."""

    def call(*argv: str) -> tuple[int, str, str]:
        from evctl import cli

        capsys.readouterr()
        code = cli.run([str(each) for each in argv])
        said = capsys.readouterr()
        return code, said.out, said.err

    return call
