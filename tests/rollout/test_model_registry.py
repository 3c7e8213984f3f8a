"""A registered model told to a Kubeflow Model Registry, through its own client, where the profile names one."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from evctl.errors import ConflictError, EvctlError, NotAllowedError, UnavailableError, UsageError
from evctl.rollout.registry import models, publish
from tests.rollout.registry_server import RegistryServer

NAME = "ev_battery_fault_classifier"


@pytest.fixture
def server() -> Iterator[RegistryServer]:
    made = RegistryServer()
    yield made
    made.shutdown()
    made.server_close()


@pytest.fixture
def store(server: RegistryServer, tmp_path: Path) -> dict[str, Any]:
    return {"uri": str(tmp_path / "store"), "model_registry": server.url}


def test_a_published_model_is_there_with_its_address_metrics_and_provenance(
    store: dict[str, Any], server: RegistryServer, bundles: dict[str, Path]
) -> None:
    done = publish(bundles["a"], store)
    assert [each["name"] for each in server.models] == [NAME]
    (version,) = server.versions
    properties = {key: next(iter({k: v for k, v in each.items() if k.endswith("_value")}.values()))
                  for key, each in version["customProperties"].items()}  # fmt: skip
    assert version["name"] == done.version
    assert (properties["digest"], properties["run_id"], properties["recall"]) == (done.digest, "run-v1", 0.9)
    assert server.artifacts[0]["uri"] == done.uri
    assert server.artifacts[0]["modelFormatName"] == "sklearn"
    publish(bundles["a"], store)
    publish(bundles["b"], store)
    assert [each["name"] for each in server.versions] == [done.version, models(store, NAME)[1]["version"]]
    assert len(server.models) == 1


def test_it_is_off_by_default(server: RegistryServer, bundles: dict[str, Path], tmp_path: Path) -> None:
    publish(bundles["a"], {"uri": str(tmp_path / "store")})
    assert server.tokens == []


def test_a_version_there_with_another_address_is_a_conflict(
    store: dict[str, Any], server: RegistryServer, bundles: dict[str, Path]
) -> None:
    publish(bundles["a"], store)
    server.artifacts[0]["uri"] = "s3://elsewhere/"
    with pytest.raises(ConflictError, match="s3://elsewhere/"):
        publish(bundles["a"], store)
    server.artifacts.clear()
    with pytest.raises(ConflictError, match="no address"):
        publish(bundles["a"], store)


@pytest.mark.parametrize(("status", "kind"), [(401, NotAllowedError), (403, NotAllowedError), (503, UnavailableError)])
def test_a_registry_that_refuses_is_told_and_the_model_is_in_the_store(
    status: int, kind: type[EvctlError], store: dict[str, Any], server: RegistryServer, bundles: dict[str, Path]
) -> None:
    server.status = status
    start = time.monotonic()
    with pytest.raises(kind):
        publish(bundles["a"], store)
    assert time.monotonic() - start < 30
    assert len(models(store, NAME)) == 1
    server.status = 0
    assert publish(bundles["a"], store).unchanged
    assert len(server.versions) == 1


def test_a_token_goes_from_its_variable_and_into_no_message(
    store: dict[str, Any], server: RegistryServer, bundles: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REGISTRY_TOKEN", "never-shown")
    named = {**store, "model_registry_token_env": "REGISTRY_TOKEN"}
    publish(bundles["a"], named)
    assert set(server.tokens) == {"Bearer never-shown"}
    server.status = 403
    with pytest.raises(NotAllowedError) as told:
        publish(bundles["b"], named)
    assert "never-shown" not in json.dumps([told.value.message, told.value.hint])


def test_an_address_that_is_none_or_dead_is_told(store: dict[str, Any], bundles: dict[str, Path]) -> None:
    with pytest.raises(UsageError, match=r"store\.model_registry is 'registry'"):
        publish(bundles["a"], {**store, "model_registry": "registry"})
    with pytest.raises(NotAllowedError, match="wants a token"):
        publish(bundles["a"], {**store, "model_registry": "https://registry.example"})
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        with pytest.raises(UnavailableError, match="does not answer"):
            publish(bundles["a"], {**store, "model_registry": f"http://127.0.0.1:{held.getsockname()[1]}"})
