"""The figures of the verbs on Kubeflow, measured as processes against the tests' fake server. Prints one line a figure.

    python benchmarks/kubeflow.py

A bare script that makes the same requests, and `kfp run get` on the same server, are measured beside evctl, in turns.
"""

from __future__ import annotations

import itertools
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import yaml

REPO = Path(__file__).parents[1]
sys.path.insert(0, str(REPO))

from tests.fakes.kfp_life import Plan, Played  # noqa: E402
from tests.fakes.kfp_server import KfpServer  # noqa: E402
from tests.fakes.kfp_state import FakeRun, Synthetic, World  # noqa: E402
from tests.fakes.mlmd_server import MlmdServer  # noqa: E402

ROUNDS = 7
MANY = 100_000
STDLIB = """
import json, sys, urllib.request
api, mlmd, run = sys.argv[1:]
get = lambda path: json.load(urllib.request.urlopen(api + "/apis/v2beta1" + path))
reference = get("/runs/" + run).get("pipeline_version_reference")
if reference:
    get(f"/pipelines/{reference['pipeline_id']}/versions/{reference['pipeline_version_id']}")
"""
GENERATED = """
import sys
import kfp_server_api
api, mlmd, run = sys.argv[1:]
client = kfp_server_api.ApiClient(kfp_server_api.Configuration(host=api))
reference = kfp_server_api.RunServiceApi(client).run_service_get_run(run).pipeline_version_reference
if reference:
    kfp_server_api.PipelineServiceApi(client).pipeline_service_get_pipeline_version(
        reference.pipeline_id, reference.pipeline_version_id)
"""
METADATA = """
import grpc
from evctl.backends.metadata import proto
channel = grpc.insecure_channel(mlmd)
def call(method, **fields):
    request = proto.message(method + "Request")(**fields)
    return channel.unary_unary(f"/{proto.SERVICE}/{method}", lambda m: m.SerializeToString(),
                               proto.message(method + "Response").FromString)(request)
context = call("GetContextByTypeAndName", type_name="system.PipelineRun", context_name=run).context.id
ids = [each.id for each in call("GetExecutionsByContext", context_id=context).executions]
events = call("GetEventsByExecutionIDs", execution_ids=ids).events
call("GetArtifactsByID", artifact_ids=sorted({each.artifact_id for each in events}))
"""
"""What a bare script that makes the same requests holds, with the standard library's HTTP or with KFP's generated client."""


