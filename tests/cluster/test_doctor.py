"""Doctor over a real API server: rights, secrets, accounts, nodes, the controller's policy, KServe; each with its fix."""

from __future__ import annotations

import base64
import contextlib
import io
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from evctl.cli import run
from evctl.doctor.checks import Result, diagnose
from evctl.doctor.cluster import FORWARD, LOGS, SECRETS, STATUS
from evctl.doctor.judge import Right
from evctl.doctor.kubeflow import engine_checks
from evctl.kube import KubeApi
from evctl.profile import Profile
from evctl.rollout.serving import kserve_checks
from tests.cluster.harness import Cluster
from tests.cluster.waiting import until
from tests.fakes.kfp_server import KfpServer
from tests.fakes.kfp_state import World
from tests.fakes.mlmd_server import MlmdServer

pytestmark = pytest.mark.cluster
SECRET = "ev-telemetry-secret"
SERVING = [Right(verb, resource, group) for group, resource, verbs in kserve_checks.RIGHTS for verb in verbs]
RIGHTS = {"right: status": STATUS, "right: logs": LOGS, "right: secrets": SECRETS, "right: serving": SERVING}


@dataclass
class Place:
    """A namespace for runs, one for Kubeflow itself, and a fake KFP that keeps users apart."""

    admin: KubeApi
    namespace: str
    system: str
    kfp: KfpServer
    mlmd: MlmdServer

    def profile(self, **values: Any) -> Profile:
        kubeflow = {"host": self.kfp.url, "metadata_host": self.mlmd.host, "system_namespace": self.system}
        given = {
            "name": "dev",
            "backend": "kubeflow",
            "namespace": self.namespace,
            "image": {"mode": "embedded", "name": "python:3.11-slim"},
            "store": {"uri": "s3://ev/store"},
            "secrets": [{"name": SECRET, "keys": ["TELEMETRY_TOKEN"]}],
            "steps": {"train_fault_classifier": {"cpu": "4", "memory": "8Gi", "retries": 3}},
            **values,
            "kubeflow": {**kubeflow, **values.get("kubeflow", {})},
        }
        return Profile.model_validate(given)

    def asked(self, *names: str, **values: Any) -> dict[str, Result]:
        checks = [each for each in engine_checks(self.profile(**values)) if each.name in names]
        assert len(checks) == len(names)
        return {result.name: result for result in diagnose(checks)}

    def one(self, name: str, **values: Any) -> Result:
        return self.asked(name, **values)[name]

    def secret(self, space: str, **data: str) -> None:
        encoded = {key: base64.b64encode(value.encode()).decode() for key, value in data.items()}
        self.admin.create(f"/api/v1/namespaces/{space}/secrets", {"metadata": {"name": SECRET}, "data": encoded})


