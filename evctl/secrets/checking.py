"""What Kubernetes takes for a secret; the same here, so that what works on one machine works on a cluster."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

from evctl.errors import UsageError

NAME = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
KEY = re.compile(r"[-._a-zA-Z0-9]+")
LONGEST = 253
"""Characters of a name, and of a key."""
MOST_BYTES = 1 << 20
"""Bytes of all values of a secret together."""


def is_key(text: str) -> bool:
    """Whether a text can be a secret's key: a file's name where the secret is mounted."""
    return bool(KEY.fullmatch(text)) and len(text) <= LONGEST and text != "." and not text.startswith("..")


def check_name(name: str) -> None:
    """Raise UsageError for what is no name of a secret."""
    if NAME.fullmatch(name) and len(name) <= LONGEST:
        return
    if "=" in name:
        raise values_on_the_line()
    raise UsageError(f"{name!r} is no name of a secret: lower case letters, digits, - and .", hint="evctl secrets list")


def values_on_the_line() -> UsageError:
    """Return the refusal of values among the arguments, which names none of them."""
    return UsageError(
        "a secret's values do not stand on the command line, where others see them: they come from a file, stdin or a prompt",
        hint="evctl secrets apply NAME --from-env-file FILE, or - for stdin",
    )


def check(name: str, values: Mapping[str, str], required: Sequence[str]) -> None:
    """Raise UsageError for a bad name or key, a required key without a value, or values that are too large."""
    check_name(name)
    if bad := [key for key in values if not is_key(key)]:
        raise UsageError(
            f"{bad[0]!r} is no key of a secret: letters, digits, -, _ and .",
            hint="mend the file, then the same command",
        )
    if lacking := [key for key in required if not values.get(key)]:
        raise UsageError(f"secret {name} needs {', '.join(lacking)}", hint="add it to the file")
    check_size(name, (len(value.encode()) for value in values.values()))


def check_size(name: str, values: Iterable[int], others: Mapping[str, int] | None = None) -> None:
    """Raise UsageError for more bytes than a secret may hold; `others`: those of the keys that stay in it."""
    staying = others or {}
    if (size := sum(values) + sum(staying.values())) > MOST_BYTES:
        beside = f", {', '.join(sorted(staying))} of others among them" if staying else ""
        raise UsageError(
            f"secret {name} would hold {size:,} bytes{beside}, and Kubernetes keeps {MOST_BYTES:,}",
            hint="take out of the file what is no secret, then the same command",
        )
