"""Secrets and the service account of a cluster's namespace, by server-side apply.

Values are held in memory only: they are in no message, no log, no command line. Differences are told by key.
"""

from __future__ import annotations

import base64
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, Protocol

from evctl.errors import ConflictError, NotAllowedError, NotFoundError, RefusedError
from evctl.kube import secret_values
from evctl.secrets.checking import check, check_size
from evctl.secrets.local import SecretChange

MANAGER = "evctl"
LABEL = "app.kubernetes.io/managed-by"


class Kubernetes(Protocol):
    """What is needed of the Kubernetes API."""

    def get(self, path: str, **query: Any) -> dict[str, Any]:
        """Return an object or a list."""
        ...

    def apply(
        self, path: str, body: Mapping[str, Any], *, field_manager: str, dry_run: bool = False, force: bool = False
    ) -> dict[str, Any]:
        """Apply on the server's side."""
        ...


class ClusterSecrets:
    """The secrets of a namespace."""

    def __init__(self, api: Kubernetes, namespace: str) -> None:
        self.api, self.namespace = api, namespace

    def apply(
        self,
        name: str,
        values: Mapping[str, str],
        required: Sequence[str] = (),
        *,
        annotations: Mapping[str, str] | None = None,
        force: bool = False,
    ) -> SecretChange:
        """Make a secret hold these values; keys that others manage stay.

        Args:
            force: take keys over that somebody else manages.

        Raises:
            UsageError: see `check`. ConflictError: somebody else manages a key.
            NotAllowedError: RBAC, naming the verb. RefusedError: the secret is immutable, or its type
                allows no such content.
        """
        check(name, values, required)
        before = self._get(name)
        change = difference(before, values)
        staying = {
            key: len(base64.b64decode(value))
            for key, value in (before.get("data") or {}).items()
            if key not in values and key not in change.removed
        }
        check_size(name, (len(value.encode()) for value in values.values()), staying)
        wanted = dict(annotations or {})
        standing = (before.get("metadata") or {}).get("annotations") or {}
        if not change.changed and before and all(standing.get(key) == value for key, value in wanted.items()):
            return change
        if before.get("immutable"):
            raise RefusedError(
                f"secret {name} in {self.namespace} is immutable", hint="delete it there first, or use another name"
            )
        # whoever wrote stringData does not manage data, and the server sees no conflict
        if not force and (whose := [*others(before, change.updated)]):
            raise self._conflict(f"secret {name}", whose)
        body = {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {
                "name": name,
                "namespace": self.namespace,
                "labels": {LABEL: MANAGER},
                **({"annotations": wanted} if wanted else {}),
            },
            # the type of a secret cannot be changed
            "type": before.get("type") or "Opaque",
            "data": {key: base64.b64encode(value.encode()).decode() for key, value in sorted(values.items())},
        }
        self._apply(self._path("secrets", name), body, f"secret {name}", before, force=force)
        return change

    def list(self, named: Sequence[str] = ()) -> dict[str, list[str]]:
        """Return keys by secret: those that evctl manages and those named. One that does not exist is left out."""
        found: dict[str, list[str]] = {}
        try:
            items = self.api.get(self._path("secrets"), labelSelector=f"{LABEL}={MANAGER}").get("items") or ()
            found = {each["metadata"]["name"]: sorted(each.get("data") or {}) for each in items}
        except NotAllowedError:
            # whoever may only read single secrets can still ask for those that are named
            if not named:
                raise
        for name in named:
            if name not in found and (each := self._get(name)):
                found[name] = sorted(each.get("data") or {})
        return dict(sorted(found.items()))

    def values(self, name: str) -> dict[str, str]:
        """Return a secret's values by key; nothing of one that does not exist. NotAllowedError: RBAC, naming the verb."""
        return secret_values(self._get(name))

    def service_account(self, name: str, secret: str, *, force: bool = False) -> bool:
        """Let a service account use a secret, making it when it is missing; return whether anything changed."""
        before = self._get(name, "serviceaccounts")
        there, own = [each.get("name") for each in before.get("secrets") or ()], _own_references(before)
        if secret in there and set(own) <= {secret}:
            return False
        body = {
            "apiVersion": "v1",
            "kind": "ServiceAccount",
            "metadata": {"name": name, "namespace": self.namespace},
            # the list merges by name, so those of others stay. What was applied from here before goes: KServe gives the
            # pods the keys of all that are named, and makes no pod at all where one of them is gone
            "secrets": [{"name": secret}],
        }
        self._apply(self._path("serviceaccounts", name), body, f"service account {name}", before, force=force)
        return True

    def annotations(self, name: str) -> Mapping[str, str]:
        """Return a secret's annotations; none of one that does not exist."""
        return (self._get(name).get("metadata") or {}).get("annotations") or {}

    def _path(self, kind: str, name: str = "") -> str:
        return f"/api/v1/namespaces/{self.namespace}/{kind}" + (f"/{name}" if name else "")

    def _get(self, name: str, kind: str = "secrets") -> dict[str, Any]:
        try:
            return self.api.get(self._path(kind, name))
        except NotFoundError:
            return {}

    def _apply(self, path: str, body: Mapping[str, Any], what: str, before: Mapping[str, Any], *, force: bool) -> None:
        try:
            self.api.apply(path, body, field_manager=MANAGER, force=force)
        except ConflictError as error:
            # the server's message names fields and managers; only those known from the object itself are repeated
            raise self._conflict(what, [*others(before, body.get("data") or {})]) from error
        except NotFoundError as error:
            raise NotFoundError(
                f"there is no namespace {self.namespace} on this cluster",
                hint=f"kubectl create namespace {self.namespace}",
            ) from error
        except RefusedError as error:
            if error.hint or body["kind"] != "Secret":
                raise
            raise RefusedError(
                f"{what} in {self.namespace}: {error.message}",
                hint=f"kubectl -n {self.namespace} describe {what}: its type may want other keys, or values of a form",
            ) from error

    def _conflict(self, what: str, whose: Sequence[tuple[str, str]]) -> ConflictError:
        said = ", ".join(f"{key} by {who}" for key, who in whose)
        return ConflictError(
            f"{what} in {self.namespace} is managed by somebody else: {said or 'see its managedFields'}",
            hint="evctl secrets apply ... --force takes it over",
        )


