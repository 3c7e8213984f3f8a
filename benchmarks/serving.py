"""Single-row V2 latency and throughput at 8 clients: evctl's service (front included) against the stock server pattern.

`python benchmarks/serving.py BUNDLE`. The stock pattern is kserve's sklearnserver: joblib.load, a synchronous predict.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import httpx

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


def measure(url: str, body: dict[str, object], seconds: float) -> tuple[float, float, float]:
    def loop(until: float, into: list[float]) -> None:
        with httpx.Client() as client:
            while time.monotonic() < until:
                start = time.perf_counter()
                assert client.post(url, json=body).status_code == 200
                into.append(time.perf_counter() - start)

    loop(time.monotonic() + 1, [])
    single: list[float] = []
    loop(time.monotonic() + seconds, single)
    single.sort()
    lists: list[list[float]] = [[] for _ in range(8)]
    start = time.monotonic()
    threads = [threading.Thread(target=loop, args=(start + seconds, each)) for each in lists]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    rate = sum(map(len, lists)) / (time.monotonic() - start)
    return single[len(single) // 2] * 1e3, single[int(len(single) * 0.99)] * 1e3, rate


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--seconds", type=float, default=4.0)
    options = parser.parse_args()
    golden = json.loads((options.bundle / "golden.json").read_text())
    row = golden["rows"][0]
    body = {"inputs": [{"name": "rows", "shape": [1, len(row)], "datatype": "FP64", "data": row}]}
    from evctl.rollout.serving import front
    from evctl.rollout.serving.golden import call

    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        (work / "token").write_text("t")
        own = [sys.executable, "-m", "ev_serving", "--bundle", str(options.bundle), "--name", "m"]
        door = [sys.executable, "-m", front.__name__, "--port", "0", "--token-file", str(work / "token")]
        commands = [
            [sys.executable, "-c", STOCK, str(options.bundle), "18973"],
            [*own, "--announce", str(work / "own")],
            [*door, "--announce", str(work / "front")],
        ]
        running = [subprocess.Popen(c, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) for c in commands]
        try:
            wait("http://127.0.0.1:18973/v2/models/m/ready")
            while not ((work / "own").exists() and (work / "front").exists()):
                time.sleep(0.1)
            port = {name: int((work / name).read_text().split()[0]) for name in ("own", "front")}
            call(port["front"], "POST", front.CONTROL, {"port": port["own"], "digest": "d"}, {"x-evctl-token": "t"})
            for name, where in (
                ("stock", 18973),
                ("evctl server alone", port["own"]),
                ("evctl service", port["front"]),
            ):
                p50, p99, rate = measure(f"http://127.0.0.1:{where}/v2/models/m/infer", body, options.seconds)
                print(f"{name:<20} p50 {p50:.2f} ms  p99 {p99:.2f} ms  8 clients {rate:.0f} req/s", flush=True)
        finally:
            for process in running:
                process.kill()


if __name__ == "__main__":
    main()
