"""`evctl help exit-codes | environment | role | json [VERB]`."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from evctl.errors import NotFoundError

ENVIRONMENT = """variables evctl reads
  EVCTL_ENV        the environment when --env is not given (else local)
  EVCTL_HOME       the state folder (else $XDG_STATE_HOME/evctl, else ~/.local/state/evctl)
  EVCTL_PROFILES   the folder of profiles (else ./profiles, else those that ship with evctl)
  EVCTL_USER       who promotes and rolls back, in the ledger (else the login name)
  EV_SECRETS_DIR   the folder of secret files a local run's steps see
  EVCTL_FORCE_TTY  show the live tree although stderr is no terminal
  NO_COLOR         no colour, as --no-color"""


def topic(
    name: Annotated[str | None, typer.Argument(metavar="TOPIC", help="exit-codes, environment, role or json.")] = None,
    verb: Annotated[list[str] | None, typer.Argument(help="For json: one verb's schema.")] = None,
) -> int:
    """Print a help topic; `role` is what a promoter may do, for kubectl apply -f -; `json` every verb's JSON Schema."""
    from evctl.cli import EXIT_CODES, overview

    if name == "json":
        print(json.dumps(_schemas(" ".join(verb or ())), indent=2))
        return 0
    if name == "role":
        print(_role(), end="")
        return 0
    topics = {None: overview(), "exit-codes": EXIT_CODES, "environment": ENVIRONMENT}
    if name not in topics:
        raise NotFoundError(f"no help topic {name!r}", hint="evctl help exit-codes, environment, role or json")
    print(topics[name])
    return 0


def _role() -> str:
    from importlib.resources import files

    return (files("evctl.rollout") / "role.yaml").read_text()


def _schemas(verb: str) -> object:
    from evctl.schemas.verbs import DOCUMENTS, schemas

    if not verb:
        return schemas()
    if verb not in DOCUMENTS:
        raise NotFoundError(f"no verb {verb!r} has a JSON document", hint="evctl help json")
    return DOCUMENTS[verb].model_json_schema()
