"""Apply, list and delete an environment's schedules, wherever each of them fires."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from evctl.errors import UnavailableError
from evctl.output import say
from evctl.profile import Profile
from evctl.schedules.base import Schedule, Standing, Step, place_of, require
from evctl.schedules.kubeflow import RecurringRuns, Target
from evctl.schedules.local import Crontab

if TYPE_CHECKING:
    from evctl.backends.kubeflow.backend import KubeflowBackend


def apply(profile: Profile, wanted: Sequence[Schedule], *, prune: bool) -> tuple[Step, ...]:
    """Make the schedules stand. Parameters of runs are typed by the pipeline first; nothing is done if one is wrong."""
    from evctl.compiler import coerce, compile_profile, require_image

    compiled = compile_profile(profile) if any(each.verb == "run" for each in wanted) else None
    typed = []
    for each in wanted:
        if compiled is not None and each.verb == "run":
            raw = {k: v if isinstance(v, str) else json.dumps(v) for k, v in each.parameters.items()}
            values = coerce(compiled.spec, raw)
            # the pipeline's defaults stay the pipeline's: the next version may have others
            each = replace(each, parameters={key: values[key] for key in raw})
        typed.append(each)
    here = [each for each in typed if place_of(profile, each) == "crontab"]
    there = [each for each in typed if place_of(profile, each) == "kubeflow"]
    steps: tuple[Step, ...] = ()
    if here:
        Crontab(profile.name).standing()  # a machine without cron is told before anything is done elsewhere
    if profile.backend == "kubeflow":
        target = None
        if there:
            require_image(profile)
            assert compiled is not None
            with tempfile.TemporaryDirectory() as folder:
                package = Path(folder) / "pipeline.yaml"
                compiled.write(package)
                target = Target(*_backend(profile).version_ids(package, compiled.digest))
        steps += _recurring(profile).apply(there, target, prune=prune)
    if here or prune or profile.backend == "local":
        steps += Crontab(profile.name).apply(here, prune=prune)
    return steps


def standing(profile: Profile, wanted: Sequence[Schedule] = ()) -> tuple[Standing, ...]:
    """Return what stands there. A machine without cron has nothing in it, which is said where something should be."""
    found: tuple[Standing, ...] = ()
    if profile.backend == "kubeflow":
        found += _recurring(profile).standing()
    try:
        return found + Crontab(profile.name).standing()
    except UnavailableError as error:
        if profile.backend == "local":
            raise
        if any(place_of(profile, each) == "crontab" for each in wanted):
            say(f"warning: {error.message}; next: {error.hint}")
        return found


def delete(profile: Profile, names: Sequence[str] | None) -> tuple[str, ...]:
    """Take schedules away, all when `names` is None, and return their names. NotFoundError if one does not stand."""
    there = standing(profile)
    wanted = sorted({each.schedule.name for each in there} if names is None else set(names))
    require(wanted, there, profile.name)
    places = {each.where for each in there if each.schedule.name in wanted}
    if "kubeflow" in places:
        _recurring(profile).delete(wanted)
    if "crontab" in places:
        Crontab(profile.name).delete(wanted)
    return tuple(wanted)


def _recurring(profile: Profile) -> RecurringRuns:
    backend = _backend(profile)
    return RecurringRuns(backend.connection, profile, backend.api.scope())


def _backend(profile: Profile) -> KubeflowBackend:
    from evctl.backends.kubeflow.backend import KubeflowBackend

    return KubeflowBackend(profile)
