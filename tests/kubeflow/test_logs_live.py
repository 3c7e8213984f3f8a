"""`evctl logs -f` of a run that goes on: the pod's log through the Kubernetes API's own streaming, over real sockets."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest

from tests.fakes.kfp_life import Plan
from tests.kubeflow.conftest import Kubeflow

pytestmark = pytest.mark.kubeflow
Call = Callable[..., tuple[int, str, str]]
LOG = re.compile(r"/api/v1/namespaces/([^/]+)/pods/([^/]+)/log")
TRAIN = "train-fault-classifier"


class Kubelet:
    """Answers the logs of a run's pods as a kubelet does: nothing before the container runs, chunks while it does."""

    def __init__(self, kubeflow: Kubeflow) -> None:
        self.world = kubeflow.world
        self.asked: list[str] = []
        self.cut_after: int | None = None
        self.began: dict[str, float] = {}
        self.ended: dict[str, float] = {}
        kubeflow.api.faults.append(self)

    def phase(self, pod: str) -> str | None:
        for run in self.world.runs.values():
            for item in run.moment().pods:
                if item["metadata"]["name"] == pod:
                    return str(item["status"]["phase"])
        return None

    def __call__(self, handler: Any, method: str, path: str) -> bool:
        found = LOG.fullmatch(path)
        if found is None:
            return False
        self.asked.append(handler.path)
        pod = found[2]
        if self.phase(pod) is None:
            handler.reply(404, {"kind": "Status", "message": f'pods "{pod}" not found', "code": 404})
        elif self.phase(pod) == "Pending":
            words = f'container "main" in pod "{pod}" is waiting to start: PodInitializing'
            handler.reply(400, {"kind": "Status", "message": words, "code": 400})
        else:
            self._stream(handler, pod, "follow=true" in handler.path)
        return True

    def _stream(self, handler: Any, pod: str, follow: bool) -> None:
        handler.send_response(200)
        handler.send_header("Transfer-Encoding", "chunked")
        handler.end_headers()
        deadline = time.monotonic() + 20
        said = 0
        while time.monotonic() < deadline:
            over = self.phase(pod) != "Running"
            while said < self._printed(pod, over):
                line = f"{pod} step {said}\n"
                for piece in (line[:9].encode(), line[9:].encode()):
                    handler.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
                    handler.wfile.flush()
                said += 1
            if self.cut_after is not None and said >= self.cut_after:
                self.cut_after = None
                handler.close_connection = True
                return
            if over or not follow:
                break
            time.sleep(0.1)
        handler.wfile.write(b"0\r\n\r\n")

    def _printed(self, pod: str, over: bool) -> int:
        """Return how many lines the container has printed: one each tenth of a second."""
        now = time.monotonic()
        if over:
            now = self.ended.setdefault(pod, now)
        return 1 + int((now - self.began.setdefault(pod, now)) / 0.1)


def start(kubeflow: Kubeflow, evctl: Call, plan: Plan) -> str:
    kubeflow.profile(poll_s=0.2)
    kubeflow.world.plan = plan
    code, out, err = evctl("run", "--env", "dev", "--detach", "-q")
    assert code == 0, err
    return out.strip()


@pytest.mark.parametrize("cut", [None, 3])
def test_a_task_is_waited_for_and_followed_live_to_its_end(kubeflow: Kubeflow, evctl: Call, cut: int | None) -> None:
    run = start(kubeflow, evctl, Plan(task_s=0.2, slow={TRAIN: 2.0}))
    kubelet = Kubelet(kubeflow)
    kubelet.cut_after = cut
    code, out, err = evctl("logs", run, "train_fault_classifier", "-f", "--env", "dev")
    assert code == 0, err
    steps = [int(line.rsplit(" ", 1)[1]) for line in out.splitlines()]
    assert len(steps) >= 5
    assert steps == list(range(len(steps)))
    assert any("follow=true" in path for path in kubelet.asked)
    assert all("container=main" in path for path in kubelet.asked)
    task = next(t for t in kubeflow.backend().get(run).tasks if t.name == "train_fault_classifier")
    assert task.state.value == "SUCCEEDED"


def test_a_line_is_on_screen_within_two_seconds_of_being_printed(kubeflow: Kubeflow, evctl: Call) -> None:
    run = start(kubeflow, evctl, Plan(task_s=0.2, slow={TRAIN: 3.0}))
    Kubelet(kubeflow)
    shown: list[float] = []

    def follow() -> None:
        for _ in kubeflow.backend(poll_s=0.2).logs(run, "train_fault_classifier", follow=True):
            shown.append(time.monotonic())

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    thread.join(30)
    assert not thread.is_alive()
    assert shown[-1] - shown[0] > 1.5  # as they came, not all at the end
    assert max(b - a for a, b in pairwise(shown)) < 2.0
