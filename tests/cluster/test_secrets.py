"""Secrets and service accounts on a real API server: by key, by manager, by right; and no value ever shown."""

from __future__ import annotations

import base64
import io
import json
import logging
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from evctl.cli import run
from evctl.kube import KubeApi
from evctl.kube_login import connect_kubernetes
from tests.cluster.harness import Cluster
from tests.e2e.life import live
from tests.fakes.receiver import Receiver

pytestmark = pytest.mark.cluster
SECRET = "ev-telemetry-secret"
VALUES = {"TELEMETRY_TOKEN": "v4lue-nobody-may-see", "OTHER": "0ther-hidden"}
STORE = {"AWS_ACCESS_KEY_ID": "AKIAHIDDENKEY", "AWS_SECRET_ACCESS_KEY": "hidden/secret+key"}
PROFILE = """
backend: kubeflow
namespace: {namespace}
image: {{mode: embedded, name: "python:3.11-slim"}}
store: {{uri: "s3://bucket/store", endpoint: "http://minio.example:9000", region: eu-1, secret: ev-battery-store}}
serving: {{namespace: {namespace}}}
secrets:
  - {{name: ev-telemetry-secret, keys: [TELEMETRY_TOKEN]}}
"""
CHANNEL = """  - {name: ev-notify, keys: [DESK_URL], tasks: [notify_pipeline_status]}
notify: {attempts: 1, channels: [{name: desk, kind: webhook, url_file: /secrets/DESK_URL}]}
"""
ALL = ("get", "list", "create", "patch")


def typed(text: str) -> io.TextIOWrapper:
    """A stdin: text over bytes."""
    return io.TextIOWrapper(io.BytesIO(text.encode()))


class Operator:
    """A user of the cluster with some rights in a namespace of their own."""

    def __init__(self, cluster: Cluster, monkeypatch: pytest.MonkeyPatch, capfd: Any, log: io.StringIO) -> None:
        self.cluster, self.patch, self.capfd, self.log = cluster, monkeypatch, capfd, log
        self.namespace = f"t-{uuid.uuid4().hex[:8]}"
        self.patch.setenv("KUBECONFIG", str(cluster.kubeconfig()))
        self.admin: KubeApi = connect_kubernetes()
        self.admin.create("/api/v1/namespaces", {"metadata": {"name": self.namespace}})

    def may(self, *verbs: str, accounts: tuple[str, ...] = ALL) -> None:
        """Be a user who has these verbs on secrets, and those on service accounts."""
        user = f"op-{uuid.uuid4().hex[:8]}"
        rbac = f"/apis/rbac.authorization.k8s.io/v1/namespaces/{self.namespace}"
        rules = [
            {"apiGroups": [""], "resources": [kind], "verbs": list(given)}
            for kind, given in (("secrets", verbs), ("serviceaccounts", accounts))
            if given
        ]
        self.admin.create(f"{rbac}/roles", {"metadata": {"name": user}, "rules": rules})
        self.admin.create(
            f"{rbac}/rolebindings",
            {
                "metadata": {"name": user},
                "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": user},
                "subjects": [{"kind": "User", "name": user, "apiGroup": "rbac.authorization.k8s.io"}],
            },
        )
        self.patch.setenv("KUBECONFIG", str(self.cluster.kubeconfig(user)))

    def says(self, *line: str, code: int = 0, given: dict[str, str] | None = None) -> Any:
        """Run a verb with values on stdin; the document it prints, or its error. No value may be in anything written."""
        text = "".join(f"{key}={value}\n" for key, value in (given or {}).items())
        self.patch.setattr("sys.stdin", typed(text))
        assert run([*line, "--env", "cluster", "-o", "json", "--debug"]) == code
        out, err = self.capfd.readouterr()
        for value in [*VALUES.values(), *STORE.values(), "somebody-elses", "changed-value"]:
            for form in (value, base64.b64encode(value.encode()).decode()):
                assert form not in out + err + self.log.getvalue()
        return json.loads(out) if code == 0 else json.loads(err.splitlines()[-1])["error"]

    def apply(self, given: dict[str, str], *more: str, code: int = 0) -> Any:
        return self.says("secrets", "apply", "-f", "-", *more, given=given, code=code)

    def path(self, name: str = SECRET, kind: str = "secrets") -> str:
        return f"/api/v1/namespaces/{self.namespace}/{kind}/{name}"

    def kept(self, name: str = SECRET) -> dict[str, str]:
        data = self.admin.get(self.path(name)).get("data") or {}
        return {key: base64.b64decode(value).decode() for key, value in data.items()}


