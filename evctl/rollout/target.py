"""What is promoted to: the service settings of a profile, as the pipeline and the commands hand them over."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from evctl.errors import UsageError


@dataclass(frozen=True, slots=True)
class ServiceTarget:
    """One service and the store its models come from. Times are seconds."""

    name: str
    namespace: str
    backend: str
    store: Mapping[str, Any]
    port: int = 0
    proof_timeout_s: float = 300.0
    max_recall_drop: float = 0.02
    history_limit: int = 50
    settings: Mapping[str, Any] = field(default_factory=dict)
    """All of `ServingSettings`, for what one world alone needs."""

    @classmethod
    def of(cls, service: Mapping[str, Any]) -> ServiceTarget:
        """Return the target of `PipelineSettings.service`. UsageError when a key is missing."""
        try:
            return cls(
                name=service["name"],
                namespace=service["namespace"],
                backend=service["backend"],
                store=service["store"],
                port=int(service.get("port", 0)),
                proof_timeout_s=float(service.get("proof_timeout_s", 300.0)),
                max_recall_drop=float(service.get("max_recall_drop", 0.02)),
                history_limit=int(service.get("history_limit", 50)),
                settings=dict(service),
            )
        except KeyError as error:
            raise UsageError(f"the service settings lack {error}", hint="evctl profile check") from error
