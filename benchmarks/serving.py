"""Single-row V2 latency and throughput at 8 clients: evctl's service (front included) against the stock server pattern.

`python benchmarks/serving.py [BUNDLE]`. The stock pattern is kserve's sklearnserver: joblib.load, a synchronous predict.
It is measured as it is, and with OpenMP told to use one thread: on a busy machine its threads spin for each other, which
flatters whoever does not.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import httpx

from ev_ml.bundle import content_digest
from evctl import state
from evctl.rollout.files import started_at
from evctl.rollout.promotion import promote, rollback
from evctl.rollout.registry import publish
from evctl.rollout.serving import front
from evctl.rollout.serving.golden import call
from evctl.rollout.serving.local import LocalWorld
from evctl.rollout.serving.processes import Process
from evctl.rollout.target import ServiceTarget

STOCK = """
import sys, joblib, numpy as np, pandas as pd
folder, port = sys.argv[1], int(sys.argv[2]); sys.argv[1:] = []
from kserve import InferOutput, InferResponse, Model, ModelServer
class Stock(Model):
    def load(self):
        held = joblib.load(folder + "/model.joblib"); self.model, self.names = held.estimator, list(held.features)
        self.ready = True; return True
    def predict(self, payload, headers=None):
        rows = payload.inputs[0]
        frame = pd.DataFrame(np.array(rows.data, dtype=float).reshape(rows.shape), columns=self.names)
        got = self.model.predict_proba(frame)
        return InferResponse(payload.id or "x", self.name, [InferOutput("p", list(got.shape), "FP64", got.ravel().tolist())])
model = Stock("m"); model.load()
ModelServer(http_port=port, enable_grpc=False).start([model])
"""


def wait(url: str) -> None:
    for _ in range(600):
        try:
            if httpx.get(url).status_code == 200:
                return
        except httpx.HTTPError:
            time.sleep(0.1)
    raise SystemExit(f"{url} did not come up")


def singles(urls: dict[str, str], body: dict[str, object], seconds: float) -> dict[str, list[float]]:
    """Return each server's sorted latencies in seconds, one client; asked in turn, so that all see the same machine."""
    taken: dict[str, list[float]] = {name: [] for name in urls}
    with contextlib.ExitStack() as open_:
        clients = {name: open_.enter_context(httpx.Client(timeout=120)) for name in urls}
        until, warm = time.monotonic() + seconds * len(urls), time.monotonic() + 2
        while (now := time.monotonic()) < until:
            for name, url in urls.items():
                start = time.perf_counter()
                assert clients[name].post(url, json=body).status_code == 200
                if now > warm:
                    taken[name].append(time.perf_counter() - start)
    return {name: sorted(each) for name, each in taken.items()}


def rate(url: str, body: dict[str, object], seconds: float) -> float:
    """Return answers a second to 8 clients."""

    def loop(until: float, into: list[int]) -> None:
        with httpx.Client(timeout=120) as client:
            while time.monotonic() < until:
                assert client.post(url, json=body).status_code == 200
                into.append(1)

    lists: list[list[int]] = [[] for _ in range(8)]
    start = time.monotonic()
    threads = [threading.Thread(target=loop, args=(start + seconds, each)) for each in lists]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(map(len, lists)) / (time.monotonic() - start)


def registered(work: Path) -> Path:
    """Return the newest bundle in this machine's own store; without one, that of a run made for the purpose."""
    found = sorted(state.home().glob("store/models/*/*/manifest.json"), key=lambda path: path.stat().st_mtime)
    if not found:
        print("no model is registered here: a run makes one first", flush=True)
        own = {**os.environ, "EVCTL_HOME": str(work)}
        evctl = [sys.executable, "-m", "evctl"]
        subprocess.run([*evctl, "run", "--data-version", "v1", "--env", "local", "-q"], env=own, check=True)
        subprocess.run([*evctl, "serving", "stop", "--env", "local", "-q"], env=own, check=True)
        found = list(work.glob("store/models/*/*/manifest.json"))
    return found[-1].parent


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("bundle", type=Path, nargs="?", help="else the last one this machine registered")
    parser.add_argument("--seconds", type=float, default=4.0)
    options = parser.parse_args()
    if (load := os.getloadavg()[0]) > 0.5 * (os.cpu_count() or 1):
        print(f"the machine is busy (load {load:.1f}): the stock server suffers most, do not quote these ratios")
    with tempfile.TemporaryDirectory() as made:
        compare(options.bundle or registered(Path(made)), options.seconds)


