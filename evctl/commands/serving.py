"""`evctl serving`: what serves now; start of the release that should serve, and stop of the local service."""

from __future__ import annotations

from dataclasses import asdict
from enum import StrEnum
from typing import Annotated, Any
from urllib.parse import urlsplit

import typer

from evctl.commands import release, resolve
from evctl.commands.options import Debug, Env, Format, Output, Quiet
from evctl.output import emit, say
from evctl.rollout import policy, promotion

STRAY = "failed and could not be taken back"


class Action(StrEnum):
    """What to do with the service."""

    show = "show"
    start = "start"
    stop = "stop"


def serving(
    action: Annotated[
        Action,
        typer.Argument(
            metavar="ACTION",
            help="start brings the live release up again, proved, here or on a cluster; stop is for the local service.",
        ),
    ] = Action.show,
    env: Env = None,
    output: Output = Format.table,
    quiet: Quiet = False,
    debug: Debug = False,
) -> int:
    """Show, start or stop the service. Exit 0 when it serves or was stopped as asked, 9 when it does not serve."""
    target = release.target_of(resolve.profile(env))
    world = promotion.open_world(target)
    if action is not Action.show:
        promotion.switch(target, world, on=action is Action.start, by=release.by(), tell=say)
    now, ledger = world.read(), world.ledger().read()[0]
    live, canary = ledger.live, ledger.canary
    begun = ledger.pending if canary is None else None
    detail = f"revision {begun.revision}, {begun.model}, is being promoted: {now.detail}" if begun else now.detail
    rolling = bool(now.extra.get("rolling"))
    if stray := ledger.stray(now.digest):
        before = f"; {live.model} is what should serve" if live else ""
        detail = f"revision {stray.revision}, {stray.model}, {STRAY}{before}: {now.detail}"
        live = live if rolling else stray
    document: dict[str, Any] = {
        "service": target.name,
        "state": now.state,
        "model": live.model if live else None,
        "revision": live.revision if live else None,
        # while a release rolls out the service has its digest already, and the one before serves
        "digest": live.digest if live and rolling else now.digest,
        "url": now.url,
        "detail": detail.removesuffix(": "),
        "canary": {key: getattr(canary, key) for key in ("model", "revision")} | {"percent": canary.canary}
        if canary
        else None,
        "by_hand": [asdict(each) for each in policy.by_hand(now, ledger)],
    }
    emit(document, output, _lines, dict, name=now.state, quiet=quiet)
    return 0 if now.state == "serving" or action is Action.stop else 9


def _lines(document: dict[str, Any]) -> list[str]:
    state, model = document["state"], document["model"] or "no model"
    lines = [f"{document['service']}: {state}, {model}" + (f" ({document['detail']})" if document["detail"] else "")]
    if canary := document["canary"]:
        lines.append(f"  canary: {canary['model']} gets {canary['percent']} % (revision {canary['revision']})")
    for each in document["by_hand"]:
        lines.append(f"  by hand: {each['name']} gets {each['percent']} %, which no release here was given")
    if state == "serving":
        lines.append(f"  {_address(document['url'], document['service'])}")
    if STRAY in document["detail"]:
        return [*lines, "  next: evctl rollback"]
    if state == "serving":
        return lines
    if "is being promoted" in document["detail"]:
        return [
            *lines,
            "  next: evctl history; if nobody promotes any more: evctl promote, which finishes it or undoes it",
        ]
    return [*lines, "  next: evctl serving start" if document["model"] else "  next: evctl promote"]


def _address(url: str | None, service: str) -> str:
    if not url:
        return "it tells no address; evctl predict FILE asks it through the Kubernetes API"
    inner = ".svc." in f"{urlsplit(url).hostname or ''}."
    return f"{url}/v2/models/{service}/infer" + ("   in the cluster; from here: evctl predict FILE" if inner else "")