@pytest.fixture
def place(cluster: Cluster, admin: KubeApi, namespace: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    system = f"{namespace}-system"
    admin.create("/api/v1/namespaces", {"metadata": {"name": system}})
    monkeypatch.setenv("KUBECONFIG", str(cluster.kubeconfig()))
    with KfpServer(World(multi_user=True)) as kfp, MlmdServer(lambda run: None, list) as mlmd:
        yield Place(admin, namespace, system, kfp, mlmd)


def test_access_says_which_cluster_and_who_we_are(place: Place, cluster: Cluster) -> None:
    found = place.one("kubernetes")
    assert found.status == "pass"
    assert cluster.url in found.message
    assert found.message.endswith("as admin")
    assert found.message.startswith("v1.")


def test_the_services_are_asked_by_their_addresses(place: Place) -> None:
    found = place.asked("dns", "tcp", "tls", "login", "kfp", "metadata", "clock")
    assert {result.status for result in found.values()} == {"pass"}


def test_without_hosts_the_api_servers_own_certificate_is_looked_at(place: Place, cluster: Cluster) -> None:
    found = place.asked("dns", "tcp", "tls", "kfp", kubeflow={"host": None, "metadata_host": None})
    assert found["tls"].message == "the certificate of 127.0.0.1 is good for 1 days"
    assert str(cluster.port) in found["tcp"].message
    assert found["kfp"].status == "fail"
    assert found["kfp"].message == f"there is no service {place.system}/ml-pipeline on this cluster"


def test_a_missing_namespace_is_told_with_the_command_that_makes_it(place: Place) -> None:
    assert place.one("namespace").status == "pass"
    found = place.one("namespace", namespace="no-such-place")
    assert (found.status, found.fix) == ("fail", "kubectl create namespace no-such-place")


@pytest.mark.parametrize("name", RIGHTS)
def test_just_the_rights_that_are_missing_are_asked_for_and_granting_them_is_enough(
    name: str, place: Place, operator: Callable[[list[dict[str, list[str]]]], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = RIGHTS[name]
    first, *others = wanted
    monkeypatch.setenv("KUBECONFIG", str(operator([rule(first)])))
    found = place.one(name, serving={"mode": "Standard"})
    if not others:
        assert found.status == "pass"
        return
    assert found.status == "warn"
    said = found.message.partition(": not allowed in ")[2]
    assert said == f"{place.namespace}: {', '.join(map(str, others))}"
    assert f"kubectl -n {place.namespace} create role" in str(found.fix)
    assert max(map(len, str(found.fix).split(" && "))) < 200
    assert re.search("--user=operator-|--serviceaccount=.*:operator-", str(found.fix))
    monkeypatch.setenv("KUBECONFIG", str(operator([*granted(str(found.fix)), rule(first)])))
    assert place.one(name, serving={"mode": "Standard"}).status == "pass"


def rule(right: Any) -> dict[str, list[str]]:
    return {"apiGroups": [right.group], "resources": [right.resource], "verbs": [right.verb]}


def granted(fix: str) -> list[dict[str, list[str]]]:
    """Return what `kubectl create role` (or `apply`, of what evctl prints) would make of the commands."""
    rules = []
    for command in fix.split(" && "):
        if command.startswith("evctl help role | kubectl apply -n"):
            rules += promoter()
        words = dict(word[2:].split("=", 1) for word in command.split() if word.startswith("--"))
        if "resource" not in words:
            continue
        for each in words["resource"].split(","):
            kind, slash, sub = each.partition("/")
            kind, _, group = kind.partition(".")
            rules.append({"apiGroups": [group], "resources": [kind + slash + sub], "verbs": words["verb"].split(",")})
    return rules


def test_the_deploy_steps_own_account_is_asked_for_and_granting_what_is_missing_is_enough(place: Place) -> None:
    assert place.one("right: deploy step").message == "not needed: deploy is manual"
    auto = {"deploy": "auto", "serving": {"mode": "Standard"}}
    found = place.one("right: deploy step", **auto)
    assert found.status == "fail"
    assert f"{place.namespace}/default-editor may not in {place.namespace}: get inferenceservices" in found.message
    assert str(found.fix).split(" && ") == [
        f"evctl help role | kubectl apply -n {place.namespace} -f -",
        f"kubectl -n {place.namespace} create rolebinding evctl-promoter-default-editor --role=evctl-promoter "
        f"--serviceaccount={place.namespace}:default-editor",
    ]
    base = f"/apis/rbac.authorization.k8s.io/v1/namespaces/{place.namespace}"
    place.admin.create(f"{base}/roles", {"metadata": {"name": "all"}, "rules": granted(str(found.fix))})
    subject = {"kind": "ServiceAccount", "name": "default-editor", "namespace": place.namespace}
    role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "all"}
    binding = {"metadata": {"name": "all"}, "roleRef": role, "subjects": [subject]}
    place.admin.create(f"{base}/rolebindings", binding)
    assert place.one("right: deploy step", **auto).status == "pass"


def test_who_may_not_ask_for_another_account_is_told_so(
    place: Place, operator: Callable[[list[dict[str, list[str]]]], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KUBECONFIG", str(operator([])))
    found = place.one("right: deploy step", deploy="auto", serving={"mode": "Standard"})
    assert found.status == "warn"
    assert "kubectl auth can-i" in str(found.fix)


def test_forwarding_needs_rights_only_without_hosts_and_is_a_failure_then(
    place: Place, operator: Callable[[list[dict[str, list[str]]]], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert place.one("right: forward", kubeflow={"host": None}).status == "pass"
    monkeypatch.setenv("KUBECONFIG", str(operator([rule(FORWARD[0])])))
    assert place.one("right: forward").message.startswith("not needed")
    found = place.one("right: forward", kubeflow={"host": None})
    assert found.status == "fail"
    assert "get pods/portforward, create pods/portforward" in found.message


def promoter() -> list[dict[str, list[str]]]:
    with contextlib.redirect_stdout(io.StringIO()) as out:
        assert run(["help", "role"]) == 0
    return list(yaml.safe_load(out.getvalue())["rules"])


BEHIND_PORTS = ("login", "kfp", "metadata", "clock", "artifacts")


@pytest.mark.parametrize("keys", [True, False])
def test_a_mere_promoter_is_told_of_the_one_right_to_forward_and_nothing_else_of_it(
    keys: bool,
    place: Place,
    operator: Callable[[list[dict[str, list[str]]]], Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("KUBECONFIG", str(operator(promoter())))
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY") if keys else ():
        monkeypatch.setenv(name, "k3y-of-the-operator")
    way = {"host": None, "metadata_host": None}
    found = place.asked(*BEHIND_PORTS, "right: forward", kubeflow=way)
    right = found.pop("right: forward")
    missing = "get services, list pods, get pods/portforward, create pods/portforward"
    assert right.status == "fail"
    assert right.message == f"every command will not work: not allowed in {place.system}: {missing}"
    assert f"kubectl -n {place.system} create role evctl-forward" in str(right.fix)
    assert {(each.status, each.message) for each in found.values()} == {
        ("warn", "not checked: no port may be forwarded, see right: forward")
    }


def served(place: Place, name: str, port: int) -> None:
    """A service with a ready pod, in the namespace where the operators of this file have their rights."""
    base = f"/api/v1/namespaces/{place.namespace}"
    ports = [{"port": port, "targetPort": port}]
    place.admin.create(
        f"{base}/services", {"metadata": {"name": name}, "spec": {"selector": {"app": name}, "ports": ports}}
    )
    pod = {"metadata": {"name": name, "labels": {"app": name}}, "spec": {"containers": [{"name": "c", "image": "x"}]}}
    place.admin.create(f"{base}/pods", pod)
    ready = {"status": {"conditions": [{"type": "Ready", "status": "True"}]}}
    place.admin.patch(f"{base}/pods/{name}/status", ready)


def test_who_may_see_the_services_but_not_forward_to_them_is_told_the_same(
    place: Place, operator: Callable[[list[dict[str, list[str]]]], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    served(place, "ml-pipeline", 8888)
    served(place, "metadata-grpc-service", 8080)
    monkeypatch.setenv("KUBECONFIG", str(operator([rule(each) for each in FORWARD[:2]])))
    way = {"host": None, "metadata_host": None, "system_namespace": place.namespace}
    found = place.asked("login", "kfp", "metadata", "clock", "right: forward", kubeflow=way)
    assert found.pop("right: forward").status == "fail"
    assert {each.message for each in found.values()} == {"not checked: no port may be forwarded, see right: forward"}


def test_secrets_are_looked_for_where_the_pods_are_and_by_key(place: Place) -> None:
    missing = place.one("secrets on the cluster")
    assert missing.status == "fail"
    assert missing.message == f"there is no secret {SECRET} in {place.namespace}"
    assert missing.fix == f"evctl secrets apply --env dev {SECRET} -f FILE"
    place.secret(place.namespace, OTHER="h1dden")
    lacking = place.one("secrets on the cluster")
    assert lacking.message == f"secret {SECRET} in {place.namespace} lacks TELEMETRY_TOKEN"
    assert "h1dden" not in json.dumps(lacking.to_json())
    path = f"/api/v1/namespaces/{place.namespace}/secrets/{SECRET}"
    place.admin.patch(path, {"stringData": {"TELEMETRY_TOKEN": "h1dden"}})
    assert place.one("secrets on the cluster").status == "pass"


def test_a_kfp_of_one_user_has_its_pods_and_their_secrets_in_its_own_namespace(place: Place) -> None:
    place.kfp.world.multi_user = False
    place.secret(place.namespace, TELEMETRY_TOKEN="t")
    found = place.one("secrets on the cluster")
    assert (found.status, found.message) == ("fail", f"there is no secret {SECRET} in {place.system}")
    assert place.one("right: secrets").message.endswith(place.system)
    assert place.one("service account").message == f"there is no service account pipeline-runner in {place.system}"


def test_the_runs_service_account_is_kfps_own_unless_named(place: Place) -> None:
    accounts = f"/api/v1/namespaces/{place.namespace}/serviceaccounts"
    assert place.one("service account").message == f"there is no service account default-editor in {place.namespace}"
    place.admin.create(accounts, {"metadata": {"name": "default-editor"}})
    assert place.one("service account").status == "pass"
    assert place.one("service account", kubeflow={"service_account": "mine"}).status == "fail"


@pytest.fixture
def node(admin: KubeApi, namespace: str) -> Iterator[Callable[[str, str], None]]:
    path = "/api/v1/nodes"
    name = f"node-{namespace}"

    def make(cpu: str, memory: str) -> None:
        admin.create(path, {"metadata": {"name": name}})
        allocatable = {"cpu": cpu, "memory": memory, "pods": "110"}
        admin.patch(f"{path}/{name}/status", {"status": {"allocatable": allocatable, "capacity": allocatable}})
        # a node that is new is tainted until its controller has seen it, and here is none
        admin.patch(f"{path}/{name}", {"spec": {"taints": []}})

    yield make
    admin.delete(f"{path}/{name}")


def test_a_node_too_small_for_the_largest_task_is_told_with_what_it_gives(
    place: Place, node: Callable[[str, str], None]
) -> None:
    node("2", "16Gi")
    found = place.one("nodes")
    assert found.status == "fail"
    assert found.message == (
        "no node has cpu 4, memory 8Gi, so train_fault_classifier would stay Pending; "
        "the largest give cpu 2, 16.0Gi"
    )  # fmt: skip
    small = {"train_fault_classifier": {"cpu": "2", "memory": "8Gi"}}
    assert place.one("nodes", steps=small).status == "pass"


def test_a_node_that_others_have_filled_is_a_warning(place: Place, node: Callable[[str, str], None]) -> None:
    node("8", "16Gi")
    assert place.one("nodes").status == "pass"
    name = f"node-{place.namespace}"
    container = {"name": "c", "image": "x", "resources": {"requests": {"cpu": "6"}}}
    body = {"metadata": {"name": "busy"}, "spec": {"nodeName": name, "containers": [container]}}
    pods = f"/api/v1/namespaces/{place.namespace}/pods"
    place.admin.create(pods, {"apiVersion": "v1", "kind": "Pod", **body})
    found = place.one("nodes")
    assert found.status == "warn"
    assert found.message.startswith("train_fault_classifier would wait until other pods have ended: no node has cpu 4")
    place.admin.patch(f"{pods}/busy/status", {"status": {"phase": "Succeeded"}})
    assert place.one("nodes").status == "pass"
    place.admin.delete(f"{pods}/busy")


def test_nodes_that_may_not_be_listed_are_a_warning(
    place: Place, operator: Callable[[list[dict[str, list[str]]]], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KUBECONFIG", str(operator([])))
    found = place.asked("nodes", "retries", "namespace", "service account", "secrets on the cluster")
    assert {result.status for result in found.values()} == {"warn"}
    assert all(result.fix for result in found.values())


def test_the_controllers_policy_is_read_and_named(place: Place) -> None:
    maps = f"/api/v1/namespaces/{place.system}/configmaps"
    assert place.one("retries").status == "warn"

    def policy(strategy: dict[str, str] | None) -> Result:
        defaults = {"spec": {"templateDefaults": {"retryStrategy": strategy} if strategy else {}}}
        body = {
            "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "workflow-controller-configmap"},
            "data": {"workflowDefaults": yaml.safe_dump(defaults)},
        }  # fmt: skip
        place.admin.apply(f"{maps}/workflow-controller-configmap", body, "test", force=True)
        return place.one("retries")

    shipped = policy({"limit": "2", "retryPolicy": "OnError"})
    assert shipped.status == "warn"
    assert "a step that exits non-zero is not retried: retries of train_fault_classifier are void" in shipped.message
    assert "remove retryStrategy from templateDefaults" in str(shipped.fix)
    assert policy({"limit": "2", "retryPolicy": "Always"}).status == "fail"
    assert policy(None).status == "pass"


def test_kserve_is_asked_for_version_mode_and_runtime(place: Place) -> None:
    assert place.asked("kserve")["kserve"].message == "InferenceService v1beta1; its version is not told"
    assert place.one("kserve mode").message.startswith("Knative")  # its API is served, and nothing else is told
    container = {"name": "manager", "image": "kserve/kserve-controller:v0.21.0"}
    labels = {"app": "kserve"}
    template = {"metadata": {"labels": labels}, "spec": {"containers": [container]}}
    deployment = {
        "metadata": {"name": "kserve-controller-manager"},
        "spec": {"selector": {"matchLabels": labels}, "template": template},
    }
    place.admin.create(f"/apis/apps/v1/namespaces/{place.system}/deployments", deployment)
    config = {
        "metadata": {"name": "inferenceservice-config"},
        "data": {"deploy": json.dumps({"defaultDeploymentMode": "RawDeployment"})},
    }
    place.admin.create(f"/api/v1/namespaces/{place.system}/configmaps", config)
    found = place.asked("kserve", "kserve mode", "kserve runtime")
    assert [result.message for result in found.values()] == [
        "KServe v0.21.0", "Standard", "made by evctl from the profile's image",
    ]  # fmt: skip
    assert place.one("kserve mode", serving={"mode": "Knative"}).status == "warn"
    older = [{"name": "manager", "image": "kserve/kserve-controller:v0.15.2"}]
    changed = {"spec": {"template": {"spec": {"containers": older}}}}
    place.admin.patch(f"/apis/apps/v1/namespaces/{place.system}/deployments/kserve-controller-manager", changed)
    assert "does not know the modes" in place.one("kserve", deploy="auto").message
    where = f"/api/v1/namespaces/{place.system}/configmaps/inferenceservice-config"
    place.admin.patch(where, {"data": {"deploy": json.dumps({"defaultDeploymentMode": "ModelMesh"})}})
    unknown = place.one("kserve mode", deploy="auto")
    assert (unknown.status, unknown.fix) == ("fail", "set serving: {mode: Standard} in the profile")
    missing = place.one("kserve runtime", serving={"runtime": "nope"})
    assert missing.message == f"there is no runtime nope for {place.namespace}"
    runtime = {
        "apiVersion": "serving.kserve.io/v1alpha1", "kind": "ServingRuntime", "metadata": {"name": "mine"}, "spec": {},
    }  # fmt: skip
    place.admin.create(f"/apis/serving.kserve.io/v1alpha1/namespaces/{place.namespace}/servingruntimes", runtime)
    assert place.one("kserve runtime", serving={"runtime": "mine"}).status == "pass"


def test_a_kserve_whose_controller_is_down_is_told_and_doctor_leaves_no_service_behind(place: Place) -> None:
    services = f"/apis/serving.kserve.io/v1beta1/namespaces/{place.namespace}/inferenceservices"
    assert place.one("kserve", deploy="auto").status == "pass"
    webhook = {
        "name": "inferenceservice.kserve-webhook-server.defaulter",
        "clientConfig": {"url": "https://127.0.0.1:1/mutate-serving-kserve-io-v1beta1-inferenceservice"},
        "rules": [
            {
                "apiGroups": ["serving.kserve.io"],
                "apiVersions": ["v1beta1"],
                "operations": ["CREATE", "UPDATE"],
                "resources": ["inferenceservices"],
            }
        ],
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": place.namespace}},
        "sideEffects": "None",
        "admissionReviewVersions": ["v1"],
    }
    hooks = "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations"
    place.admin.create(hooks, {"metadata": {"name": place.namespace}, "webhooks": [webhook]})
    try:
        # the API server takes a moment to know of a webhook
        until(lambda: place.one("kserve", deploy="auto").status == "fail")
        down = place.one("kserve", deploy="auto")
        assert down.message.startswith("KServe's controller does not answer: ")
        assert str(down.fix).startswith("kubectl -n kserve get pods")
        assert place.one("kserve").status == "warn"  # only `promote` needs it
    finally:
        place.admin.delete(f"{hooks}/{place.namespace}")
    assert place.admin.list(services) == []


def test_the_verb_prints_json_and_exits_5(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "profiles"
    folder.mkdir()
    document = place.profile().model_dump(mode="json", exclude_none=True, exclude={"name"}, exclude_unset=True)
    (folder / "dev.yaml").write_text(yaml.safe_dump(document))
    monkeypatch.setenv("EVCTL_PROFILES", str(folder))
    assert run(["doctor", "--env", "dev", "-o", "json"]) == 5
    out, err = capfd.readouterr()
    checks = {each["name"]: each for each in json.loads(out)["checks"]}
    assert err == ""
    assert checks["secrets on the cluster"]["status"] == "fail"
    assert all(each["fix"] for each in checks.values() if each["status"] == "fail")
