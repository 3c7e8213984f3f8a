"""`evctl completion bash | zsh | fish`."""

from __future__ import annotations

from typing import Annotated

import typer

from evctl.completion_scripts import SCRIPTS
from evctl.errors import UsageError


def completion(
    shell: Annotated[str, typer.Argument(metavar="SHELL", help="bash, zsh or fish.")],
) -> int:
    """Print a shell's completion script: source <(evctl completion bash)."""
    if shell not in SCRIPTS:
        raise UsageError(f"no completion for {shell!r}; known: {', '.join(SCRIPTS)}", hint="evctl completion bash")
    print(SCRIPTS[shell], end="")
    return 0
