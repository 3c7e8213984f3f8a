"""Our Kubernetes API over a real one: reads, conflicts, refusals and rights, each told as what it is."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from evctl.errors import ConflictError, NotAllowedError, NotFoundError, RefusedError, UnavailableError
from evctl.kube import KubeApi
from evctl.kube_login import connect_kubernetes
from tests.cluster.harness import Cluster, free_port


def config_map(name: str, **data: str) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data}


def test_objects_are_created_read_changed_and_deleted(admin: KubeApi, namespace: str) -> None:
    base = f"/api/v1/namespaces/{namespace}/configmaps"
    admin.create(base, config_map("one", a="1"))
    assert admin.get(f"{base}/one")["data"] == {"a": "1"}
    admin.patch(f"{base}/one", {"data": {"b": "2"}})
    assert admin.get(f"{base}/one")["data"] == {"a": "1", "b": "2"}
    admin.patch(f"{base}/one", {"data": {"c": "3"}}, dry_run=True)
    assert "c" not in admin.get(f"{base}/one")["data"]
    assert "one" in [each["metadata"]["name"] for each in admin.list(base)]
    admin.delete(f"{base}/one")
    with pytest.raises(NotFoundError, match="one"):
        admin.get(f"{base}/one")


def test_a_stale_version_and_an_existing_name_are_conflicts(admin: KubeApi, namespace: str) -> None:
    base = f"/api/v1/namespaces/{namespace}/configmaps"
    first = admin.create(base, config_map("one", a="1"))
    admin.replace(f"{base}/one", {**first, "data": {"a": "2"}})
    with pytest.raises(ConflictError, match="modified"):
        admin.replace(f"{base}/one", {**first, "data": {"a": "3"}})
    with pytest.raises(ConflictError, match="already exists"):
        admin.create(base, config_map("one"))


def test_a_field_another_manager_owns_is_a_conflict_that_names_it(admin: KubeApi, namespace: str) -> None:
    path = f"/api/v1/namespaces/{namespace}/configmaps/shared"
    admin.apply(path, config_map("shared", key="theirs"), "argocd")
    with pytest.raises(ConflictError, match="argocd"):
        admin.apply(path, config_map("shared", key="ours"), "evctl")
    admin.apply(path, config_map("shared", key="ours"), "evctl", force=True)
    assert admin.get(path)["data"]["key"] == "ours"


def test_a_missing_right_is_told_with_the_verb_and_asked_for_beforehand(
    namespace: str, operator: Callable[[list[dict[str, list[str]]]], Path]
) -> None:
    api = connect_kubernetes(kubeconfig=operator([{"apiGroups": [""], "resources": ["configmaps"], "verbs": ["get"]}]))
    base = f"/api/v1/namespaces/{namespace}/configmaps"
    assert api.can_i("get", "", "configmaps", namespace)[0] is True
    assert api.can_i("create", "", "configmaps", namespace)[0] is False
    assert api.namespace == namespace
    with pytest.raises(NotAllowedError, match="cannot create resource"):
        api.create(base, config_map("one"))


def test_an_invalid_object_is_refused_with_the_servers_words(admin: KubeApi, namespace: str) -> None:
    with pytest.raises(RefusedError, match="Invalid value"):
        admin.create(f"/api/v1/namespaces/{namespace}/configmaps", config_map("Not A Name"))


def test_a_secret_that_is_refused_is_not_quoted(admin: KubeApi, namespace: str) -> None:
    body = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "one"}, "data": {"key": "never shown!"}}
    with pytest.raises(RefusedError) as caught:
        admin.create(f"/api/v1/namespaces/{namespace}/secrets", body)
    assert "never" not in caught.value.message


def test_a_wrong_certificate_is_a_login_that_is_not_accepted(cluster: Cluster, tmp_path: Path) -> None:
    import yaml

    known = yaml.safe_load(cluster.kubeconfig().read_text())
    known["users"][0]["user"] = {"token": "not-a-token"}
    (tmp_path / "config").write_text(yaml.safe_dump(known))
    with pytest.raises(NotAllowedError, match="login"):
        connect_kubernetes(kubeconfig=tmp_path / "config").get("/api/v1/namespaces")


def test_an_authority_that_is_not_the_clusters_is_told(cluster: Cluster, tmp_path: Path) -> None:
    import yaml

    from tests.cluster.harness import Authority

    (tmp_path / "ca").mkdir()
    known = yaml.safe_load(cluster.kubeconfig().read_text())
    known["clusters"][0]["cluster"]["certificate-authority"] = str(Authority(tmp_path / "ca").path)
    (tmp_path / "config").write_text(yaml.safe_dump(known))
    with pytest.raises(UnavailableError, match="not trusted"):
        connect_kubernetes(kubeconfig=tmp_path / "config").get("/version")


def test_a_dead_server_is_told_within_five_seconds(cluster: Cluster, tmp_path: Path) -> None:
    text = cluster.kubeconfig().read_text().replace(f":{cluster.port}", f":{free_port()}")
    (tmp_path / "config").write_text(text)
    start = time.monotonic()
    with pytest.raises(UnavailableError, match="does not answer"):
        connect_kubernetes(kubeconfig=tmp_path / "config").get("/version")
    assert time.monotonic() - start < 5


def test_without_a_kubeconfig_there_is_no_access_and_it_says_so() -> None:
    with pytest.raises(UnavailableError, match="no kubeconfig"):
        connect_kubernetes()


def test_a_watch_yields_what_happens(admin: KubeApi, namespace: str) -> None:
    base = f"/api/v1/namespaces/{namespace}/configmaps"
    since = admin.get(base)["metadata"]["resourceVersion"]
    threading.Timer(0.3, lambda: admin.create(base, config_map("born"))).start()
    event = next(admin.watch(base, seconds=20, resourceVersion=since))
    assert (event["type"], event["object"]["metadata"]["name"]) == ("ADDED", "born")
