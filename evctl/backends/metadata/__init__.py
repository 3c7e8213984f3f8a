"""ML Metadata: how a run really went, read over gRPC with messages of our own (kubeflow-facts 3).

PyPI's `ml-metadata` wants an older protobuf than kfp, so it cannot share an environment with it.
Light on purpose: the exit handler's pod imports this package.
"""

from __future__ import annotations

from evctl.backends.metadata.outcome import Outcome, outcome_of

__all__ = ["Outcome", "outcome_of"]