def compare(bundle: Path, seconds: float) -> None:
    """Print the figures of one bundle."""
    golden = json.loads((bundle / "golden.json").read_text())
    row = golden["rows"][0]
    body = {"inputs": [{"name": "rows", "shape": [1, len(row)], "datatype": "FP64", "data": row}]}
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        (work / "token").write_text("t")
        own = [sys.executable, "-m", "ev_serving", "--bundle", str(bundle), "--name", "m"]
        door = [sys.executable, "-m", front.__name__, "--port", "0", "--name", "m", "--token-file", str(work / "token")]
        commands = [
            [sys.executable, "-c", STOCK, str(bundle), "18973"],
            ["env", "OMP_NUM_THREADS=1", sys.executable, "-c", STOCK, str(bundle), "18974"],
            [*own, "--announce", str(work / "own")],
            [*door, "--announce", str(work / "front")],
        ]
        running = [subprocess.Popen(c, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) for c in commands]
        try:
            for stock_port in (18973, 18974):
                wait(f"http://127.0.0.1:{stock_port}/v2/models/m/ready")
            while not ((work / "own").exists() and (work / "front").exists()):
                time.sleep(0.1)
            port = {name: int((work / name).read_text().split()[0]) for name in ("own", "front")}
            server = Process(running[2].pid, started_at(running[2].pid), port["own"], "d", 1)
            call(port["front"], "POST", front.CONTROL, server.to_json(), {"x-evctl-token": "t"})
            places = {
                "stock": 18973,
                "stock, one thread": 18974,
                "evctl server alone": port["own"],
                "evctl service": port["front"],
            }
            urls = {name: f"http://127.0.0.1:{where}/v2/models/m/infer" for name, where in places.items()}
            figures = {}
            for name, taken in singles(urls, body, seconds).items():
                p50, p99 = taken[len(taken) // 2] * 1e3, taken[int(len(taken) * 0.99)] * 1e3
                figures[name] = (p50, p99, rate(urls[name], body, seconds))
                print(
                    f"{name:<20} p50 {p50:.2f} ms  p99 {p99:.2f} ms  8 clients {figures[name][2]:.0f} req/s", flush=True
                )
        finally:
            for process in running:
                process.kill()
    ours = figures["evctl service"]
    for name in ("stock", "stock, one thread"):
        p50, p99, answers = figures[name]
        print(f"against {name}: p50 {ours[0] / p50:.2f}, p99 {ours[1] / p99:.2f}, throughput {ours[2] / answers:.2f}")
    print("wanted against stock: p50 at most 1.00, throughput at 8 clients at least 1.30")
    swaps(bundle)


def swaps(bundle: Path) -> None:
    """Time promotions and rollbacks of two models in a service of our own."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ["EVCTL_HOME"] = folder
        store = {"uri": f"{folder}/store"}
        target = ServiceTarget("ev-battery-fault-classifier", "local", "local", store)
        world = LocalWorld(target)
        first = publish(bundle, store)
        # the same model as another bundle: its drift reference differs by a space
        other = Path(folder) / "other"
        shutil.copytree(bundle, other)
        reference = other / "reference.json"
        reference.write_text(reference.read_text() + " ")
        manifest = json.loads((other / "manifest.json").read_text())
        manifest["files"]["reference.json"] = hashlib.sha256(reference.read_bytes()).hexdigest()
        manifest["digest"] = content_digest(manifest["files"], tuple(manifest["features"]))
        manifest["version"] = f"other-{manifest['digest'][:12]}"
        (other / "manifest.json").write_text(json.dumps(manifest))
        second = publish(other, store)
        try:
            promote(target, world, first.uri, by="bench")
            up = promote(target, world, second.uri, by="bench").duration_s
            back = rollback(target, world, by="bench").duration_s
        finally:
            world.stop()
    print(f"promote {up:.1f} s (wanted: under 15), rollback {back:.1f} s (wanted: under 10)")


if __name__ == "__main__":
    main()