@dataclass
class Bench:
    """A fake Kubeflow in this process, and the environment that points at it."""

    api: KfpServer
    mlmd: MlmdServer
    environment: dict[str, str]

    def took(self, *command: str) -> tuple[float, int, float]:
        """Return (seconds, peak memory in KiB, CPU seconds) of a process."""
        began = time.perf_counter()
        child = subprocess.Popen(command, env=self.environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        _, status, usage = os.wait4(child.pid, 0)
        seconds = time.perf_counter() - began
        if os.waitstatus_to_exitcode(status) not in (0, 5):
            assert child.stderr is not None
            sys.exit(f"{' '.join(command)} failed: {child.stderr.read().decode()}")
        return seconds, usage.ru_maxrss, usage.ru_utime + usage.ru_stime


def say(what: str, figure: str, wanted: str, good: bool) -> bool:
    print(f"{'ok  ' if good else 'MISS'} {what:<62} {figure:<38} wanted {wanted}", flush=True)
    return good


def main() -> int:
    world = World()
    with (
        tempfile.TemporaryDirectory() as folder,
        KfpServer(world) as api,
        MlmdServer(world.metadata, lambda: list(world.runs)) as mlmd,
    ):
        bench = Bench(api, mlmd, _environment(Path(folder), api.url, mlmd.host))
        results = [*_status(bench), *_runs(bench), *_watch(bench)]
    return 0 if all(results) else 1


def _environment(folder: Path, url: str, metadata: str) -> dict[str, str]:
    profile = {
        "backend": "kubeflow", "experiment": "bench", "store": {"uri": "s3://b/s"},
        "kubeflow": {"host": url, "metadata_host": metadata},
    }  # fmt: skip
    (folder / "dev.yaml").write_text(yaml.safe_dump(profile))
    (folder / "stdlib.py").write_text(STDLIB + METADATA)
    (folder / "generated.py").write_text(GENERATED + METADATA)
    kept = {key: value for key, value in os.environ.items() if key in ("PATH", "LANG")}
    return {**kept, "HOME": str(folder), "EVCTL_HOME": str(folder / "state"), "EVCTL_PROFILES": str(folder),
            "PYTHONPATH": str(REPO), "TERM": "dumb"}  # fmt: skip


def _status(bench: Bench) -> list[bool]:
    run = bench.api.world.recorded("succeeded")
    home = bench.environment["HOME"]
    where = [bench.api.url, bench.mlmd.host, run]
    commands = {
        "evctl": [sys.executable, "-m", "evctl", "status", run, "--env", "dev", "-o", "json"],
        "generated": [sys.executable, f"{home}/generated.py", *where],
        "stdlib": [sys.executable, f"{home}/stdlib.py", *where],
        "kfp": [str(Path(sys.executable).with_name("kfp")), "--endpoint", bench.api.url, "run", "get", run],
    }
    for command in commands.values():
        bench.took(*command)
    bench.api.requests.clear()
    bench.mlmd.calls.clear()
    bench.took(*commands["evctl"])
    requests = len(bench.api.requests) + len(bench.mlmd.calls)
    times: dict[str, list[tuple[float, int, float]]] = {name: [] for name in commands}
    for _ in range(ROUNDS):
        for name, command in commands.items():
            times[name].append(bench.took(*command))
    wall = {name: statistics.median(each[0] for each in found) for name, found in times.items()}
    cpu = {name: statistics.median(each[2] for each in found) for name, found in times.items()}

    def over(name: str) -> str:
        # on a busy machine the processors' time says more than the clock's
        mine = wall["evctl"]
        return f"{mine:.2f} s / {wall[name]:.2f} s = {mine / wall[name]:.2f} (CPU {cpu['evctl'] / cpu[name]:.2f})"

    return [
        say("status of a finished run: requests", str(requests), "<= 6", requests <= 6),
        say("... over a bare script of them, KFP's generated client", over("generated"), "<= 2",
            wall["evctl"] <= 2 * wall["generated"]),
        say("... over a bare script of them, the standard library's HTTP", over("stdlib"), "<= 2",
            wall["evctl"] <= 2 * wall["stdlib"]),
        say("... over kfp run get", over("kfp"), "< 1", wall["evctl"] < wall["kfp"]),
    ]  # fmt: skip


def _runs(bench: Bench) -> list[bool]:
    world = bench.api.world
    experiment = world.experiment("bench")["experiment_id"]
    command = [sys.executable, "-m", "evctl", "runs", "--env", "dev"]
    taken: dict[int, list[tuple[float, int, float]]] = {}
    for count in (100, MANY):
        world.synthetic = Synthetic(count, experiment)
        bench.took(*command)
        taken[count] = [bench.took(*command) for _ in range(3)]
    seconds = statistics.median(each[0] for each in taken[MANY])
    few, many = (statistics.median(each[1] for each in taken[count]) / 1024 for count in (100, MANY))
    world.synthetic = ()
    return [
        say(f"runs: the first page of {MANY:,}", f"{seconds:.2f} s", "< 1 s", seconds < 1),
        say("... memory over that with 100 runs", f"{many:.0f} MiB / {few:.0f} MiB = {many / few:.2f}", "<= 1.1",
            many <= 1.1 * few),
    ]  # fmt: skip


def _watch(bench: Bench) -> list[bool]:
    spec = yaml.safe_load((REPO / "tests/recordings/kubeflow-2.17/pipeline.yaml").read_text().split("\n---\n")[0])
    world, run_id = bench.api.world, "abcdef00-0000-4000-8000-000000000001"
    began = datetime.now(UTC)
    life = Played(spec, run_id, began, {}, Plan(task_s=1.7))
    document = {
        "run_id": run_id, "display_name": "watched", "created_at": began.strftime("%Y-%m-%dT%H:%M:%SZ"),
        "pipeline_spec": spec,
    }  # fmt: skip
    start = time.monotonic()
    world.runs[run_id] = FakeRun(document, life, began=start)
    ends = {}
    for execution in (life.at(3600).metadata or {})["GetExecutionsByContext"]["executions"]:
        if "Container" in execution["type"]:
            name = execution["custom_properties"]["task_name"]["string_value"]
            ends[name] = int(execution["last_update_time_since_epoch"]) / 1000 - began.timestamp()
    bench.api.requests.clear()
    command = [sys.executable, "-m", "evctl", "status", run_id, "--watch", "--env", "dev"]
    late = {}
    with subprocess.Popen(command, env=bench.environment, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL) as child:
        assert child.stderr is not None
        for line in child.stderr:
            at = time.monotonic() - start
            found = re.search(r"✓ (\w+)", line.decode())
            if found and (name := found[1].replace("_", "-")) in ends:
                late[name] = at - ends[name]
    asked = [seen.at for seen in bench.api.requests if seen.path.endswith(run_id)]
    rate = (len(asked) - 1) / (asked[-1] - asked[0])
    gaps = min(b - a for a, b in itertools.pairwise(asked))
    # the first task may have ended before the watch began
    worst = max(value for name, value in late.items() if ends[name] > asked[0] - start)
    return [
        say("a state change to its line on screen, the worst of a run", f"{worst:.2f} s", "<= 2 s",
            worst <= 2 and len(late) == len(ends)),
        say("a watch's status requests", f"{rate:.2f} a second, {gaps:.2f} s apart", "<= 1 a second", rate <= 1.001),
    ]  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
