"""The Kubeflow Model Registry, told of each registered model where a profile names one. Off by default.

The store stays what counts: its manifest is written first, and promotions read nothing else.
"""

from __future__ import annotations

import asyncio
import importlib
import logging
import os
import warnings
from collections.abc import Coroutine, Mapping
from typing import Any
from urllib.parse import urlsplit

from evctl.errors import ConflictError, EvctlError, NotAllowedError, UnavailableError, UsageError, trim

TIMEOUT_S = 20.0
METRICS = ("accuracy", "recall", "pr_auc", "roc_auc", "false_alarms_per_1000", "brier")


def tell(manifest: Mapping[str, Any], uri: str, config: Mapping[str, Any]) -> bool:
    """Register a published model with the registry at `config["model_registry"]`. Returns False if it was there already.

    Raises:
        UnavailableError: no client installed, or no answer. NotAllowedError: the token is missing or refused.
        ConflictError: the version is there with another address.
    """
    url = str(config["model_registry"])
    loop = asyncio.new_event_loop()

    def wait(coroutine: Coroutine[Any, Any, Any]) -> Any:
        return loop.run_until_complete(asyncio.wait_for(coroutine, TIMEOUT_S))

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the client warns of each connection without a token
            return _told(_client(url, config, wait), manifest, uri)
    except EvctlError:
        raise
    except Exception as error:
        raise _failure(url, error) from error
    finally:
        loop.close()


def _client(url: str, config: Mapping[str, Any], wait: Any) -> Any:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UsageError(f"store.model_registry is {url!r}", hint="a URL: https://registry.example.com")
    try:
        # by name: optional, and not among what a step with embedded source installs
        registry = importlib.import_module("model_registry")
    except ImportError as error:
        raise UnavailableError(
            "the profile names a Model Registry, and its client is not installed",
            hint="pip install 'evctl[model-registry]'; for steps, into a prebuilt image",
        ) from error
    name = config.get("model_registry_token_env")
    token = os.environ.get(str(name)) if name else None
    if parts.scheme == "https" and not token:
        raise NotAllowedError(
            f"the Model Registry {parts.hostname} wants a token: {name or 'store.model_registry_token_env'} is not set",
            hint="export it, and name the variable in store.model_registry_token_env",
        )
    return registry.ModelRegistry(
        f"{parts.scheme}://{parts.hostname}",
        parts.port or (443 if parts.scheme == "https" else 80),
        author="evctl",
        is_secure=parts.scheme == "https",
        user_token=token,
        async_runner=wait,
        log_level=logging.ERROR,
    )


def _told(client: Any, manifest: Mapping[str, Any], uri: str) -> bool:
    name, version = str(manifest["name"]), str(manifest["version"])
    if client.get_registered_model(name) and client.get_model_version(name, version):
        artifact = client.get_model_artifact(name, version)
        if artifact is None or artifact.uri != uri:
            found = "no address" if artifact is None else artifact.uri
            raise ConflictError(
                f"the Model Registry has {version} with {found}, not {uri}", hint="archive that version there"
            )
        return False
    metrics = {key: float(manifest["metrics"][key]) for key in METRICS if manifest["metrics"].get(key) is not None}
    told = {"digest": manifest["digest"], "run_id": manifest["provenance"].get("run_id") or ""}
    told["data_version"] = manifest["provenance"].get("data_version") or ""
    client.register_model(
        name,
        uri,
        version=version,
        model_format_name="sklearn",
        model_format_version=str(manifest["versions"].get("scikit-learn", "")),
        metadata={**told, **metrics},
    )
    return True


def _failure(url: str, error: Exception) -> EvctlError:
    host, status = urlsplit(url).hostname, getattr(error, "status", None)
    if status in (401, 403):
        return NotAllowedError(f"the Model Registry {host} does not allow it ({status})", hint="look at the token")
    if status == 409:
        return ConflictError(f"the Model Registry {host} says that this version exists", hint="the same command again")
    said = f"status {status}" if status else trim(str(error) or type(error).__name__, 120)
    return UnavailableError(f"the Model Registry {host} does not answer: {said}", hint="the same command again later")
