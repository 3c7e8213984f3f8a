"""What an address and the name of a variable look like, as types of a profile's fields.

A refusal says what is allowed and never holds the value: a secret is often pasted where its place should be named.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from typing import Annotated, Any
from urllib.parse import SplitResult, urlsplit

from pydantic import BeforeValidator
from pydantic_core import PydanticCustomError

REFUSED = "shape"
"""The type of a refusal of this module, whose message may be shown whatever the value is."""
MOST_LETTERS = 128
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_LONG_WORD = re.compile(r"[A-Za-z0-9]{31}")
"""No name of a variable has such a word, and a login that is letters and digits alone is one."""
_LABEL = re.compile(r"(?!-)[\w-]{1,63}(?<!-)")
_NETLOC = re.compile(r"(\[[^\[\]]+\]|[^\[\]:]+)(:[0-9]+)?")
"""Stricter than urlsplit, which leaves out what it does not understand."""
_NUMBERS = re.compile(r"[0-9.]+")


def _variable(value: Any) -> str | None:
    if value is None:
        return None
    if (
        not isinstance(value, str)
        or len(value) > MOST_LETTERS
        or not _NAME.fullmatch(value)
        or _LONG_WORD.search(value)
    ):
        raise PydanticCustomError(
            REFUSED, "the name of a variable is like KUBEFLOW_TOKEN; what it holds never stands in a profile"
        )
    return value


def _url(value: Any) -> str | None:
    if value in (None, ""):
        return None
    parts = _split(value, ("http", "https"))
    if parts is None:
        raise PydanticCustomError(
            REFUSED,
            "an address is like https://kubeflow.example/pipeline, http://[::1]:8888 or ml-pipeline.kubeflow:8888, "
            "with a port from 1 to 65535 and nothing after ? or #",
        )
    return str(value)


def _address(value: Any) -> str | None:
    if value in (None, ""):
        return None
    parts = _split(value, ("http", "https", "grpc", "grpcs"))
    if parts is None or parts.path not in ("", "/"):
        raise PydanticCustomError(
            REFUSED,
            "an address of gRPC is like metadata-grpc-service.kubeflow:8080, [::1]:8080 or grpcs://mlmd.example:443, "
            "with a port from 1 to 65535 and no path",
        )
    return str(value)


def _split(value: Any, schemes: Sequence[str]) -> SplitResult | None:
    """Return the parts of an address that can be one; without a scheme it has the first of them."""
    if not isinstance(value, str) or re.search(r"[\s\\@?#\x00-\x1f\x7f]", value):
        return None
    try:
        parts = urlsplit(value if "://" in value else f"{schemes[0]}://{value}")
        port = parts.port
    except ValueError:
        return None
    if parts.scheme not in schemes or port == 0 or not _NETLOC.fullmatch(parts.netloc):
        return None
    return parts if _is_host(parts.hostname or "", bracketed=parts.netloc.startswith("[")) else None


def _is_host(name: str, *, bracketed: bool) -> bool:
    if bracketed or _NUMBERS.fullmatch(name):
        try:
            return ipaddress.ip_address(name.partition("%")[0]).version == (6 if bracketed else 4)
        except ValueError:
            return False
    return all(_LABEL.fullmatch(label) for label in name.removesuffix(".").split("."))


VariableName = Annotated[str | None, BeforeValidator(_variable)]
"""Name of an environment variable, or None."""
Url = Annotated[str | None, BeforeValidator(_url)]
"""URL of an HTTP server, plain where it names no scheme; None, or empty as an unset variable is."""
GrpcAddress = Annotated[str | None, BeforeValidator(_address)]
"""`host:port` of a gRPC server, with TLS where a scheme says so; None, or empty as an unset variable is."""
