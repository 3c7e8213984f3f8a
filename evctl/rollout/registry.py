"""Models in the store: `models/<name>/<version>/`, written once, the manifest last.

A version without a manifest was cut short and is no model. The same bundle again is "unchanged"; another one under the
same version is a conflict.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evctl.errors import ConflictError, FailedError, NotAllowedError, NotFoundError
from evctl.rollout.store import Store

MANIFEST = "manifest.json"
NEEDED = {"name", "version", "digest", "files", "metrics", "provenance", "versions"}


@dataclass(frozen=True, slots=True)
class Published:
    """A model in the store. `uri` ends with a slash."""

    name: str
    version: str
    digest: str
    uri: str
    unchanged: bool = False


def publish(folder: Path, config: Mapping[str, Any]) -> Published:
    """Copy a finished bundle into the store; two writers of one version: one wins, the other's is a conflict.

    A Model Registry that the config names is told afterwards, and again by whoever publishes the same once more.

    Raises:
        FailedError: the folder's bundle does not verify. ConflictError: the version has other content.
    """
    manifest = _verified(folder)
    done = _stored(folder, manifest, Store(config))
    if config.get("model_registry"):
        from evctl.rollout.model_registry import tell

        tell(manifest, done.uri, config)
    return done


def _stored(folder: Path, manifest: Mapping[str, Any], store: Store) -> Published:
    prefix = f"models/{manifest['name']}/{manifest['version']}/"
    present = _present(store, prefix)
    if present is not None:
        if present.get("digest") != manifest["digest"]:
            raise _other_content(manifest["version"])
        return Published(manifest["name"], manifest["version"], manifest["digest"], store.uri + prefix, unchanged=True)
    for name, digest in sorted(manifest["files"].items()):
        _create_or_same(store, prefix + name, (folder / name).read_bytes(), digest)
    try:
        store.create(prefix + MANIFEST, (folder / MANIFEST).read_bytes())
    except ConflictError:
        # another writer was faster, or our own first try arrived and its answer did not
        present = _present(store, prefix)
        if present is None or present.get("digest") != manifest["digest"]:
            raise _other_content(manifest["version"]) from None
        same = present == manifest
        return Published(manifest["name"], manifest["version"], manifest["digest"], store.uri + prefix, not same)
    return Published(manifest["name"], manifest["version"], manifest["digest"], store.uri + prefix)


def _present(store: Store, prefix: str) -> dict[str, Any] | None:
    try:
        document = json.loads(store.read(prefix + MANIFEST))
    except NotFoundError:
        return None
    except ValueError:
        return {}
    return document if isinstance(document, dict) else {}


def _other_content(version: str) -> ConflictError:
    return ConflictError(f"model {version} exists with other content", hint=f"evctl models show {version}")


def _create_or_same(store: Store, key: str, content: bytes, digest: str) -> None:
    import hashlib

    try:
        store.create(key, content)
    except ConflictError:
        # left by a writer that was cut short, or written by one beside us: the same bytes are as good as ours
        if hashlib.sha256(store.read(key)).hexdigest() != digest:
            raise ConflictError(
                f"{store.uri}{key} exists with other content, and is no finished model",
                hint="delete what is there, if nobody is writing it, then evctl retry",
            ) from None


def _verified(folder: Path) -> dict[str, Any]:
    from ev_ml.bundle import verify
    from ev_ml.errors import DataError

    try:
        verify(folder)
    except DataError as error:
        raise FailedError(f"the bundle does not verify: {error.message}", hint=error.hint) from error
    document: dict[str, Any] = json.loads((folder / MANIFEST).read_text())
    return document


def models(config: Mapping[str, Any], name: str) -> Sequence[dict[str, Any]]:
    """Return the manifests of a name's models, by version; partial uploads and unreadable manifests are left out."""
    store = Store(config)
    keys = [key for key in store.keys(f"models/{name}/") if key.endswith("/" + MANIFEST)]
    found = [(_present(store, key.removesuffix(MANIFEST)), key.removesuffix(MANIFEST)) for key in keys]
    return [
        {**manifest, "uri": store.uri + prefix} for manifest, prefix in found if manifest and manifest.keys() >= NEEDED
    ]


def partial(config: Mapping[str, Any], name: str, version: str) -> bool:
    """Return whether a version was begun and holds no readable manifest."""
    store, prefix = Store(config), f"models/{name}/{version}/"
    return bool(store.keys(prefix)) and not (_present(store, prefix) or {}).get("digest")


def fetch(model_uri: str, config: Mapping[str, Any], target: Path) -> Path:
    """Copy a registered bundle to a folder and verify it there. Returns the folder."""
    store = Store(config)
    manifest = manifest_of(model_uri, config)
    prefix = model_uri.removeprefix(store.uri)
    target.mkdir(parents=True, exist_ok=True)
    for name in (*manifest["files"], MANIFEST):
        (target / Path(name).name).write_bytes(store.read(prefix + name))
    _verified(target)
    return target


def set_monitor(model_name: str, model_uri: str, config: Mapping[str, Any]) -> None:
    """Say which registered model's reference the drift check of `model_name` uses."""
    content = json.dumps({"model_name": model_name, "model_uri": model_uri}, indent=1)
    Store(config).overwrite(f"monitors/{model_name}.json", content.encode())


def monitor(model_name: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """Return what `set_monitor` said. NotFoundError if nothing was."""
    document: dict[str, Any] = json.loads(Store(config).read(f"monitors/{model_name}.json"))
    return document


def missing_files(model_uri: str, manifest: Mapping[str, Any], config: Mapping[str, Any]) -> list[str]:
    """Return the files of a manifest that the store has no more: a pod would tell so after its second crash only."""
    store = Store(config)
    prefix = (model_uri.rstrip("/") + "/").removeprefix(store.uri)
    try:
        there = set(store.keys(prefix))
    except NotAllowedError:
        return []  # reading a model needs no right to list: its pod will tell
    return sorted(name for name in manifest["files"] if prefix + name not in there)


def manifest_of(model_uri: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a registered model's manifest. NotFoundError when the address holds no finished model."""
    store = Store(config)
    uri = model_uri.rstrip("/") + "/"
    if not uri.startswith(store.uri):
        raise NotFoundError(f"{model_uri} is not in the store {store.uri}", hint="evctl models list")
    try:
        document: dict[str, Any] = json.loads(store.read(uri.removeprefix(store.uri) + MANIFEST))
    except NotFoundError as error:
        raise NotFoundError(f"{uri} holds no finished model", hint="evctl models list") from error
    except ValueError as error:
        raise FailedError(f"the manifest of {uri} is not readable", hint="register the model again") from error
    return document
