"""`evctl secrets apply | list`: values come from a file, stdin or a prompt, and are never shown."""

from __future__ import annotations

import errno
import sys
from typing import Annotated, Any

import typer

from evctl.backends.kubeflow.secrets_place import cluster_secrets, run_namespace
from evctl.commands import resolve
from evctl.commands.options import Debug, Env, Format, Output, Quiet
from evctl.errors import UsageError
from evctl.output import columns, emit, say
from evctl.profile import Profile
from evctl.secrets import store
from evctl.secrets.checking import check_name, values_on_the_line
from evctl.secrets.cluster import ClusterSecrets
from evctl.secrets.env_file import parse_env
from evctl.secrets.local import LocalSecrets, SecretChange

DEFAULT = "ev-telemetry-secret"
TERMINAL_LINE = 4095
"""Bytes that Linux keeps of a line typed at a terminal; it drops the rest without a word."""
MOST_READ = 4 << 20
"""Bytes of an env file: what a secret may hold, and room for comments."""


def apply(
    name: Annotated[
        str | None, typer.Argument(help=f"The secret; none is {DEFAULT}, with --store the store's.")
    ] = None,
    from_env_file: Annotated[
        str | None, typer.Option("--from-env-file", "-f", help="KEY=value, a line each; - is stdin.")
    ] = None,
    store: Annotated[
        bool, typer.Option("--store", help="The model store's secret, as KServe reads it, and its service account.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Take keys over that somebody else manages.")] = False,
    env: Env = None,
    output: Output = Format.table,
    quiet: Quiet = False,
    debug: Debug = False,
) -> int:
    """Set a secret; without a file the required keys are asked for."""
    if name is not None:
        check_name(name)
    profile = resolve.profile(env)
    if store:
        return _apply_store(profile, name, from_env_file, force, output, quiet)
    name = name or DEFAULT
    required = _required(profile).get(name, ())
    place = _local() if profile.backend == "local" else _cluster(profile)
    values = _values(from_env_file, required)
    change = (
        place.apply(name, values, required, force=force)
        if isinstance(place, ClusterSecrets)
        else place.apply(name, values, required)
    )
    emit(_document(name, change), output, lambda _: [_told(name, change)], lambda d: d, name=name, quiet=quiet)
    return 0


def list_secrets(env: Env = None, output: Output = Format.table, quiet: Quiet = False, debug: Debug = False) -> int:
    """List secrets and their keys, and what the profile requires and is not there."""
    profile = resolve.profile(env)
    required = _required(profile)
    found = _local().list() if profile.backend == "local" else _cluster(profile).list(tuple(required))
    entries: list[dict[str, Any]] = [
        {"name": name, "keys": keys, "missing": [key for key in required.get(name, ()) if key not in keys]}
        for name, keys in sorted({**{each: [] for each in required}, **found}.items())
    ]
    rows = [("NAME", "KEYS", "MISSING")]
    for each in entries:
        there = each["name"] in found
        lacking = ", ".join(each["missing"]) if there else "the secret itself"
        rows.append((str(each["name"]), ", ".join(each["keys"]) or "-", lacking or "-"))
    document = {"secrets": [each for each in entries if each["name"] in found or each["missing"]]}
    emit(document, output, lambda _: columns(rows), lambda d: d, name="\n".join(found), quiet=quiet)
    return 0


