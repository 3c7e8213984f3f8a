"""`evctl help exit-codes | environment`."""

from __future__ import annotations

from typing import Annotated

import typer

from evctl.errors import NotFoundError

ENVIRONMENT = """variables evctl reads
  EVCTL_ENV        the environment when --env is not given (else local)
  EVCTL_HOME       the state folder (else $XDG_STATE_HOME/evctl, else ~/.local/state/evctl)
  EVCTL_PROFILES   the folder of profiles (else ./profiles, else those that ship with evctl)
  EV_SECRETS_DIR   the folder of secret files a local run's steps see
  EVCTL_FORCE_TTY  show the live tree although stderr is no terminal"""


def topic(name: Annotated[str | None, typer.Argument(help="exit-codes or environment.")] = None) -> int:
    """Print a help topic."""
    from evctl.cli import EXIT_CODES, overview

    topics = {None: overview(), "exit-codes": EXIT_CODES, "environment": ENVIRONMENT}
    if name not in topics:
        raise NotFoundError(f"no help topic {name!r}", hint="evctl help exit-codes, evctl help environment")
    print(topics[name])
    return 0
