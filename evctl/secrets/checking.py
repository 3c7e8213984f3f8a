"""What Kubernetes takes for a secret; the same here, so that what works on one machine works on a cluster."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

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


def check(name: str, values: Mapping[str, str], required: Sequence[str]) -> None:
    """Raise UsageError for a bad name, key or value, values that are too large, or a required key without a value."""
    if not NAME.fullmatch(name) or len(name) > LONGEST:
        # what follows = is a value that was typed where the name belongs
        given, _, value = name.partition("=")
        why = "its values come from a file, stdin or a prompt" if value else "lower case letters, digits, - and ."
        raise UsageError(f"{given[:LONGEST]!r} is no name of a secret: {why}", hint="evctl secrets list")
    if bad := [key for key in values if not is_key(key)]:
        raise UsageError(
            f"{bad[0]!r} is no key of a secret: letters, digits, -, _ and .",
            hint="mend the file, then the same command",
        )
    if lacking := [key for key in required if not values.get(key)]:
        raise UsageError(f"secret {name} needs {', '.join(lacking)}", hint="add it to the file")
    if (size := sum(len(value.encode()) for value in values.values())) > MOST_BYTES:
        raise UsageError(
            f"secret {name} would hold {size:,} bytes, and Kubernetes keeps {MOST_BYTES:,}",
            hint="a large file belongs into the store; give its address and its key here",
        )
