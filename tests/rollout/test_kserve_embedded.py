"""The predictor of a stock image: its program, run as a pod would, really serves; its source is small and complete."""

from __future__ import annotations

import ast
import io
import os
import signal
import subprocess
import sys
import tarfile
import time
from importlib.metadata import requires
from pathlib import Path

import pytest
from packaging.markers import Marker
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from ev_ml.bundle import versions
from ev_pipeline.embed import modules_of
from evctl.rollout.serving import embedded_pins, kserve_embedded
from evctl.rollout.serving.golden import call, prove_at
from tests.cluster.harness import free_port

SERVICE = "ev-battery-fault-classifier"


def test_what_it_carries_is_what_the_predictor_imports() -> None:
    reached = modules_of("import ev_serving.__main__")
    carried = {name.replace(".", "/") for name in kserve_embedded.CARRIES}
    assert {path.removesuffix(".py").removesuffix("/__init__") for path in reached} == carried


def test_the_archive_is_the_same_bytes_each_time_and_small() -> None:
    assert kserve_embedded.archive() == kserve_embedded.archive()
    with tarfile.open(fileobj=io.BytesIO(kserve_embedded.archive())) as tar:
        assert "ev_serving/predictor.py" in tar.getnames()
    assert len(kserve_embedded.program(versions(), "serve")) < kserve_embedded.LIMIT


def test_the_models_own_library_versions_are_installed() -> None:
    pins = kserve_embedded.pins({"scikit-learn": "1.9.1", "python": "3.11.9"})
    assert pins == [*embedded_pins.SERVER, "scikit-learn==1.9.1"]
    constraints = (Path(__file__).parents[2] / "constraints.txt").read_text().split()
    assert set(embedded_pins.SERVER) <= set(constraints)


def closure(*names: str) -> set[str]:
    """Return what is installed here because of these, themselves too."""
    found: set[tuple[str, frozenset[str]]] = set()
    waiting = [Requirement(name) for name in names]
    while waiting:
        each = waiting.pop()
        key = canonicalize_name(each.name), frozenset(each.extras)
        if key in found:
            continue
        found.add(key)
        told = [Requirement(line) for line in requires(each.name) or ()]
        waiting += [one for one in told if one.marker is None or _holds(one.marker, each.extras)]
    return {name for name, _ in found}


def _holds(marker: Marker, extras: set[str]) -> bool:
    return any(marker.evaluate({"extra": extra}) for extra in (*extras, ""))


def test_what_its_server_brings_along_has_the_versions_of_constraints_txt_and_none_is_left_out() -> None:
    constraints = (Path(__file__).parents[2] / "constraints.txt").read_text().split()
    assert set(embedded_pins.BROUGHT) <= set(constraints)
    told = {canonicalize_name(pin.partition("==")[0]) for pin in embedded_pins.BROUGHT}
    named = {"kserve", "pyarrow", *kserve_embedded.LIBRARIES}
    # constraints.txt does not name what pip itself needs
    assert told == closure("kserve", "pyarrow") - named - {"setuptools"}
    assert f"--constraint {kserve_embedded.PLACE}/constraints" in kserve_embedded.program(versions(), "serve")


def test_all_that_its_source_imports_is_installed() -> None:
    named = {pin.partition("==")[0] for pin in kserve_embedded.pins(versions())}
    imports = {"sklearn": "scikit-learn"}
    with tarfile.open(fileobj=io.BytesIO(kserve_embedded.archive())) as tar:
        texts = [tar.extractfile(each).read().decode() for each in tar.getmembers()]  # type: ignore[union-attr]
    trees = [node for text in texts for node in ast.walk(ast.parse(text))]
    plain = {alias.name for node in trees if isinstance(node, ast.Import) for alias in node.names}
    reached = plain | {node.module or "" for node in trees if isinstance(node, ast.ImportFrom)}
    foreign = {name.partition(".")[0] for name in reached} - set(sys.stdlib_module_names) - {"ev_ml", "ev_serving"}
    # kserve brings its own HTTP stack along, scikit-learn its pools
    brought = {
        "fastapi",
        "starlette",
        "uvicorn",
        "prometheus_client",
        "orjson",
        "threadpoolctl",
        "scipy",
        "httpx",
        "pydantic",
    }
    assert {imports.get(name, name) for name in foreign} - brought <= named


def test_runtimes_are_named_by_image_source_and_versions() -> None:
    one = kserve_embedded.runtime("python:3.11-slim", {"numpy": "1"}, cpu="1", memory="1Gi")
    same = kserve_embedded.runtime("python:3.11-slim", {"numpy": "1"}, cpu="1", memory="1Gi")
    other = kserve_embedded.runtime("python:3.11-slim", {"numpy": "2"}, cpu="1", memory="1Gi")
    assert one == same
    assert one["metadata"]["name"] != other["metadata"]["name"]


def test_its_environment_names_nothing_that_kserve_refuses() -> None:
    made = kserve_embedded.runtime("python:3.11-slim", versions(), cpu="1", memory="1Gi")
    container = made["spec"]["containers"][0]
    assert [each["name"] for each in container["env"]] == ["HOME"]
    assert f"export PYTHONPATH={kserve_embedded.PLACE}/src" in container["command"][-1]


@pytest.mark.local
def test_its_program_serves_a_real_bundle(
    bundles: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kserve_embedded, "PLACE", str(tmp_path / "ev"))
    container = kserve_embedded.runtime("python:3.11-slim", versions(), cpu="1", memory="1Gi")["spec"]["containers"][0]
    port = free_port()
    command = container["command"][-1].replace("{{.Name}}", SERVICE).replace("/mnt/models", str(bundles["a"]))
    command = command.replace("--host=0.0.0.0", "--host=127.0.0.1").replace("--port=8080", f"--port={port}")
    # the packages are installed here already; what is asked for is kept
    (tmp_path / "bin").mkdir()
    pip = tmp_path / "bin" / "pip"
    pip.write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/asked\n')
    pip.chmod(0o755)
    # -S and this path: no evctl, ev_ml or ev_serving but the program's own
    site = next(path for path in sys.path if path.endswith("site-packages"))
    python = tmp_path / "bin" / "python"
    python.write_text(f'#!/bin/sh\nexec {sys.executable} -S "$@"\n')
    python.chmod(0o755)
    environment = {each["name"]: each["value"] for each in container["env"]}
    # what is installed here stands in for the folder that pip would have filled
    command = command.replace("/site\nexec", f"/site:{site}\nexec")
    path = f"{tmp_path / 'bin'}:{os.environ['PATH']}"
    log = (tmp_path / "log").open("w")
    server = subprocess.Popen(
        ["sh", "-ec", command], env={**environment, "PATH": path}, cwd=tmp_path, stdout=log, stderr=log
    )
    try:
        end = time.monotonic() + 60
        while time.monotonic() < end and server.poll() is None:
            try:
                if call(port, "GET", f"/v2/models/{SERVICE}/ready")[0] == 200:
                    break
            except OSError:
                time.sleep(0.1)
        assert server.poll() is None, (tmp_path / "log").read_text()
        from ev_ml.bundle import verify

        manifest = verify(bundles["a"])
        prove_at(port, SERVICE, bundles["a"], version=manifest.version, digest=manifest.digest)
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait(20)
    assert embedded_pins.SERVER[0] in (tmp_path / "asked").read_text()
    kept = (tmp_path / "ev" / "constraints").read_text().split()
    assert tuple(kept) == embedded_pins.BROUGHT
