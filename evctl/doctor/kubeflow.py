"""What a run on Kubeflow needs: the way there, the services, the cluster, the serving side."""

from __future__ import annotations

from functools import partial

from evctl.doctor import cluster, controllers, network, serving, store_keys
from evctl.doctor.checks import Check
from evctl.doctor.site import Site, check
from evctl.profile import Profile


def engine_checks(profile: Profile) -> tuple[Check, ...]:
    """Return the checks; they share one connection, each part of which is asked once."""
    site = Site(profile)
    pods = f"kubectl -n {profile.kubeflow.system_namespace} get pods -l app="
    runs, may = Site.runs_namespace, cluster.may
    return (
        check("dns", network.dns, site, "look at the resolver: getent hosts NAME"),
        check("tcp", network.tcp, site, "is there a firewall, or a VPN to join?"),
        check("tls", network.tls, site, "set kubeflow.host to the URL that the API really has"),
        check("kubernetes", cluster.kubernetes, site),
        check("login", network.login, site, f"{pods}ml-pipeline"),
        check("kfp", network.kfp, site, f"{pods}ml-pipeline"),
        check("metadata", network.metadata, site, f"{pods}metadata-grpc-deployment"),
        check("clock", network.clock, site),
        check("artifacts", serving.artifacts, site, "set kubeflow.object_store_endpoint to one reachable from here"),
        check("namespace", cluster.namespace, site),
        check("right: status", may("status", runs, cluster.STATUS, "the reasons in `evctl status`"), site),
        check("right: logs", may("logs", runs, cluster.LOGS, "`evctl logs -f`"), site),
        check("right: secrets", may("secrets", runs, cluster.SECRETS, "`evctl secrets`"), site),
        check("right: forward", cluster.forwarding, site),
        check("right: serving", serving.promoting, site),
        check("right: deploy step", serving.deploying, site),
        check("secrets on the cluster", cluster.secrets, site),
        check("store keys", store_keys.keys_open_the_store, site, "does the store at store.endpoint answer?"),
        check("service account", cluster.service_account, site),
        Check("image", partial(cluster.image, profile)),
        check("nodes", cluster.nodes, site),
        check("workflow controller", controllers.workflow_controller, site),
        check("retries", cluster.retries, site),
        check("kserve", serving.kserve, site, "kubectl -n kserve get pods shows whether its controller runs"),
        check("kserve controller", controllers.kserve_controller, site),
        check("kserve mode", serving.mode, site),
        check("kserve runtime", serving.runtime, site),
    )
