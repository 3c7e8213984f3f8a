"""A fast pipeline over the same engine: a gate, an exit handler, a task that can fail or wait."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from evctl.backends.base import Run, RunRequest
from evctl.backends.local.backend import LocalBackend
from evctl.profile_files import load_profile
from tests.local.product import Gate, Product

SOURCE = """
from kfp import compiler, dsl, kubernetes

def step(script: str, marks: str, trace: dsl.Output[dsl.Artifact]) -> float:
    import os, time
    from pathlib import Path
    count = len(list(Path(marks).glob("ran-*")))
    Path(marks, f"ran-{os.getpid()}").touch()
    print("attempt sees", count)
    Path(trace.path).write_text("as the task wrote it")
    return float(eval(script, {"time": time, "os": os, "count": count, "Path": Path, "marks": marks}))

def inner(value: float, last: str) -> float:
    return value if not last else float(eval(last))

def each(item: int) -> float:
    return 1 / item

def last(status: dsl.PipelineTaskFinalStatus, marks: str) -> str:
    from pathlib import Path
    Path(marks, "notified").write_text(status.state)
    return status.state

def build(path, timeout, retries, backoff, loop):
    @dsl.pipeline(name="small")
    def small(script: str, marks: str, threshold: float = 0.5, last_script: str = ""):
        make = lambda f: dsl.component(f, base_image="python", install_kfp_package=False)
        end = make(last)(marks=marks).set_caching_options(False)
        with dsl.ExitHandler(end):
            done = make(step)(script=script, marks=marks).set_retry(retries, backoff_duration=backoff)
            kubernetes.set_timeout(done, timeout)
            done.set_env_variable("ENVIRONMENT", "small")
            kubernetes.use_secret_as_volume(done, secret_name="telemetry", mount_path="/secrets")
            kubernetes.use_secret_as_env(done, secret_name="telemetry", secret_key_to_env={"KEY": "FROM_SECRET"})
            with dsl.If(done.outputs["Output"] >= threshold):
                make(inner)(value=done.outputs["Output"], last=last_script)
            if loop:
                with dsl.ParallelFor([1, 0, 2]) as item:
                    make(each)(item=item)
    compiler.Compiler().compile(small, path)
"""


@pytest.fixture(scope="session")
def small_package(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    folder = tmp_path_factory.mktemp("package")
    (folder / "small.py").write_text(SOURCE)

    def make(*, timeout: int = 60, retries: int = 0, backoff: str = "0s", loop: bool = False) -> Path:
        import importlib.util

        target = folder / f"small-{timeout}-{retries}-{backoff}-{loop}.yaml"
        if not target.exists():
            spec = importlib.util.spec_from_file_location("small", folder / "small.py")
            assert spec is not None and spec.loader is not None
            module = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
            module.build(str(target), timeout, retries, backoff, loop)
        return target

    return make


class Engine:
    """Starts small runs and waits for them."""

    def __init__(self, package: Callable[..., Path], marks: Path) -> None:
        self.backend = LocalBackend(load_profile("local").profile)
        self.package, self.marks = package, marks
        marks.mkdir(exist_ok=True)

    def start(
        self, script: str, *, use_cache: bool = True, threshold: float = 0.5, last: str = "", **policy: Any
    ) -> str:
        parameters = {"script": script, "marks": str(self.marks), "threshold": threshold, "last_script": last}
        return self.backend.submit(RunRequest("small", self.package(**policy), "d", parameters, use_cache))

    def wait(self, run_id: str, until: Callable[[Run], bool] = lambda run: run.finished) -> Run:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            run = self.backend.get(run_id)
            if until(run):
                return run
            time.sleep(0.05)
        raise AssertionError(f"run did not get there: {run}")

    def run(self, script: str, **options: Any) -> Run:
        return self.wait(self.start(script, **options))


@pytest.fixture
def engine(small_package: Callable[..., Path], tmp_path: Path) -> Engine:
    return Engine(small_package, tmp_path / "marks")


@pytest.fixture(scope="session")
def few_vehicles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Good telemetry of four vehicles, as CSV: too few for a run to get past validation."""
    import pyarrow.csv as pcsv
    import pyarrow.parquet as pq

    from ev_ml.simulate import fleet, simulate

    folder = tmp_path_factory.mktemp("few")
    simulate(fleet("v1", vehicles=4), folder / "few.parquet")
    pcsv.write_csv(pq.read_table(folder / "few.parquet"), folder / "few.csv")
    return folder / "few.csv"


@pytest.fixture
def product(tmp_path: Path, stranger: Path) -> Product:
    return Product(tmp_path / "work", stranger)


@pytest.fixture
def gate(product: Product, few_vehicles: Path) -> Iterator[Gate]:
    """A source that answers when it is let; the profile's only data version, v1."""
    with Gate(few_vehicles.read_bytes()).serving() as source:
        product.profile({"v1": {"uri": source.uri}})
        yield source
