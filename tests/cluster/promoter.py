"""A promoter in a process of its own: `python -m tests.cluster.promoter SETTINGS.json`; it may be killed."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from evctl.kube_login import connect_kubernetes
from evctl.rollout import cluster_lease, holders, promotion
from evctl.rollout.serving.kserve import ClusterWorld
from evctl.rollout.target import ServiceTarget


def main(path: str) -> None:
    settings = json.loads(Path(path).read_text())
    cluster_lease.LEASE_S = settings["lease_s"]
    if settings.get("elsewhere"):
        holders.process_table = lambda: "another0table"
    target = ServiceTarget.of(settings["service"])
    world = ClusterWorld(target, connect_kubernetes(kubeconfig=settings["kubeconfig"]))
    done = promotion.promote(
        target, world, settings["uri"], by=settings["by"], tell=lambda line: print(line, flush=True)
    )
    print(json.dumps(done.to_json()), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