def difference(before: Mapping[str, Any], values: Mapping[str, str]) -> SecretChange:
    """Return what applying would change, by key. A key is removed only if evctl, and nobody else, had put it there."""
    data: Mapping[str, str] = before.get("data") or {}
    encoded = {key: base64.b64encode(value.encode()).decode() for key, value in values.items()}
    owners = _owners(before)
    gone = [key for key in data if key not in values and owners.get(key, set()) == {MANAGER}]
    return SecretChange(
        added=sorted(encoded.keys() - data.keys()),
        updated=sorted(key for key in encoded.keys() & data.keys() if encoded[key] != data[key]),
        removed=sorted(gone),
    )


def others(before: Mapping[str, Any], keys: Collection[str]) -> Iterator[tuple[str, str]]:
    """Yield (key, manager) for each of these keys that somebody else manages."""
    for key, owners in sorted(_owners(before).items()):
        for who in sorted(owners - {MANAGER}):
            if key in keys:
                yield key, who


def _managed(document: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for entry in (document.get("metadata") or {}).get("managedFields") or ():
        yield str(entry.get("manager")), entry.get("fieldsV1") or {}


def _owners(secret: Mapping[str, Any]) -> dict[str, set[str]]:
    """Return who manages each key of a secret."""
    owners: dict[str, set[str]] = {}
    for manager, fields in _managed(secret):
        for kind in ("f:data", "f:stringData"):
            for field in fields.get(kind) or {}:
                if field.startswith("f:"):
                    owners.setdefault(field.removeprefix("f:"), set()).add(manager)
    return owners


def _own_references(account: Mapping[str, Any]) -> list[str]:
    """Return the secrets that evctl itself put into a service account."""
    import json

    found = []
    for manager, fields in _managed(account):
        if manager == MANAGER:
            keys = [key.removeprefix("k:") for key in fields.get("f:secrets") or {} if key.startswith("k:")]
            found += [str(json.loads(key)["name"]) for key in keys]
    return found
