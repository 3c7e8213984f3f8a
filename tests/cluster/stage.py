"""A service on the real API server: its settings, its models, and a player for KServe's side of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from evctl.kube import KubeApi
from evctl.kube_login import connect_kubernetes
from evctl.rollout.promotion import Outcome, promote
from evctl.rollout.registry import Published
from evctl.rollout.serving.kserve import ClusterWorld
from evctl.rollout.target import ServiceTarget
from tests.cluster.answering import ModelServer
from tests.cluster.player import Frame, Player, recorded

GOOD, CREATE = "2_update_good", "1_create_settled"
IMAGE = "registry.example/ev-battery@sha256:" + "a" * 64
SPEED = 25.0
SESSION = Path(__file__).parents[2] / "examples" / "session.csv"


@dataclass
class Stage:
    """All of one service. `timelines`: what is played for a model's URI, in order; the last one again and again."""

    kubeconfig: Path
    target: ServiceTarget
    models: Mapping[str, Published]
    server: ModelServer
    timelines: dict[str, list[Sequence[Frame]]] = field(default_factory=dict)
    frames: list[tuple[float, str, Frame]] = field(default_factory=list)
    told: list[str] = field(default_factory=list)
    player: Player | None = None
    _known: list[Player] = field(default_factory=list)

    def api(self, kubeconfig: Path | None = None) -> KubeApi:
        return connect_kubernetes(kubeconfig=kubeconfig or self.kubeconfig)

    def world(self, kubeconfig: Path | None = None, **changes: Any) -> ClusterWorld:
        return ClusterWorld(self.with_settings(**changes), self.api(kubeconfig))

    def with_settings(self, **changes: Any) -> ServiceTarget:
        return replace(self.target, settings={**self.target.settings, **changes})

    def plays(self, model: str, *timelines: str | Sequence[Frame]) -> None:
        """Say what happens on the cluster when this model is written."""
        told = [recorded(each) if isinstance(each, str) else each for each in timelines]
        self.timelines[self.models[model].uri] = told

    def start(self, *, speed: float = SPEED, make: Callable[..., Player] = Player, **options: Any) -> None:
        settings = {"url": self.server.url, **options}
        self.player = make(
            self.api().client,
            namespace=self.target.namespace,
            service=self.target.name,
            choose=self._choose,
            speed=speed,
            on_frame=self._on_frame,
            **settings,
        )
        self._known.append(self.player)
        self.player.start()

    def stop(self) -> None:
        for each in self._known:
            each.stop()
        self.server.stop()

    def promote(self, model: str, **options: Any) -> Outcome:
        return self.promote_in(self.world(), model, **options)

    def promote_in(self, world: ClusterWorld, model: str, **options: Any) -> Outcome:
        settings = {"by": "anna", "tell": self.told.append, **options}
        return promote(self.target, world, self.models[model].uri, **settings)

    def statuses(self) -> list[str]:
        return [each.status for each in self.world().ledger().read()[0].releases]

    def service(self) -> dict[str, Any]:
        base = f"/apis/serving.kserve.io/v1beta1/namespaces/{self.target.namespace}/inferenceservices"
        return self.api().get(f"{base}/{self.target.name}")

    def when(self, condition: Callable[[Frame], bool]) -> float:
        """Return when a frame that fulfils a condition was written (monotonic seconds)."""
        return next(at for at, _, frame in self.frames if condition(frame))

    def _choose(self, uri: str) -> Sequence[Frame] | None:
        queue = self.timelines.get(uri)
        if not queue:
            return None
        return queue.pop(0) if len(queue) > 1 else queue[0]

    def _on_frame(self, uri: str, frame: Frame) -> None:
        self.frames.append((time.monotonic(), uri, frame))
        for each in frame["deployments"]:
            status = each["status"]
            if status.get("replicas") == status.get("updatedReplicas") == status.get("availableReplicas"):
                self.server.active = uri
