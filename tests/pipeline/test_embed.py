"""Embedded source: reproducible, small, complete, and really what a step runs on."""

from __future__ import annotations

import ast
import base64
import importlib
import inspect
import io
import json
import os
import re
import subprocess
import sys
import sysconfig
import tarfile
from pathlib import Path
from typing import Any

import pytest

from ev_pipeline import components, embed
from ev_pipeline.bare import bare
from ev_pipeline.settings import TASKS
from evctl.compiler import CompiledPipeline, compile_profile
from evctl.profile_files import load_profile
from evctl.rollout.serving import kserve_embedded

COMES_WITH = {
    "urllib3": "kubernetes",
    "sklearn": "scikit-learn",
    "grpc": "grpcio",
    "google": "protobuf",
    "threadpoolctl": "scikit-learn",
}


@pytest.fixture(scope="module")
def dev() -> CompiledPipeline:
    return compile_profile(load_profile("dev").profile)


def program(compiled: CompiledPipeline, task: str) -> str:
    executor = compiled.spec["deploymentSpec"]["executors"]["exec-" + task.replace("_", "-")]
    return str(executor["container"]["command"][-1])


def carried(compiled: CompiledPipeline, task: str) -> dict[str, bytes]:
    found = re.search(r"__KFP_EMBEDDED_ARCHIVE_B64 = '([^']+)'", program(compiled, task))
    assert found is not None
    with tarfile.open(fileobj=io.BytesIO(base64.b64decode(found[1])), mode="r:gz") as tar:
        files = {entry.name: tar.extractfile(entry) for entry in tar}
        return {name: file.read() for name, file in files.items() if file is not None}


def test_the_same_files_give_the_same_archive_whatever_their_order() -> None:
    files = {"b.py": b"2", "a/__init__.py": b"1"}
    assert embed.archive(files) == embed.archive(dict(reversed(files.items())))


def test_an_archive_that_no_program_argument_could_carry_is_refused() -> None:
    with pytest.raises(ValueError, match="at most 80,000 fit"):
        embed.archive({"big.py": os.urandom(90_000)})


def test_two_compiles_of_an_embedded_pipeline_are_the_same_bytes(dev: CompiledPipeline) -> None:
    assert compile_profile(load_profile("dev").profile).text == dev.text


@pytest.mark.parametrize("task", TASKS)
def test_a_step_carries_its_modules_as_they_are_installed_and_fits(dev: CompiledPipeline, task: str) -> None:
    files = carried(dev, task)
    assert files
    for name, content in files.items():
        assert not name.endswith(".pyc")
        module = importlib.import_module(name.removesuffix(".py").removesuffix("/__init__").replace("/", "."))
        installed = Path(str(module.__file__)).read_bytes()
        handed_on = task == "deploy_model_kserve" and module.__name__ in kserve_embedded.CARRIES
        assert content == (installed if handed_on else bare(installed))
    # one argument of a program may have 128 KiB
    assert len(program(dev, task).encode()) < 128 * 1024