@pytest.fixture
def operator(
    cluster: Cluster,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> Iterator[Operator]:
    log = io.StringIO()
    handler = logging.StreamHandler(log)
    root = logging.getLogger()
    before = root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)  # the official client logs bodies at this level
    found = Operator(cluster, monkeypatch, capfd, log)
    (tmp_path / "profiles").mkdir()
    (tmp_path / "profiles" / "cluster.yaml").write_text(PROFILE.format(namespace=found.namespace))
    monkeypatch.setenv("EVCTL_PROFILES", str(tmp_path / "profiles"))
    found.may(*ALL)
    yield found
    kept = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert kept
    for value in (*VALUES.values(), *STORE.values()):
        assert not [path for path in kept if value.encode() in path.read_bytes()]
    root.removeHandler(handler)
    root.setLevel(before)


def test_a_secret_is_made_changed_and_left_alone_and_told_by_key(operator: Operator) -> None:
    assert operator.apply(VALUES) == {
        "name": SECRET,
        "changed": True,
        "added": ["OTHER", "TELEMETRY_TOKEN"],
        "updated": [],
        "removed": [],
    }
    assert operator.kept() == VALUES
    version = operator.admin.get(operator.path())["metadata"]["resourceVersion"]
    assert operator.apply(VALUES)["changed"] is False
    assert operator.admin.get(operator.path())["metadata"]["resourceVersion"] == version

    change = operator.apply({"TELEMETRY_TOKEN": "changed-value", "NEW": ""})
    assert (change["added"], change["updated"], change["removed"]) == (["NEW"], ["TELEMETRY_TOKEN"], ["OTHER"])
    assert operator.kept() == {"TELEMETRY_TOKEN": "changed-value", "NEW": ""}


def test_required_keys_are_checked_before_anything_is_asked(operator: Operator) -> None:
    error = operator.apply({"OTHER": VALUES["OTHER"]}, code=2)
    assert "TELEMETRY_TOKEN" in error["message"]
    operator.apply({"TELEMETRY_TOKEN": ""}, code=2)
    operator.says("secrets", "apply", "Bad_Name", "-f", "-", given=VALUES, code=2)
    assert operator.admin.list(f"/api/v1/namespaces/{operator.namespace}/secrets") == []


def test_as_much_as_a_secret_may_hold_is_kept_and_a_byte_more_refused_here(operator: Operator) -> None:
    values = {"TELEMETRY_TOKEN": "1", "k" * 253: "x" * ((1 << 20) - 1)}
    assert operator.apply(values)["added"] == sorted(values)
    assert operator.kept() == values
    operator.may()  # the refusal asks no server
    error = operator.apply({**values, "B": "2"}, code=2)
    assert "1,048,577 bytes" in error["message"]


def test_what_others_keep_in_the_secret_counts_too(operator: Operator) -> None:
    theirs = {"metadata": {"name": SECRET}, "stringData": {"THEIRS": "t" * 700_000, "TELEMETRY_TOKEN": "t" * 300_000}}
    operator.admin.create(f"/api/v1/namespaces/{operator.namespace}/secrets", theirs)
    error = operator.apply({"TELEMETRY_TOKEN": "x" * 348_577}, "--force", code=2)
    assert "1,048,577 bytes" in error["message"] and "THEIRS" in error["message"]
    assert operator.apply({"TELEMETRY_TOKEN": "x" * 348_576}, "--force")["updated"] == ["TELEMETRY_TOKEN"]


def test_a_content_that_the_secrets_type_does_not_allow_is_told_without_it(operator: Operator) -> None:
    login = {"type": "kubernetes.io/dockerconfigjson", "stringData": {".dockerconfigjson": "{}"}}
    operator.admin.create(f"/api/v1/namespaces/{operator.namespace}/secrets", {"metadata": {"name": "login"}, **login})
    error = operator.apply({".dockerconfigjson": VALUES["OTHER"]}, "login", "--force", code=5)
    assert error["message"] == f"secret login in {operator.namespace}: the server refuses the secret's content"
    assert error["hint"].startswith(f"kubectl -n {operator.namespace} describe secret login: ")


def test_the_list_shows_keys_and_what_is_missing(operator: Operator) -> None:
    listed = {each["name"]: each for each in operator.says("secrets", "list")["secrets"]}
    assert listed[SECRET] == {"name": SECRET, "keys": [], "missing": ["TELEMETRY_TOKEN"]}
    operator.apply(VALUES)
    operator.apply({"A": VALUES["OTHER"]}, "another")
    operator.admin.create(f"/api/v1/namespaces/{operator.namespace}/secrets", {"metadata": {"name": "not-ours"}})
    listed = {each["name"]: each for each in operator.says("secrets", "list")["secrets"]}
    assert listed[SECRET] == {"name": SECRET, "keys": ["OTHER", "TELEMETRY_TOKEN"], "missing": []}
    assert listed["another"]["keys"] == ["A"]
    assert "not-ours" not in listed


