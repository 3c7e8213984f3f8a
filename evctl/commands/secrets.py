"""`evctl secrets apply | list`: values come from a file, stdin or a prompt, and are never shown."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from evctl.commands import resolve
from evctl.commands.options import Debug, Env, Format, Output, Quiet
from evctl.errors import UnavailableError, UsageError
from evctl.output import columns, emit
from evctl.profile import Profile
from evctl.secrets_local import LocalSecrets, parse_env


def apply(
    name: Annotated[str, typer.Argument(help="The secret.")] = "ev-telemetry-secret",
    from_env_file: Annotated[
        str | None, typer.Option("--from-env-file", "-f", help="KEY=value lines; - is stdin.")
    ] = None,
    env: Env = None,
    output: Output = Format.table,
    quiet: Quiet = False,
    debug: Debug = False,
) -> int:
    """Set a secret; without a file the required keys are asked for."""
    profile = resolve.profile(env)
    store = _store(profile)
    required = next((secret.keys for secret in profile.secrets if secret.name == name), ())
    change = store.apply(name, _values(from_env_file, required), required)
    document = {
        "name": name,
        "changed": change.changed,
        "added": change.added,
        "updated": change.updated,
        "removed": change.removed,
    }
    told = [
        f"{name}: " + (", ".join(f"{what} {', '.join(keys)}" for what, keys in change.by_kind().items()) or "unchanged")
    ]
    emit(document, output, lambda _: told, lambda d: d, name=name, quiet=quiet)
    return 0


def list_secrets(env: Env = None, output: Output = Format.table, quiet: Quiet = False, debug: Debug = False) -> int:
    """List secrets and their keys."""
    found = _store(resolve.profile(env)).list()
    document = {"secrets": [{"name": name, "keys": keys} for name, keys in found.items()]}
    rows = [("NAME", "KEYS"), *((name, ", ".join(keys)) for name, keys in found.items())]
    emit(document, output, lambda _: columns(rows), lambda d: d, name="\n".join(found), quiet=quiet)
    return 0


def _store(profile: Profile) -> LocalSecrets:
    if profile.backend != "local":
        raise UnavailableError(
            f"profile {profile.name} runs on Kubeflow, whose secrets this version does not write yet"
        )
    return LocalSecrets()


def _values(source: str | None, required: tuple[str, ...]) -> dict[str, str]:
    if source == "-":
        return parse_env(sys.stdin.read(), "stdin")
    if source is not None:
        try:
            with open(source) as file:  # noqa: PTH123 - the name may be a pipe of the shell's
                return parse_env(file.read(), source)
        except OSError as error:
            raise UsageError(f"{source} cannot be read: {error.strerror}") from error
    if not sys.stdin.isatty() or not required:
        raise UsageError("no values", hint="evctl secrets apply NAME --from-env-file FILE, or - for stdin")
    return {key: typer.prompt(key, hide_input=True) for key in required}
