"""Profiles as files: where they are looked for, and errors that name file, key and line.

`$EVCTL_PROFILES`, else `./profiles`, else those that ship with evctl. `${NAME}` and `${NAME:-default}` in a value are
environment variables; `EVCTL_HOME` always has a value.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from ev_pipeline.settings import DEFAULT_STEP, TASKS
from evctl.errors import NotFoundError, UsageError
from evctl.profile import Profile
from evctl.shapes import REFUSED
from evctl.state import home, profile_names, profiles_folder

_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]*))?\}")
_SECRET_KEY = re.compile(r"(password|passwd|secret_key|access_key|api_key|^token|webhook_url)$", re.IGNORECASE)
_LOGIN = re.compile(r"^[a-z][a-z0-9+.-]*://([^/?#\s]*@|[^/?#\s:]*:(?!\d+(/|$))\S*@)", re.IGNORECASE)
"""A URL that holds a login; a secret key of S3's may itself hold a slash, so the part before the first one is not all."""
Key = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class LoadedProfile:
    """A profile and where its values come from: `file:line` or `$NAME`, by dotted key; the rest are defaults."""

    profile: Profile
    path: Path
    origins: Mapping[str, str]


def load_profile(name: str) -> LoadedProfile:
    """Read one profile.

    Raises:
        NotFoundError: no such file; the known ones are listed. UsageError: wrong, naming file, key and line.
    """
    path = profiles_folder() / f"{name}.yaml"
    if "/" in name or not path.is_file():
        raise NotFoundError(
            f"no profile {name!r} in {profiles_folder()}; known: {', '.join(profile_names()) or 'none'}",
            hint="evctl profile list",
        )
    try:
        values, lines = _read(path)
        origins = {".".join(map(str, key)): f"{path.name}:{line}" for key, line in lines.items()}
        expanded = _expand(values, (), path, lines, origins)
        return LoadedProfile(_validated(name, expanded, path, lines, origins), path, origins)
    except UsageError as error:
        if error.hint:
            raise
        raise UsageError(error.message, hint=f"mend it, then: evctl profile check {name}") from error


def _read(path: Path) -> tuple[dict[str, Any], dict[Key, int]]:
    import yaml

    lines: dict[Key, int] = {}

    def build(node: yaml.Node, key: Key) -> Any:
        lines[key] = node.start_mark.line + 1
        if isinstance(node, yaml.MappingNode):
            out: dict[str, Any] = {}
            for name_node, value_node in node.value:
                name = str(name_node.value)
                if name in out:
                    raise UsageError(f"{path}:{name_node.start_mark.line + 1}: key {name} stands twice")
                out[name] = build(value_node, (*key, name))
                lines[(*key, name)] = name_node.start_mark.line + 1
            return out
        if isinstance(node, yaml.SequenceNode):
            return [build(each, (*key, at)) for at, each in enumerate(node.value)]
        return yaml.SafeLoader("").construct_object(node)

    try:
        root = yaml.compose(path.read_text(), Loader=yaml.SafeLoader)
        values = build(root, ()) if isinstance(root, yaml.MappingNode) else None
    except RecursionError as error:
        raise UsageError(f"{path}: an alias that holds itself") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f":{mark.line + 1}" if mark else ""
        raise UsageError(f"{path}{where}: not YAML: {getattr(error, 'problem', error)}") from error
    if values is None:
        raise UsageError(f"{path}:1: a profile is a mapping of keys to values")
    return dict(values), lines


def _expand(value: Any, key: Key, path: Path, lines: Mapping[Key, int], origins: dict[str, str]) -> Any:
    if isinstance(value, dict):
        return {name: _expand(each, (*key, name), path, lines, origins) for name, each in value.items()}
    if isinstance(value, list):
        return [_expand(each, (*key, at), path, lines, origins) for at, each in enumerate(value)]
    where = f"{path}:{lines.get(key, 1)}: {'.'.join(map(str, key))}"
    if value and key and _SECRET_KEY.search(str(key[-1])):
        raise UsageError(
            f"{where}: a secret never stands in a profile", hint="evctl secrets apply, and name the key here"
        )
    if not isinstance(value, str):
        return value
    found = _filled_in(value, key, where, path, origins)
    if _LOGIN.match(found):
        raise UsageError(
            f"{where}: the URL holds a login, and a secret never stands in a profile",
            hint="write the URL without what is before the @; evctl secrets apply, or the environment, holds the login",
        )
    return found


def _filled_in(value: str, key: Key, where: str, path: Path, origins: dict[str, str]) -> str:
    if "${" not in value:
        return value

    def put(match: re.Match[str]) -> str:
        name, default = match[1], match[2]
        known = str(home()) if name == "EVCTL_HOME" else os.environ.get(name, default)
        if known is None:
            raise UsageError(
                f"{where}: the variable {name} is not set", hint=f"export {name}=..., or write ${{{name}:-default}}"
            )
        return known

    origins[".".join(map(str, key))] = "$" + _VARIABLE.search(value)[1] if _VARIABLE.search(value) else path.name  # type: ignore[index]
    return _VARIABLE.sub(put, value)


def _validated(
    name: str, values: dict[str, Any], path: Path, lines: Mapping[Key, int], origins: Mapping[str, str]
) -> Profile:
    from pydantic import ValidationError

    try:
        return Profile(**{**values, "name": name})
    except ValidationError as error:
        # an unknown key is often a required one misspelt: it says more than the one that is missing
        first = min(error.errors(), key=lambda each: each["type"] != "extra_forbidden")
        # pydantic's mark of a name that its mapping does not take
        unknown = first["type"] == "extra_forbidden" or first["loc"][-1] == "[key]"
        key = tuple(part for part in first["loc"] if part != "[key]")
        line = next((lines[key[:n]] for n in range(len(key), -1, -1) if key[:n] in lines), 1)
        dotted = ".".join(map(str, key))
        if unknown:
            known = _known_keys(key[:-1])
            near = difflib.get_close_matches(str(key[-1]), known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"known here: {', '.join(known)}" if known else None
            raise UsageError(f"{path}:{line}: unknown key {dotted}", hint=hint) from error
        message = str(first["msg"]).removeprefix("Value error, ")
        said = message if _unquoted(first["type"], first["input"], key) else f"{message}, not {first['input']!r}"
        if origins.get(dotted, "").startswith("$"):
            # what a variable holds may be a secret that was put in the wrong place
            why = f": {message}" if first["type"] == REFUSED else f" ({first['type'].replace('_', ' ')})"
            said = f"what {origins[dotted]} holds is not valid here{why}"
        raise UsageError(f"{path}:{line}: {dotted}: {said}") from error


def _unquoted(kind: str, value: object, key: Key) -> bool:
    # a login is pasted beside its place too
    return kind == REFUSED or isinstance(value, dict) or "auth" in key


def _known_keys(key: Key) -> list[str]:
    if key == ("steps",):
        return [*TASKS, DEFAULT_STEP]
    model: Any = Profile
    for part in key:
        # a place in a list, or a name in a mapping, has the type of what the list or the mapping holds
        within = get_args(model)
        field = getattr(model, "model_fields", {}).get(part)
        if field is None and not within:
            return []
        model = field.annotation if field else next(each for each in reversed(within) if each is not ...)
    return list(getattr(model, "model_fields", {}))