def _apply_store(
    profile: Profile, name: str | None, source: str | None, force: bool, output: Format, quiet: bool
) -> int:
    name = name or profile.store.secret
    if name is None:
        raise UsageError(
            f"profile {profile.name} names no secret for its store", hint="set store: {secret: NAME} in the profile"
        )
    # a secret that tasks mount too keeps what they need: applying fewer keys would take the others away
    required = tuple(dict.fromkeys((*_required(profile).get(name, ()), *store.store_keys(profile))))
    annotations = store.kserve_annotations(profile)
    account = store.account_name(profile)
    serving = profile.serving.namespace or profile.namespace
    # the steps need it where they run, the predictor where it serves
    places = {namespace: _cluster(profile, namespace) for namespace in (run_namespace(profile, say), serving)}
    values = _values(source, required)
    for namespace, place in places.items():
        if told := store.of_another_store(place.annotations(name), profile):
            say(
                f"warning: secret {name} in {namespace} was for another store: {', '.join(told)}. Other profiles that "
                "name it get these keys now: give each store a secret of its own (store.secret)"
            )
    changes = {
        namespace: place.apply(name, values, required, annotations=annotations, force=force)
        for namespace, place in places.items()
    }
    linked = places[serving].service_account(account, name, force=force)
    first = changes[serving]
    document = {
        **_document(name, first),
        "changed": linked or any(change.changed for change in changes.values()),
        "namespaces": list(places),
        "service_account": {"name": account, "changed": linked},
    }
    told = [f"{namespace}: {_told(name, change)}" for namespace, change in changes.items()]
    told.append(f"{serving}: service account {account}: {'uses it now' if linked else 'unchanged'}")
    emit(document, output, lambda _: told, lambda d: d, name=name, quiet=quiet)
    return 0


def _document(name: str, change: SecretChange) -> dict[str, Any]:
    return {
        "name": name,
        "changed": change.changed,
        "added": change.added,
        "updated": change.updated,
        "removed": change.removed,
    }


def _told(name: str, change: SecretChange) -> str:
    what = ", ".join(f"{kind} {', '.join(keys)}" for kind, keys in change.by_kind().items())
    return f"{name}: {what or 'unchanged'}"


def _required(profile: Profile) -> dict[str, tuple[str, ...]]:
    """Return the keys that the profile requires, by secret."""
    found = {secret.name: tuple(secret.keys) for secret in profile.secrets}
    if profile.backend != "local" and profile.store.secret:
        mounted = found.get(profile.store.secret, ())
        found[profile.store.secret] = tuple(dict.fromkeys((*mounted, *store.store_keys(profile))))
    return found


def _local() -> LocalSecrets:
    return LocalSecrets()


def _cluster(profile: Profile, namespace: str | None = None) -> ClusterSecrets:
    return cluster_secrets(profile, namespace or run_namespace(profile, say))


def _values(source: str | None, required: tuple[str, ...]) -> dict[str, str]:
    if source is not None:
        called = "stdin" if source == "-" else source
        if values := parse_env(_read(source, called), called, required):
            return values
        # a command before the pipe that failed leaves it empty: that takes no key away
        raise UsageError(f"{called} has no KEY=value", hint="evctl secrets apply NAME --from-env-file FILE")
    if sys.stdin is None or not sys.stdin.isatty() or not required:
        raise UsageError("no values", hint="evctl secrets apply NAME --from-env-file FILE, or - for stdin")
    return {key: _asked(key) for key in required}


def _asked(key: str) -> str:
    # stdout is the result's
    value: str = typer.prompt(key, hide_input=True, err=True)
    if not sys.stderr.isatty():  # the end of the line went to the terminal
        say("")
    try:
        size = len(value.encode())
    except UnicodeEncodeError:
        raise UsageError(f"what was typed for {key} is not UTF-8", hint="evctl secrets apply NAME -f FILE") from None
    if size >= TERMINAL_LINE:
        raise UsageError(
            f"what was typed for {key} fills a terminal's line: what is longer was lost",
            hint="evctl secrets apply NAME --from-env-file FILE",
        )
    return value


def _read(source: str, called: str) -> bytes:
    try:
        if source == "-":
            if sys.stdin is None:
                raise OSError(errno.EBADF, "it is closed")
            raw = sys.stdin.buffer.read(MOST_READ + 1)
        else:
            with open(source, "rb") as file:  # noqa: PTH123 - the name may be a pipe of the shell's
                raw = file.read(MOST_READ + 1)
    except OSError as error:
        if "=" in source:
            raise values_on_the_line() from None
        raise UsageError(
            f"{called} cannot be read: {error.strerror}", hint="evctl secrets apply NAME --from-env-file FILE"
        ) from None
    if len(raw) > MOST_READ:
        raise UsageError(
            f"{called} is larger than {MOST_READ:,} bytes", hint="is it an env file? KEY=value, a line each"
        )
    return raw
