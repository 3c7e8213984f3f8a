"""The registry over files and over a real S3 server: written once, manifest last, races told."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import pytest

from evctl.errors import ConflictError, FailedError, NotFoundError
from evctl.rollout import registry
from evctl.rollout.registry import fetch, manifest_of, models, publish
from evctl.rollout.store import Store
from tests.rollout.gcs_server import GcsServer

Config = dict[str, Any]
NAME = "ev_battery_fault_classifier"


@pytest.fixture(scope="module")
def s3_server() -> Iterator[str]:
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def gcs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    server = GcsServer()
    key = {"gcs_base_url": server.url, "disable_oauth": True, "client_email": "", "private_key": ""}
    (tmp_path / "key.json").write_text(json.dumps({**key, "private_key_id": ""}))
    monkeypatch.setenv("GOOGLE_SERVICE_ACCOUNT", str(tmp_path / "key.json"))
    yield server.url
    server.shutdown()
    server.server_close()


@pytest.fixture(params=["file", "s3", "gcs"])
def store(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    if request.param == "file":
        return {"uri": str(tmp_path / "s")}
    if request.param == "gcs":
        return {"uri": "gs://models-bucket/prefix", "endpoint": request.getfixturevalue("gcs")}
    endpoint = request.getfixturevalue("s3_server")
    monkeypatch.setenv("S3_IGNORE_SUBDOMAIN_BUCKETNAME", "true")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    urlopen(Request(f"{endpoint}/models-bucket", method="PUT")).read()
    return {"uri": f"s3://models-bucket/{tmp_path.name}", "endpoint": endpoint}


def test_a_bundle_is_published_once_and_comes_back_verified(
    store: Config, bundles: dict[str, Path], tmp_path: Path
) -> None:
    first = publish(bundles["a"], store)
    assert (first.unchanged, first.uri[-1]) == (False, "/")
    assert publish(bundles["a"], store).unchanged
    assert [each["version"] for each in models(store, NAME)] == [first.version]
    assert manifest_of(first.uri, store)["digest"] == first.digest
    folder = fetch(first.uri, store, tmp_path / "fetched")
    assert (folder / "model.joblib").read_bytes() == (bundles["a"] / "model.joblib").read_bytes()


def test_a_partial_upload_is_no_model_and_is_finished_by_the_next(
    store: Config, bundles: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Store.create

    def cut(self: Store, key: str, content: bytes | Path) -> None:
        if key.endswith(registry.MANIFEST):
            raise KeyboardInterrupt
        real(self, key, content)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Store, "create", cut)
        publish(bundles["a"], store)
    assert models(store, NAME) == []
    publish(bundles["a"], store)
    assert len(models(store, NAME)) == 1


def test_the_writer_who_loses_the_manifest_to_other_content_gets_a_conflict(
    store: Config, bundles: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Store.create
    other = json.dumps({"digest": "somebody else's"}).encode()

    def late(self: Store, key: str, content: bytes | Path) -> None:
        if key.endswith(registry.MANIFEST):
            real(self, key, other)
        real(self, key, content)

    monkeypatch.setattr(Store, "create", late)
    with pytest.raises(ConflictError, match="exists with other content"):
        publish(bundles["a"], store)


def test_a_flipped_byte_is_told_on_fetch(store: Config, bundles: dict[str, Path], tmp_path: Path) -> None:
    done = publish(bundles["a"], store)
    key = done.uri.removeprefix(Store(store).uri) + "model.joblib"
    content = bytearray((bundles["a"] / "model.joblib").read_bytes())
    content[100] ^= 1
    Store(store).overwrite(key, bytes(content))
    with pytest.raises(FailedError, match="not the file the manifest names"):
        fetch(done.uri, store, tmp_path / "fetched")


def test_a_bundle_without_its_manifest_is_not_published(
    store: Config, bundles: dict[str, Path], tmp_path: Path
) -> None:
    shutil.copytree(bundles["a"], tmp_path / "cut")
    (tmp_path / "cut" / "manifest.json").unlink()
    with pytest.raises(FailedError):
        publish(tmp_path / "cut", store)
    with pytest.raises(NotFoundError):
        manifest_of(Store(store).uri + "models/x/y/", store)


def test_a_model_of_another_store_is_refused_with_what_to_type(store: Config, tmp_path: Path) -> None:
    with pytest.raises(NotFoundError) as refused:
        fetch("s3://elsewhere/models/x/y/", store, tmp_path / "fetched")
    assert refused.value.hint == "evctl models list"
    assert not (tmp_path / "fetched").exists()
