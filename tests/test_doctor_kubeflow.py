"""Doctor over a Kubeflow: what each check makes of a good one and of each fault. RBAC itself: tests/cluster."""

from __future__ import annotations

import json
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest
import yaml

from evctl.doctor import cluster as cluster_checks
from evctl.doctor import judge, network
from evctl.doctor.checks import Check, Result, diagnose
from evctl.doctor.kubeflow import engine_checks
from evctl.profile import Profile
from tests.cluster.harness import Authority, free_port
from tests.fakes.faults import Answer, FaultServer, refuse
from tests.fakes.kfp_server import KfpServer
from tests.fakes.kfp_state import World
from tests.fakes.mlmd_server import MlmdServer

DIGEST = "a" * 64


def profile(**values: Any) -> Profile:
    given = {
        "name": "dev",
        "backend": "kubeflow",
        "namespace": "mlops-dev",
        "image": {"mode": "embedded", "name": "python:3.11-slim"},
        "store": {"uri": "s3://ev/store"},
        **values,
    }
    return Profile.model_validate(given)


def asked(given: Profile, *names: str) -> dict[str, Result]:
    """Run these checks, all of them when none is named."""
    checks: list[Check] = [each for each in engine_checks(given) if not names or each.name in names]
    assert not names or len(checks) == len(names)
    return {result.name: result for result in diagnose(checks)}


@pytest.fixture
def kfp() -> Iterator[KfpServer]:
    with KfpServer(World()) as server:
        yield server