@pytest.mark.parametrize("lacking", ["get", "create", "patch"])
def test_one_right_less_is_exit_4_and_names_the_verb(operator: Operator, lacking: str) -> None:
    operator.may(*(verb for verb in ALL if verb != lacking))
    if lacking == "patch":
        operator.admin.apply(
            operator.path(), {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": SECRET}}, "evctl"
        )
    error = operator.apply(VALUES, code=4)
    assert error["code"] == "not_allowed"
    assert f"cannot {lacking}" in error["message"]
    assert operator.namespace in error["message"]


def test_without_the_right_to_list_the_profiles_own_secrets_are_still_read(operator: Operator) -> None:
    operator.apply(VALUES)
    operator.may("get")
    listed = {each["name"]: each["keys"] for each in operator.says("secrets", "list")["secrets"]}
    assert listed[SECRET] == ["OTHER", "TELEMETRY_TOKEN"]


@pytest.mark.parametrize("written_as", ["data", "stringData"])
def test_a_key_that_somebody_else_manages_is_a_conflict_that_names_them(operator: Operator, written_as: str) -> None:
    value = "somebody-elses"
    if written_as == "data":
        value = base64.b64encode(value.encode()).decode()
    values = {written_as: {"TELEMETRY_TOKEN": value, "THEIRS": value}}
    body = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": SECRET}, **values}
    operator.admin.apply(operator.path(), body, "vault-sync")
    error = operator.apply(VALUES, code=6)
    assert "TELEMETRY_TOKEN by vault-sync" in error["message"]
    assert "--force" in error["hint"]
    assert operator.kept()["TELEMETRY_TOKEN"] == "somebody-elses"

    change = operator.apply(VALUES, "--force")
    assert (change["added"], change["updated"], change["removed"]) == (["OTHER"], ["TELEMETRY_TOKEN"], [])
    assert operator.kept() == {**VALUES, "THEIRS": "somebody-elses"}
    assert operator.apply(VALUES)["changed"] is False


def test_an_immutable_secret_and_one_of_another_type_are_told_or_kept(operator: Operator) -> None:
    secrets = f"/api/v1/namespaces/{operator.namespace}/secrets"
    operator.admin.create(secrets, {"metadata": {"name": "fixed"}, "immutable": True})
    error = operator.apply({"A": VALUES["OTHER"]}, "fixed", code=5)
    assert "immutable" in error["message"]
    typed = {"metadata": {"name": "typed"}, "type": "example.com/token"}
    operator.admin.create(secrets, typed)
    assert operator.apply({"A": VALUES["OTHER"]}, "typed")["added"] == ["A"]
    assert operator.admin.get(operator.path("typed"))["type"] == "example.com/token"


def test_a_missing_namespace_says_how_to_make_it(operator: Operator, tmp_path: Path) -> None:
    operator.patch.setenv("KUBECONFIG", str(operator.cluster.kubeconfig()))
    (tmp_path / "profiles" / "cluster.yaml").write_text(PROFILE.format(namespace="nowhere"))
    error = operator.apply(VALUES, code=3)
    assert "nowhere" in error["message"]
    assert error["hint"] == "kubectl create namespace nowhere"


def test_the_stores_secret_is_what_kserve_reads_and_a_service_account_uses_it(operator: Operator) -> None:
    accounts = f"/api/v1/namespaces/{operator.namespace}/serviceaccounts"
    account = "ev-battery-fault-classifier"
    operator.admin.create(accounts, {"metadata": {"name": account}, "secrets": [{"name": "theirs"}]})
    document = operator.apply(STORE, "--store")
    assert document["added"] == sorted(STORE)
    assert document["service_account"] == {"name": account, "changed": True}
    kept = operator.admin.get(operator.path("ev-battery-store"))
    prefix = "serving.kserve.io/s3-"
    assert {key: value for key, value in kept["metadata"]["annotations"].items() if key.startswith(prefix)} == {
        f"{prefix}endpoint": "minio.example:9000",
        f"{prefix}usehttps": "0",
        f"{prefix}region": "eu-1",
    }
    assert operator.kept("ev-battery-store") == STORE
    used = operator.admin.get(operator.path(account, "serviceaccounts"))["secrets"]
    assert sorted(each["name"] for each in used) == ["ev-battery-store", "theirs"]
    assert operator.apply(STORE, "--store")["changed"] is False
    assert operator.apply({"AWS_ACCESS_KEY_ID": STORE["AWS_ACCESS_KEY_ID"]}, "--store", code=2)["code"] == "usage"


def test_a_stores_secret_that_was_another_stores_is_told_when_it_is_overwritten(
    operator: Operator, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    operator.apply(STORE, "--store")
    path = tmp_path / "profiles" / "cluster.yaml"
    path.write_text(path.read_text().replace("minio.example", "minio.other"))
    operator.patch.setattr("sys.stdin", typed("".join(f"{key}={value}\n" for key, value in STORE.items())))
    assert run(["secrets", "apply", "-f", "-", "--store", "--env", "cluster", "-o", "json"]) == 0
    out, err = capfd.readouterr()
    assert json.loads(out)["name"] == "ev-battery-store"
    told = "its endpoint is minio.example:9000, not minio.other:9000"
    assert f"warning: secret ev-battery-store in {operator.namespace} was for another store: {told}" in err
    assert run(["secrets", "list", "--env", "cluster"]) == 0
    capfd.readouterr()
    operator.patch.setattr("sys.stdin", typed("".join(f"{key}={value}\n" for key, value in STORE.items())))
    assert run(["secrets", "apply", "-f", "-", "--store", "--env", "cluster"]) == 0
    assert "another store" not in capfd.readouterr().err


def test_a_stores_secret_that_tasks_mount_too_keeps_their_keys(operator: Operator, tmp_path: Path) -> None:
    path = tmp_path / "profiles" / "cluster.yaml"
    path.write_text(path.read_text().replace("name: ev-telemetry-secret", "name: ev-battery-store"))
    both = {**STORE, "TELEMETRY_TOKEN": "hidden-token"}
    assert operator.apply(both, "--store")["added"] == sorted(both)
    lacking = operator.apply(STORE, "--store", code=2)
    assert lacking["message"] == "secret ev-battery-store needs TELEMETRY_TOKEN"
    assert operator.kept("ev-battery-store") == both
    (listed,) = operator.says("secrets", "list")["secrets"]
    assert listed["missing"] == []


def test_another_store_secret_takes_the_place_of_the_one_before_and_leaves_others_theirs(operator: Operator) -> None:
    accounts = f"/api/v1/namespaces/{operator.namespace}/serviceaccounts"
    operator.admin.create(
        accounts, {"metadata": {"name": "ev-battery-fault-classifier"}, "secrets": [{"name": "theirs"}]}
    )
    operator.apply(STORE, "--store")
    assert operator.apply(STORE, "second-store", "--store")["service_account"]["changed"] is True
    used = operator.admin.get(operator.path("ev-battery-fault-classifier", "serviceaccounts"))["secrets"]
    assert sorted(each["name"] for each in used) == ["second-store", "theirs"]
    assert operator.apply(STORE, "second-store", "--store")["service_account"]["changed"] is False


def test_an_operator_who_may_not_touch_service_accounts_is_told_which_verb(operator: Operator) -> None:
    operator.may(*ALL, accounts=("get",))
    error = operator.apply(STORE, "--store", code=4)
    assert "serviceaccounts" in error["message"]
    assert "cannot patch" in error["message"] or "cannot create" in error["message"]


def test_a_message_is_sent_with_what_was_applied_to_the_cluster(operator: Operator, tmp_path: Path) -> None:
    """`secrets apply` puts a channel's URL where the runs have it: who tells from here reads it there."""
    (tmp_path / "profiles" / "cluster.yaml").write_text(PROFILE.format(namespace=operator.namespace) + CHANNEL)
    with Receiver(path="/hook/hidden/secret+key") as desk:
        operator.apply({"DESK_URL": desk.url}, "ev-notify")
        assert operator.says("notify", "test")["ok"] is True
        assert len(desk.requests) == 1
        operator.may("list")
        assert "cannot get" in operator.says("notify", "test", code=4)["message"]
        assert len(desk.requests) == 1


def test_a_dead_api_server_is_exit_9(operator: Operator, tmp_path: Path) -> None:
    config = operator.cluster.kubeconfig().read_text()
    dead = tmp_path / "dead.kubeconfig"
    dead.write_text(config.replace(f":{operator.cluster.port}", ":1"))
    operator.patch.setenv("KUBECONFIG", str(dead))
    assert operator.apply(VALUES, code=9)["code"] == "unavailable"


def test_without_a_file_the_required_keys_are_asked_for_unseen(
    operator: Operator, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, bool, bool]] = []

    def prompt(key: str, *, hide_input: bool, err: bool) -> str:
        asked.append((key, hide_input, err))
        return VALUES[key]

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr("typer.prompt", prompt)
    monkeypatch.setattr("sys.stdin", Terminal())
    assert run(["secrets", "apply", "--env", "cluster"]) == 0
    assert asked == [("TELEMETRY_TOKEN", True, True)]
    assert operator.kept() == {"TELEMETRY_TOKEN": VALUES["TELEMETRY_TOKEN"]}


def test_the_secrets_step_of_make_e2e_passes_and_leaves_what_was_there(operator: Operator) -> None:
    operator.apply(VALUES)
    assert [row["result"] for row in live("cluster", 60.0, ["secrets"])] == ["pass"]
    assert operator.kept() == VALUES
    assert set(operator.kept("evctl-e2e-secret")) == {"E2E_TOKEN"}
