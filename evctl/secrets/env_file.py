"""Env files, as `secrets apply` reads them: KEY=value lines, refused rather than guessed at, and never repeated.

Not python-dotenv: it warns of a line that it cannot read, quoting it, and goes on without; it joins lines within quotes, sets
`\\n` and `${NAME}` into values, and takes the last line of a wrapped base64 text for a key. Here a line is a value, as it
stands, or there is no secret: half a value is found out when a pod fails, and a key is printed.
"""

from __future__ import annotations

import re
from collections.abc import Collection

from evctl.errors import UsageError
from evctl.secrets.checking import is_key

_EXPORT = re.compile(r"export[ \t]+(?=[^=\s])")
# the first quote that nothing but a comment follows closes it: JSON may stand in quotes as it is
_QUOTED = re.compile(r"""(['"])(?P<value>.*?)\1\s*(#.*)?""", re.DOTALL)
_COMMENT = re.compile(r"\s#.*", re.DOTALL)
# base64 wraps at 76 characters, others at 64, terminals somewhere; what is shorter than this was not wrapped
_GOES_ON = re.compile(r"[A-Za-z0-9+/_-]{20}")
_MIXED = re.compile(r"(?=.*[a-z])(?=.*[A-Z])")


def parse_env(raw: bytes, source: str, required: Collection[str] = ()) -> dict[str, str]:
    """Return KEY=value lines as a mapping.

    Args:
        raw: UTF-8. A value is one line: as it stands within quotes, else up to a blank and #.
        required: keys that are known to be keys.

    Raises:
        UsageError: not UTF-8, or a line that is no KEY=value or may be another value's end: by number, never by its text.
    """
    try:
        text = raw.decode("utf-8-sig")  # an editor's byte order mark is no part of the first key
    except UnicodeDecodeError:
        raise UsageError(f"{source} is not UTF-8", hint="save it as UTF-8, then the same command") from None
    values: dict[str, str] = {}
    stands: dict[str, int] = {}
    before = ""
    # not splitlines(): it cuts a value at a form feed and at what Unicode calls a line
    for number, line in enumerate(re.split(r"\r\n|\n|\r", text), 1):
        where, before_it, before = f"{source}:{number}", before, ""
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        key, found, rest = _EXPORT.sub("", line.strip(), count=1).partition("=")
        key, before = key.strip(), rest.strip()
        if not found or not is_key(key):
            raise UsageError(
                f"{where}: not KEY=value", hint="a value is one line (base64 -w0): mend it, then the same command"
            )
        if "\0" in rest:
            raise UsageError(f"{where}: the value holds a NUL", hint="write it as base64 -w0 does, as text")
        if key not in required and _may_be_an_end(key, before, before_it):
            raise UsageError(
                f"{where}: nothing stands after =, as in the last line of what base64 has wrapped",
                hint="base64 -w0 writes one line, KEY='' is an empty value: mend it, then the same command",
            )
        if key in values:
            raise UsageError(
                f"{where}: the key of line {stands[key]} again", hint="keep one of them, then the same command"
            )
        values[key], stands[key] = _value(rest, where), number
    return values


def _may_be_an_end(key: str, value: str, before: str) -> bool:
    """Whether `TEXT=` or `TEXT==` may be where a base64 text ends; `before`: what the line before it has after =."""
    if value or "." in key:
        return bool(value) and not value.strip("=")
    return bool(_GOES_ON.fullmatch(before[-20:]) or _MIXED.match(key))


def _value(rest: str, where: str) -> str:
    text = rest.strip()
    if not text.startswith(("'", '"')):
        return _COMMENT.sub("", rest).strip()
    if quoted := _QUOTED.fullmatch(text):
        return quoted["value"]
    raise UsageError(
        f"{where}: the value begins with a quote and does not end with it",
        hint="a value is one line; put one that has a quote of its own into the other ones: mend it, then the same command",
    )
