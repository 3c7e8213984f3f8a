"""What the tests of canaries share in KServe's two modes: a service with model a live, a player, and a canary's pods."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from evctl.rollout.promotion import Outcome, promote
from evctl.rollout.serving.kserve import ClusterWorld
from tests.cluster.answering import ModelServer
from tests.cluster.playing import ModePlayer
from tests.cluster.stage import Stage


@dataclass
class Canaries:
    """A service. `pods` stands for the canary's pods; `ways`: how a model's pods go, by storageUri."""

    stage: Stage
    pods: ModelServer
    ways: dict[str, str]
    player: Any
    settings: dict[str, Any] = field(default_factory=dict)

    def world(self, **changes: Any) -> ClusterWorld:
        return self.stage.world(**{**self.settings, **changes})

    def promote(self, model: str, canary: int | None = None, **changes: Any) -> Outcome:
        world, uri = self.world(**changes), self.uri(model)
        return promote(self.stage.target, world, uri, by="anna", canary=canary, tell=self.stage.told.append)

    def promote_hurried(self, model: str, canary: int) -> Outcome:
        """Promote with a proof that is given up soon."""
        target = replace(self.stage.with_settings(**self.settings), proof_timeout_s=3.0)
        return promote(target, ClusterWorld(target, self.stage.api()), self.uri(model), by="anna", canary=canary)

    def uri(self, model: str) -> str:
        return self.stage.models[model].uri


Kind = TypeVar("Kind", bound=Canaries)


@contextlib.contextmanager
def playing(made: Kind, player: ModePlayer) -> Iterator[Kind]:
    """Start the player and promote model a; end both when the test does."""
    made.player = player
    player.start()
    made.promote("a")
    yield made
    player.stop()
    made.pods.stop()
