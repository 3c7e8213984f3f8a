"""Do the keys that pods use open the model store: the cluster's secret is read, and the store asked with what it holds.

The operator's own environment may have other keys. No value is ever part of a message.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from evctl.backends.kubeflow.objects_place import Location, Session
from evctl.backends.kubeflow.objects_reach import answers, open_store
from evctl.doctor.checks import Finding, failed, passed, warned
from evctl.doctor.site import NotCheckedError, Site
from evctl.errors import EvctlError, NotAllowedError, NotFoundError
from evctl.kube import secret_values
from evctl.rollout.store_errors import failure
from evctl.secrets.store import GCS_KEYS, S3_KEYS, of_another_store, store_keys

_STATUS = re.compile(r"status code: (\d{3})")


@dataclass(frozen=True, slots=True)
class Held:
    """A secret's values, by key, and where it is. `foreign`: what it says of another store than the profile's."""

    place: str
    values: Mapping[str, str] = field(repr=False)
    foreign: tuple[str, ...] = ()


def keys_open_the_store(site: Site) -> Finding:
    """Does the store take the keys of the cluster's secret? It is asked for a list of the first objects, no more."""
    profile = site.profile
    name, where = profile.store.secret, urlsplit(profile.store.uri)
    if name is None or where.scheme not in ("s3", "gs"):
        return passed("not needed: the profile names no secret for its store")
    serving = profile.serving.namespace or profile.namespace
    found, hidden = _held(site, name, serving)
    problems = [each for each in (unusable(held) for held in found) if each]
    if problems:
        return failed("; ".join(problems), _apply(site))
    distinct = {tuple(sorted(held.values.items())): held for held in found}
    for held in distinct.values():
        if (told := _asked(site, held)) is not None:
            return told
    foreign = [f"secret {held.place} is for another store: {', '.join(held.foreign)}" for held in found if held.foreign]
    if foreign:
        said = f"{'; '.join(foreign)}. Does another profile name it too?"
        return warned(said, f"name another under store.secret in the profile, then {_apply(site)}")
    if hidden:
        return warned(f"not checked: {', '.join(hidden)} may not be read", "ask for get on secrets")
    if not found:
        raise NotCheckedError("the secret or a key of it is missing, see secrets on the cluster")
    return passed(f"{profile.store.uri} opens to {' and '.join(held.place for held in found)}")


def unusable(held: Held) -> str | None:
    """Return what is wrong with values that no store needs to be asked about; None if nothing is."""
    for key in S3_KEYS:
        value = held.values.get(key, "x")
        if not value or not value.isascii() or not value.isprintable() or value != value.strip():
            what = "holds a space, a line's end or another sign that no key has" if value else "is empty"
            return f"{key} of secret {held.place} {what}"
    return None


def verdict(error: Exception, what: str, where: str, apply: str) -> Finding:
    """Return what a store's failure says of the keys: no answer says nothing of them."""
    told = failure(what, error, where)
    status = found[1] if (found := _STATUS.search(str(error))) else ""
    if not status.startswith("4") or status == "429":
        return warned(f"not checked: {told.message}", told.hint)
    if not isinstance(told, NotAllowedError) or "clock" in told.message:
        return failed(told.message, told.hint)
    return failed(told.message, f"{apply}, with keys that may list and read there")


def _held(site: Site, name: str, serving: str) -> tuple[list[Held], list[str]]:
    """Return the secret where pods look for it, whole ones only, and where it may not be read."""
    api, profile = site.cluster(), site.profile
    found, hidden = [], []
    for space in dict.fromkeys((site.runs_namespace(), serving)):
        place = f"{name} in {space}"
        try:
            secret = api.get(f"/api/v1/namespaces/{space}/secrets/{name}")
        except NotFoundError:
            continue
        except NotAllowedError:
            hidden.append(f"secret {place}")
            continue
        values = secret_values(secret)
        if all(key in values for key in store_keys(profile)):
            notes = (secret.get("metadata") or {}).get("annotations") or {}
            foreign = tuple(of_another_store(notes, profile)) if space == serving else ()
            found.append(Held(place, {key: values[key] for key in store_keys(profile)}, foreign))
    return found, hidden


def _asked(site: Site, held: Held) -> Finding | None:
    """Ask the store for a list with these keys; None when it gives one."""
    import obstore

    store, uri = site.profile.store, site.profile.store.uri
    where = Location(urlsplit(uri).scheme, urlsplit(uri).netloc, urlsplit(uri).path.strip("/"))
    if store.endpoint and not answers(store.endpoint):
        said = f"not checked: {store.endpoint} takes no connection from here, so the keys cannot be tried"
        return warned(said, "see store; pods may have another way to it")
    session = Session(
        where.provider,
        store.endpoint,
        store.region or "us-east-1",
        store.secret,
        access_key_key=S3_KEYS[0],
        secret_key_key=S3_KEYS[1],
        token_key=GCS_KEYS[0],
    )
    try:
        opened = open_store(site.connection, where, session, store.endpoint, dict(held.values))
    except EvctlError as error:
        return failed(error.message, _apply(site))
    try:
        next(iter(obstore.list(opened, where.key or None, chunk_size=1)), None)
    except Exception as error:  # obstore's own errors have no common base
        return verdict(error, f"secret {held.place} does not open {uri}", store.endpoint or "the store", _apply(site))
    return None


def _apply(site: Site) -> str:
    return f"evctl secrets apply --env {site.env} --store -f FILE"
