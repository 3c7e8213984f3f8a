"""The options every verb has, as annotated types."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer


class Format(StrEnum):
    """How a result is printed."""

    table = "table"
    json = "json"
    yaml = "yaml"
    name = "name"


Env = Annotated[str | None, typer.Option("--env", "-e", help="The environment (else EVCTL_ENV, else local).")]
Output = Annotated[Format, typer.Option("--output", "-o", help="How to print the result.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print ids only.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show a traceback on an error.")]
RunRef = Annotated[str | None, typer.Argument(metavar="RUN", help="Id, unique prefix, name, @latest or @last-good.")]
