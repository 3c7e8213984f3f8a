"""`evctl profile list | show | check`."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from evctl import profile_files
from evctl.commands import resolve
from evctl.commands.options import Debug, Format, Output, Quiet
from evctl.output import columns, emit

Name = Annotated[str | None, typer.Argument(help="The profile; none is EVCTL_ENV's, else local.")]


def list_profiles(output: Output = Format.table, quiet: Quiet = False, debug: Debug = False) -> int:
    """List the environments."""
    found = [profile_files.load_profile(name).profile for name in profile_files.names()]
    document = {
        "profiles": [
            {"name": p.name, "backend": p.backend, "namespace": p.namespace, "description": p.description}
            for p in found
        ]
    }
    rows = [
        ("NAME", "ENGINE", "NAMESPACE", "DESCRIPTION"),
        *((p.name, p.backend, p.namespace, p.description) for p in found),
    ]
    emit(document, output, lambda _: columns(rows), lambda d: d, name="\n".join(p.name for p in found), quiet=quiet)
    return 0


def show(name: Name = None, output: Output = Format.table, quiet: Quiet = False, debug: Debug = False) -> int:
    """Show a profile's values and where each comes from."""
    loaded = profile_files.load_profile(resolve.env_name(name))
    values = list(_flat(loaded.profile.model_dump(mode="json"), ""))
    document = {
        "name": loaded.profile.name,
        "file": str(loaded.path),
        "values": {key: {"value": value, "origin": loaded.origins.get(key, "default")} for key, value in values},
    }
    rows = [(key, str(value), loaded.origins.get(key, "default")) for key, value in values]
    emit(document, output, lambda _: columns(rows), lambda d: d, name=loaded.profile.name, quiet=quiet)
    return 0


def check(name: Name = None, output: Output = Format.table, quiet: Quiet = False, debug: Debug = False) -> int:
    """Check one profile, or all."""
    wanted = [name] if name else profile_files.names()
    found = [profile_files.load_profile(each).profile.name for each in wanted]
    emit(
        {"valid": found},
        output,
        lambda d: [f"{each}: valid" for each in d["valid"]],
        lambda d: d,
        name="\n".join(found),
        quiet=quiet,
    )
    return 0


def _flat(value: Any, prefix: str) -> Any:
    if isinstance(value, dict) and value:
        for key, each in value.items():
            yield from _flat(each, f"{prefix}.{key}" if prefix else str(key))
    else:
        yield prefix, value