@pytest.fixture
def silent() -> Iterator[str]:
    """A port that takes connections and says nothing."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=64)
    yield f"127.0.0.1:{listener.getsockname()[1]}"
    listener.close()


# -- the way there


def test_a_name_without_an_address_is_told_once_with_the_setting_to_correct() -> None:
    found = asked(
        profile(kubeflow={"host": "http://no-such-host.invalid", "metadata_host": "127.0.0.1:1"}), "dns", "tls"
    )
    assert found["dns"].status == "fail"
    assert "no-such-host.invalid of kubeflow.host has no address" in found["dns"].message
    assert "kubeflow.host" in str(found["dns"].fix)
    assert found["tls"].message == "not used"


def test_a_closed_port_is_told_with_its_address_and_fast() -> None:
    start = time.monotonic()
    port = free_port()
    found = asked(
        profile(kubeflow={"host": f"http://127.0.0.1:{port}", "metadata_host": f"127.0.0.1:{port}"}), "tcp", "kfp"
    )
    assert found["tcp"].status == found["kfp"].status == "fail"
    assert f"127.0.0.1:{port} of kubeflow.host does not take a connection" in found["tcp"].message
    assert "kubeflow.metadata_host" in found["tcp"].message
    assert time.monotonic() - start < 5


def test_a_good_way_passes_every_check_on_it(kfp: KfpServer) -> None:
    with MlmdServer(lambda run: None, list) as mlmd:
        given = profile(kubeflow={"host": kfp.url, "metadata_host": mlmd.host})
        found = asked(given, "dns", "tcp", "tls", "login", "kfp", "metadata", "clock", "right: forward")
    assert {result.status for result in found.values()} == {"pass"}
    assert found["login"].message == "none needed"
    assert "single-user" in found["kfp"].message
    assert found["metadata"].message == f"answers at {mlmd.host}"


def test_a_kfp_that_keeps_users_apart_is_asked_within_the_namespace() -> None:
    with KfpServer(World(multi_user=True)) as server:
        found = asked(profile(kubeflow={"host": server.url, "metadata_host": "127.0.0.1:1"}), "login", "kfp")
    assert [found["login"].status, found["kfp"].message.count("multi-user")] == ["pass", 1]


@pytest.mark.parametrize(
    ("tag", "status"), [("2.17.0", "pass"), ("v2.17.3", "pass"), ("2.5.0", "warn"), ("1.8.5", "fail"), ("dev", "pass")]
)
def test_the_version_is_compared_with_what_evctl_is_held_to(tag: str, status: str) -> None:
    body = json.dumps({"tag_name": tag, "multi_user": False}).encode()
    with FaultServer(Answer(body=body)) as server:
        found = asked(profile(kubeflow={"host": server.url, "metadata_host": "127.0.0.1:1"}), "kfp")
    assert found["kfp"].status == status


def test_a_server_without_the_api_is_a_wrong_url_or_an_old_kfp() -> None:
    with FaultServer(refuse(404, "page not found")) as server:
        found = asked(profile(kubeflow={"host": server.url, "metadata_host": "127.0.0.1:1"}), "kfp")
    assert found["kfp"].status == "fail"
    assert "/pipeline" in str(found["kfp"].fix)


@pytest.mark.parametrize("refusal", [refuse(401), Answer(302, b"", {"Location": "/dex/auth"})], ids=["401", "dex"])
def test_a_refused_login_is_told_once_and_what_depends_on_it_says_so(refusal: Answer) -> None:
    with FaultServer(refusal) as server:
        found = asked(profile(kubeflow={"host": server.url, "metadata_host": "127.0.0.1:1"}), "login", "kfp")
    assert [found[name].status for name in ("login", "kfp")] == ["fail", "warn"]
    assert "kubeflow: {auth:" in str(found["login"].fix)
    assert found["kfp"].message == "not checked: the login is not accepted, see login"


def test_a_slow_answer_is_no_refused_login() -> None:
    health = Answer(body=b'{"tag_name": "2.17.0", "multi_user": false}')
    with FaultServer(health, Answer(wait_s=5)) as server:
        given = {"host": server.url, "metadata_host": "127.0.0.1:1", "request_timeout_s": 0.3, "deadline_s": 0.5}
        found = asked(profile(kubeflow=given), "login")["login"]
    assert (found.status, found.message) == ("fail", f"{server.url} timed out: no answer within 0.3 s")
    assert str(found.fix).startswith("the same command again, when there is less load")
    assert "auth" not in str(found.fix)


def test_a_server_that_stumbles_is_no_refused_login() -> None:
    health = Answer(body=b'{"tag_name": "2.17.0", "multi_user": false}')
    with FaultServer(health, Answer(reset=True)) as server:
        given = {"host": server.url, "metadata_host": "127.0.0.1:1", "deadline_s": 0.5}
        found = asked(profile(kubeflow=given), "login")["login"]
    assert found.status == "fail"
    assert found.fix == "kubectl -n kubeflow get pods -l app=ml-pipeline"


def test_a_handshake_that_does_not_end_is_a_timeout(silent: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network, "PROBE_S", 0.3)
    given = {"host": f"https://{silent}", "metadata_host": "127.0.0.1:1"}
    found = asked(profile(kubeflow=given), "tls")["tls"]
    assert (found.status, found.message) == ("fail", f"{silent} timed out: no TLS answer within 0.3 s")
    assert "the same command again" in str(found.fix)


def test_a_cluster_that_says_nothing_is_a_timeout_and_the_rest_names_it(
    silent: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config_of(tmp_path, monkeypatch, f"http://{silent}")
    found = asked(profile(kubeflow={"request_timeout_s": 0.3, "deadline_s": 0.3}), "kubernetes", "login", "retries")
    assert found["kubernetes"].message == f"the Kubernetes API at http://{silent} timed out: no answer within 0.3 s"
    assert str(found["kubernetes"].fix).startswith("the same command again, when there is less load")
    other = "not checked: the Kubernetes API cannot be asked, see kubernetes"
    assert found["login"].message == found["retries"].message == other


def test_a_webhook_that_says_nothing_is_a_timeout_and_no_controller_that_is_down(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    served = Answer(body=b'{"gitVersion": "v1.34.4"}')
    with FaultServer(served, served, Answer(wait_s=5)) as kubernetes:
        config_of(tmp_path, monkeypatch, kubernetes.url)
        found = asked(profile(kubeflow={"request_timeout_s": 0.4, "deadline_s": 0.4}, deploy="manual"), "kserve")
    assert found["kserve"].status == "fail"
    assert found["kserve"].message == f"the Kubernetes API at {kubernetes.url} timed out: no answer within 0.4 s"
    assert str(found["kserve"].fix).endswith("kubectl -n kserve get pods shows whether its controller runs")


def test_what_a_slow_server_leaves_untold_is_no_missing_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with (
        FaultServer(Answer(body=b'{"gitVersion": "v1.34.4"}'), refuse(404)) as kubernetes,
        FaultServer(refuse(503)) as kfp,
    ):
        config_of(tmp_path, monkeypatch, kubernetes.url)
        given = {"host": kfp.url, "metadata_host": "127.0.0.1:1", "deadline_s": 0.5}
        mounts = [{"name": "ev-telemetry-secret", "keys": ["T"]}]
        found = asked(profile(kubeflow=given, secrets=mounts), "secrets on the cluster")["secrets on the cluster"]
    assert found.status == "warn"
    assert found.message == (
        "there is no secret ev-telemetry-secret in mlops-dev, but KFP does not say where its runs are, see kfp"
    )


def test_an_hours_skew_is_a_failure_and_a_minutes_a_warning(kfp: KfpServer) -> None:
    def ahead(seconds: float) -> Result:
        answer = Answer(
            body=b'{"tag_name": "2.17.0"}', headers={"Date": formatdate(time.time() + seconds, usegmt=True)}
        )
        with FaultServer(answer) as server:
            return asked(profile(kubeflow={"host": server.url, "metadata_host": "127.0.0.1:1"}), "clock")["clock"]

    assert (ahead(3600).status, ahead(-60).status) == ("fail", "warn")
    assert "1.0 h ahead of ours" in ahead(3600).message
    assert "behind" in ahead(-60).message
    assert asked(profile(kubeflow={"host": kfp.url}), "clock")["clock"].status == "warn"  # not checked: no cluster


@pytest.fixture
def encrypted(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """A TLS server with a certificate of its own authority: (URL, CA file)."""
    authority = Authority(tmp_path)
    crt, key = authority.issue("server", "server", server=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(crt, key)
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                peer, _ = listener.accept()
            except OSError:
                return
            try:
                with context.wrap_socket(peer, server_side=True) as wrapped:
                    wrapped.recv(1)
            except OSError:
                continue

    threading.Thread(target=serve, daemon=True).start()
    yield f"https://127.0.0.1:{listener.getsockname()[1]}", authority.path
    listener.close()


def test_a_certificate_is_checked_against_the_profiles_authority(encrypted: tuple[str, Path]) -> None:
    url, ca = encrypted
    trusted = asked(profile(kubeflow={"host": url, "metadata_host": "127.0.0.1:1", "ca_file": str(ca)}), "tls")["tls"]
    assert trusted.status == "warn"  # two days left
    assert "good for 1 days" in trusted.message
    strange = asked(profile(kubeflow={"host": url, "metadata_host": "127.0.0.1:1"}), "tls")["tls"]
    assert strange.status == "fail"
    assert "not trusted" in strange.message
    assert "kubeflow.ca_file" in str(strange.fix)


def test_a_port_that_speaks_no_tls_is_told(kfp: KfpServer) -> None:
    url = kfp.url.replace("http://", "https://")
    found = asked(profile(kubeflow={"host": url, "metadata_host": "127.0.0.1:1"}), "tls")["tls"]
    assert (found.status, found.fix) == ("fail", "is it http:// instead?")


def test_a_login_that_would_travel_in_the_open_is_a_warning() -> None:
    given = {
        "host": "http://kubeflow.example",
        "metadata_host": "127.0.0.1:1",
        "auth": {"kind": "token", "token_env": "T"},
    }
    found = asked(profile(kubeflow=given), "tls")["tls"]
    assert found.status == "warn"
    assert "unencrypted" in found.message


# -- a cluster that does not answer


def config_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: str) -> None:
    config = {
        "apiVersion": "v1", "kind": "Config", "current-context": "c",
        "clusters": [{"name": "c", "cluster": {"server": server}}],
        "users": [{"name": "u", "user": {"token": "t"}}],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
    }  # fmt: skip
    (tmp_path / "kubeconfig").write_text(yaml.safe_dump(config))
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))


def test_without_a_cluster_one_check_says_why_and_the_others_name_it() -> None:
    found = asked(profile())
    assert [name for name, result in found.items() if result.status == "fail"] == ["kubernetes"]
    assert "KUBECONFIG" in str(found["kubernetes"].fix)
    assert found["retries"].message == "not checked: the Kubernetes API cannot be asked, see kubernetes"


def test_with_hosts_named_a_missing_cluster_is_a_warning_only(kfp: KfpServer) -> None:
    given = profile(kubeflow={"host": kfp.url, "metadata_host": "127.0.0.1:1"})
    assert asked(given, "kubernetes")["kubernetes"].status == "warn"


def test_everything_is_told_within_ten_seconds_when_servers_take_connections_and_say_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, silent: str
) -> None:
    config_of(tmp_path, monkeypatch, f"http://{silent}")
    start = time.monotonic()
    found = asked(
        profile(
            kubeflow={"host": f"http://{silent}", "metadata_host": silent, "object_store_endpoint": silent},
            deploy="manual",
        )
    )
    assert time.monotonic() - start < 10
    failures = {name for name, result in found.items() if result.status == "fail"}
    assert {"kfp", "metadata"} <= failures
    assert found["tcp"].status == found["image"].status == "pass"
    assert all(result.fix for result in found.values() if result.status == "fail")


def test_when_half_of_the_checks_time_out_each_says_so_and_what_to_do_and_all_is_told_in_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, silent: str
) -> None:
    with FaultServer(Answer(body=b'{"gitVersion": "v1.34.4"}'), Answer(wait_s=20)) as kubernetes:
        config_of(tmp_path, monkeypatch, kubernetes.url)
        given = profile(kubeflow={"host": f"http://{silent}", "metadata_host": silent}, deploy="auto")
        start = time.monotonic()
        found = asked(given)
        assert time.monotonic() - start < 8
    late = {name: each for name, each in found.items() if each.status == "fail"}
    assert len(late) >= len(found) / 2
    assert {name for name, each in late.items() if "timed out" not in each.message} == set()
    assert all(str(each.fix).startswith("the same command again, when there is less load") for each in late.values())
    by_itself = {name for name, each in late.items() if "within 3 s" in each.message}
    assert {"kfp", "right: status", "retries", "kserve"} <= by_itself
    assert found["login"].message == "not checked: the KFP API does not answer, see kfp"


# -- the artifact store


def test_the_artifact_store_is_written_and_read_with_what_pods_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "k")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s")
        kubeflow = {
            "host": "http://127.0.0.1:1",
            "metadata_host": "127.0.0.1:1",
            "object_store_endpoint": f"http://{host}:{port}",
            "pipeline_root": "minio://artifacts/v2",
        }
        missing = asked(profile(kubeflow=kubeflow), "artifacts")["artifacts"]
        assert missing.status == "fail"
        import http.client

        link = http.client.HTTPConnection(host, port)
        link.request("PUT", "/artifacts")
        assert link.getresponse().status == 200
        found = asked(profile(kubeflow=kubeflow), "artifacts")["artifacts"]
        assert (found.status, found.message) == (
            "pass",
            "minio://artifacts, written and read with the credentials of the environment",
        )
    finally:
        server.stop()


def test_no_credentials_here_is_a_warning_as_pods_have_their_own() -> None:
    kubeflow = {"host": "http://127.0.0.1:1", "metadata_host": "127.0.0.1:1", "object_store_endpoint": "127.0.0.1:1"}
    found = asked(profile(kubeflow=kubeflow), "artifacts")["artifacts"]
    assert found.status == "warn"
    assert "AWS_ACCESS_KEY_ID" in str(found.fix)


# -- what is read from objects


@pytest.mark.parametrize(
    ("text", "value"), [("4", 4), ("500m", 0.5), ("8Gi", 8 * 2**30), ("1.5G", 1.5e9), (110, 110), ("1e3", 1000)]
)
def test_quantities_are_cores_and_bytes(text: str, value: float) -> None:
    assert judge.quantity(text) == pytest.approx(value)


def test_what_is_no_quantity_is_refused() -> None:
    with pytest.raises(ValueError, match="no quantity"):
        judge.quantity("much")


def node(cpu: str, memory: str, **spec: Any) -> dict[str, Any]:
    return {"spec": spec, "status": {"allocatable": {"cpu": cpu, "memory": memory, "hugepages-2Mi": "0"}}}


def test_a_task_needs_one_node_that_has_all_it_asks_for() -> None:
    wanted = judge.needs(profile(steps={"train_fault_classifier": {"cpu": "4", "memory": "8Gi"}}))
    assert [(need.task, need.said) for need in wanted] == [("train_fault_classifier", "cpu 4, memory 8Gi")]
    split = judge.usable([node("8", "4Gi"), node("2", "64Gi")])
    assert judge.homeless(wanted, split) == wanted
    assert judge.homeless(wanted, judge.usable([node("4", "8Gi")])) == []


def test_nodes_that_take_no_pods_of_ours_do_not_count() -> None:
    taint = [{"key": "node-role.kubernetes.io/control-plane", "effect": "NoSchedule"}]
    soft = [{"key": "x", "effect": "PreferNoSchedule"}]
    away = {"status": {"conditions": [{"type": "Ready", "status": "Unknown"}], "allocatable": {"cpu": "64"}}}
    nodes = [node("64", "1Ti", unschedulable=True), node("64", "1Ti", taints=taint), away]
    assert judge.usable(nodes) == []
    assert len(judge.usable([node("1", "1Gi", taints=soft)])) == 1


def test_what_pods_on_a_node_have_asked_for_is_not_there_any_more() -> None:
    def pod(on: str | None, *containers: dict[str, str]) -> dict[str, Any]:
        asked = [{"resources": {"requests": each}} for each in containers]
        return {"spec": {**({"nodeName": on} if on else {}), "containers": [*asked, {}]}}

    nodes = [{**node("8", "16Gi"), "metadata": {"name": name}} for name in ("a", "b")]
    pods = [
        pod("a", {"cpu": "3500m", "memory": "1Gi"}, {"cpu": "1"}),
        pod(None, {"cpu": "7"}),
        pod("gone", {"cpu": "7"}),
    ]
    found = judge.usable(nodes, pods)
    assert [(each["cpu"], each["memory"]) for each in found] == [(3.5, 15 * 2**30), (8, 16 * 2**30)]


def test_an_accelerator_is_asked_for_by_its_name() -> None:
    step = {"cpu": "1", "accelerator": {"type": "nvidia.com/gpu", "count": 2}}
    wanted = judge.needs(profile(steps={"train_fault_classifier": step}))
    assert judge.homeless(wanted, [{"cpu": 4.0}]) == wanted
    assert judge.homeless(wanted, [{"cpu": 4.0, "nvidia.com/gpu": 2.0}]) == []


def controller(defaults: Any, *, nested: bool = False) -> dict[str, Any]:
    text = yaml.safe_dump({"workflowDefaults": defaults} if nested else defaults)
    return {"data": {"config" if nested else "workflowDefaults": text}}


@pytest.mark.parametrize(
    ("strategy", "expected"),
    [
        (None, "exact"),
        ({"limit": "2", "retryPolicy": "OnError"}, "infrastructure only"),
        ({"limit": "2", "retryPolicy": "Always"}, "multiplied"),
        ({"limit": "2"}, "multiplied"),
    ],
)
@pytest.mark.parametrize("nested", [False, True])
def test_the_three_retry_policies_are_told_apart(strategy: Any, expected: str, nested: bool) -> None:
    template = {"retryStrategy": strategy} if strategy else {}
    assert judge.retry_policy(controller({"spec": {"templateDefaults": template}}, nested=nested)) == expected


def test_a_controller_without_defaults_retries_exactly() -> None:
    assert judge.retry_policy({"data": {"config": "parallelism: 3\n"}}) == "exact"
    assert judge.retry_policy({}) == "exact"


def test_what_is_missing_is_granted_and_nothing_more() -> None:
    missing = (*judge.rights("list", "pods events"), *judge.rights("get", "pods/log"))
    assert judge.grant("status", "ns", missing, "ann") == (
        "kubectl -n ns create role evctl-status-1 --verb=list --resource=pods,events && "
        "kubectl -n ns create rolebinding evctl-status-1 --role=evctl-status-1 --user=ann && "
        "kubectl -n ns create role evctl-status-2 --verb=get --resource=pods/log && "
        "kubectl -n ns create rolebinding evctl-status-2 --role=evctl-status-2 --user=ann"
    )
    account = judge.grant("x", "ns", judge.rights("get", "deployments", "apps"), "system:serviceaccount:ci:runner")
    assert "--resource=deployments.apps" in account
    assert account.endswith("--serviceaccount=ci:runner")


def test_a_promoter_is_given_the_documented_role_by_two_commands() -> None:
    assert judge.promoter("ns", "Ann O'Neil@example.com").split(" && ") == [
        "evctl help role | kubectl apply -n ns -f -",
        "kubectl -n ns create rolebinding evctl-promoter-ann-o-neil-example.com --role=evctl-promoter "
        """--user='Ann O'"'"'Neil@example.com'""",
    ]
    assert judge.promoter("ns", "system:serviceaccount:ci:runner").endswith(
        "create rolebinding evctl-promoter-runner --role=evctl-promoter --serviceaccount=ci:runner"
    )


def test_the_launchers_providers_become_the_session_of_artifacts() -> None:
    providers = {
        "s3": {
            "default": {
                "endpoint": "s3.example:9000",
                "region": "eu-1",
                "disableSSL": True,
                "credentials": {"fromEnv": False, "secretRef": {"secretName": "mine", "accessKeyKey": "a"}},
            },
            "overrides": [{"bucketName": "other", "credentials": {"fromEnv": True}}],
        }
    }
    config = {"data": {"providers": yaml.safe_dump(providers)}}
    found = judge.provider_session(config, "s3", "mine")
    assert found == {
        "endpoint": "s3.example:9000", "region": "eu-1", "disableSSL": "true", "secretName": "mine",
        "accessKeyKey": "a", "fromEnv": "false",
    }  # fmt: skip
    assert judge.provider_session(config, "s3", "other")["fromEnv"] == "true"
    assert judge.provider_session({}, "minio", "mlpipeline") == {}


@pytest.mark.parametrize(
    ("deploy", "expected"),
    [
        ('{"defaultDeploymentMode": "RawDeployment"}', "Standard"),
        ('{"defaultDeploymentMode": "Standard"}', "Standard"),
        ('{"defaultDeploymentMode": "Serverless"}', "Knative"),
        ('{"defaultDeploymentMode": "ModelMesh"}', "ModelMesh"),
        (None, None),
    ],
)
def test_kserves_default_mode_has_two_names_each(deploy: str | None, expected: str | None) -> None:
    assert judge.default_mode({"data": {"deploy": deploy} if deploy else {}}) == expected


@pytest.mark.parametrize(
    ("image", "tag"),
    [
        ("kserve/kserve-controller:v0.21.0", "v0.21.0"),
        ("reg:5000/k@sha256:ab", None),
        ("reg:5000/k:v1@sha256:ab", "v1"),
    ],
)
def test_a_controllers_version_is_its_images_tag(image: str, tag: str | None) -> None:
    containers = [{"name": "proxy", "image": "x:1"}, {"name": "manager", "image": image}]
    assert judge.image_tag({"spec": {"template": {"spec": {"containers": containers}}}}) == tag


@pytest.mark.parametrize(
    ("image", "status"),
    [
        ({"mode": "prebuilt"}, "fail"),
        ({"mode": "prebuilt", "name": "reg/ev:v1"}, "fail"),
        ({"mode": "prebuilt", "name": "reg/ev@sha256:12"}, "fail"),
        ({"mode": "prebuilt", "name": f"reg/ev@sha256:{DIGEST}"}, "pass"),
        ({"mode": "embedded", "name": "python:3.11-slim"}, "pass"),
    ],
)
def test_an_image_is_named_by_its_whole_digest(image: dict[str, Any], status: str) -> None:
    assert cluster_checks.image(profile(image=image)).status == status


def test_the_rights_asked_for_are_those_that_the_commands_use() -> None:
    assert {str(each) for each in cluster_checks.FORWARD} == {
        "get services", "list pods", "get pods/portforward", "create pods/portforward",
    }  # fmt: skip