@pytest.mark.parametrize("task", TASKS)
def test_whatever_a_step_imports_is_carried_or_installed(dev: CompiledPipeline, task: str) -> None:
    files = carried(dev, task)
    # the predictor's own modules are handed on to its pods, which install its server
    imported = [content.decode() for path, content in files.items() if not path.startswith("ev_serving/")]
    sources = [*imported, inspect.getsource(getattr(components, task))]
    for node in (node for source in sources for node in ast.walk(ast.parse(source))):
        if isinstance(node, ast.Import):
            names = {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = {node.module.split(".")[0]}
        else:
            continue
        for name in names - set(sys.stdlib_module_names) - {"ev_ml", "evctl", "kfp"}:
            assert COMES_WITH.get(name, name) in embed.PACKAGES


def test_an_embedded_step_carries_no_module_of_another_step(dev: CompiledPipeline) -> None:
    assert "ev_ml/train.py" not in carried(dev, "ingest_battery_data")
    assert "ev_ml/simulate.py" not in carried(dev, "train_fault_classifier")


def test_a_deploy_step_carries_the_predictors_source_and_no_local_service(dev: CompiledPipeline) -> None:
    files = carried(dev, "deploy_model_kserve")
    assert {"ev_serving/__main__.py", "evctl/rollout/serving/kserve.py", "evctl/kube.py"} <= files.keys()
    assert not {"evctl/rollout/serving/local.py", "evctl/rollout/serving/front.py"} & files.keys()


def test_modules_reached_only_from_inside_a_function_are_carried(dev: CompiledPipeline) -> None:
    assert "evctl/backends/metadata/client.py" in carried(dev, "notify_pipeline_status")
    assert "ev_ml/bundle.py" in carried(dev, "register_fault_model")


def test_the_packages_are_pinned_to_what_is_installed_here(dev: CompiledPipeline) -> None:
    install = " ".join(dev.spec["deploymentSpec"]["executors"]["exec-ingest-battery-data"]["container"]["command"])
    assert all(f"'{pin}'" in install for pin in embed.pins())


@pytest.mark.parametrize("task", TASKS)
def test_each_steps_modules_import_from_the_archive_alone(dev: CompiledPipeline, task: str, tmp_path: Path) -> None:
    for name, content in carried(dev, task).items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)
    body = ast.parse(inspect.getsource(getattr(components, task)))
    ours = [n for n in ast.walk(body) if isinstance(n, ast.ImportFrom) and str(n.module).split(".")[0] in embed.OURS]
    script = "\n".join(["import sys; sys.modules['pydantic'] = None", *(ast.unparse(node) for node in ours)])
    done = subprocess.run(
        [sys.executable, "-S", "-c", script], env=without_us(str(tmp_path)), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_a_step_runs_where_our_packages_are_not_installed(dev: CompiledPipeline, tmp_path: Path) -> None:
    absent = subprocess.run([sys.executable, "-S", "-c", "import ev_ml"], env=without_us(), capture_output=True)
    assert absent.returncode != 0
    source = tmp_path / "step.py"
    said = "\n    import ev_ml; print('from', ev_ml.__file__)\n    from ev_ml.ingest import"
    source.write_text(program(dev, "ingest_battery_data").replace("\n    from ev_ml.ingest import", said))
    # a struct's numbers arrive as floats
    data = {"versions": {"v1": {"fleet": "v1", "vehicles": 6.0, "seed": 3.0}}}
    raw: dict[str, Any] = {"name": "raw_data", "uri": str(tmp_path / "raw"), "type": {"schemaTitle": "system.Dataset"}}
    handed = {
        "inputs": {"parameterValues": {"data_version": "v1", "data": data}},
        "outputs": {
            "outputFile": str(tmp_path / "out.json"),
            "artifacts": {"raw_data": {"artifacts": [{**raw, "metadata": {}}]}},
        },
    }
    arguments = ["--executor_input", json.dumps(handed), "--function_to_execute", "ingest_battery_data"]
    done = subprocess.run(
        [sys.executable, "-S", "-m", "kfp.dsl.executor_main", "--component_module_path", str(source), *arguments],
        env={**without_us(), "_KFP_RUNTIME": "true"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    where = re.search(r"from (\S+)/ev_ml/__init__.py", done.stdout)
    assert where is not None and not Path(inspect.getfile(embed)).is_relative_to(where[1])
    assert (tmp_path / "raw").stat().st_size > 0
    assert "6 vehicles" in (tmp_path / "out.json").read_text()


def without_us(first: str = "") -> dict[str, str]:
    """An environment that finds installed packages but, by `-S`, not the editable install of ours."""
    site = sysconfig.get_paths()["purelib"]
    return {"PATH": os.environ["PATH"], "PYTHONPATH": os.pathsep.join(filter(None, [first, site]))}
