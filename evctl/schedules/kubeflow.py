"""Schedules as KFP's recurring runs, named `evctl <env> <name>`; those of other people are never touched.

KFP cannot change a recurring run: the new one is made before the old one goes, so that a failure leaves one that fires.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from evctl.errors import NotFoundError
from evctl.profile import Profile
from evctl.schedules.base import Schedule, Standing, Step, changes, kubeflow_cron

API = "/apis/v2beta1/recurringruns"
PAGE = 200
"""The most that KFP gives at once; it clamps what is over (kubeflow-facts 9)."""


class Requests(Protocol):
    """What is needed of a connection: JSON over the KFP API."""

    def request(
        self, method: str, path: str, *, query: Mapping[str, Any] | None = None, body: Any = None, raw: bool = False
    ) -> Any:
        """Return the answer's document."""
        ...


@dataclass(frozen=True, slots=True)
class Target:
    """What a recurring run starts: an uploaded version, in an experiment."""

    pipeline_id: str
    version_id: str
    experiment_id: str

    def detail(self) -> str:
        """Return what a standing recurring run must agree with."""
        return f"{self.version_id} {self.experiment_id}"


class RecurringRuns:
    """The recurring runs of one environment."""

    def __init__(self, connection: Requests, profile: Profile, scope: Mapping[str, str] | None = None) -> None:
        # a server for one user refuses a namespace, one for many wants it
        self.connection, self.profile, self.scope = connection, profile, dict(scope or {})
        self.prefix = f"evctl {profile.name} "

    def standing(self) -> tuple[Standing, ...]:
        """Return this environment's recurring runs, oldest first."""
        found: list[Mapping[str, Any]] = []
        token = ""
        while True:
            query = {"page_size": PAGE, "page_token": token, **self.scope}
            answer = self.connection.request("GET", API, query={key: value for key, value in query.items() if value})
            found += answer.get("recurringRuns") or ()
            token = answer.get("next_page_token") or ""
            if not token:
                break
        ours = [each for each in found if str(each.get("display_name", "")).startswith(self.prefix)]
        return tuple(self._standing(each) for each in sorted(ours, key=lambda each: str(each.get("created_at"))))

    def apply(self, wanted: Sequence[Schedule], target: Target | None, *, prune: bool = False) -> tuple[Step, ...]:
        """Make what is declared stand there.

        Args:
            target: what they start; may be None only where nothing is wanted.
        """
        there = self.standing()
        detail = target.detail() if target else ""
        steps = changes([(schedule, detail) for schedule in wanted], there, "kubeflow", prune=prune)
        for step in steps:
            old = [each for each in there if each.schedule.name == step.name]
            if step.change == "deleted":
                self._delete(old)
            elif step.change in ("created", "updated") and target is not None:
                self._put(step.schedule, old, target)
        return steps

    def delete(self, names: Sequence[str]) -> None:
        """Take schedules away."""
        self._delete([each for each in self.standing() if each.schedule.name in names])

    def _put(self, schedule: Schedule, old: Sequence[Standing], target: Target) -> None:
        if len(old) == 1 and replace(old[0].schedule, enabled=schedule.enabled) == schedule:
            same = old[0].detail == target.detail()
            if same and old[0].schedule.enabled != schedule.enabled:
                verb = "enable" if schedule.enabled else "disable"
                self.connection.request("POST", f"{API}/{old[0].key}:{verb}")
                return
        self.connection.request("POST", API, body=self._body(schedule, target))
        self._delete(old)

    def _delete(self, old: Sequence[Standing]) -> None:
        for each in old:
            try:
                self.connection.request("DELETE", f"{API}/{each.key}")
            except NotFoundError:  # somebody else was faster
                continue

    def _body(self, schedule: Schedule, target: Target) -> dict[str, Any]:
        settings = self.profile.kubeflow
        config: dict[str, Any] = {"parameters": dict(schedule.parameters)}
        if settings.pipeline_root:
            config["pipeline_root"] = settings.pipeline_root
        body: dict[str, Any] = {
            "display_name": self.prefix + schedule.name,
            "description": f"declared in profile {self.profile.name}; evctl schedule apply",
            "pipeline_version_reference": {
                "pipeline_id": target.pipeline_id,
                "pipeline_version_id": target.version_id,
            },
            "runtime_config": config,
            "trigger": {"cron_schedule": {"cron": kubeflow_cron(schedule.cron)}},
            "mode": "ENABLE" if schedule.enabled else "DISABLE",
            "max_concurrency": str(schedule.max_concurrency),
            "no_catchup": not schedule.catchup,
            "experiment_id": target.experiment_id,
            **self.scope,
        }
        if settings.service_account:
            body["service_account"] = settings.service_account
        return body

    def _standing(self, entry: Mapping[str, Any]) -> Standing:
        trigger = (entry.get("trigger") or {}).get("cron_schedule") or {}
        cron = str(trigger.get("cron") or "")
        version = (entry.get("pipeline_version_reference") or {}).get("pipeline_version_id", "")
        schedule = Schedule(
            name=str(entry["display_name"]).removeprefix(self.prefix),
            verb="run",
            cron=cron.partition(" ")[2] if cron.startswith("0 ") and len(cron.split()) == 6 else cron,
            parameters=(entry.get("runtime_config") or {}).get("parameters") or {},
            # the status follows the mode, when its controller has looked
            enabled=(entry.get("mode") or entry.get("status")) in ("ENABLE", "ENABLED"),
            max_concurrency=int(entry.get("max_concurrency") or 1),
            catchup=not entry.get("no_catchup", False),
        )
        return Standing(schedule, "kubeflow", str(entry["recurring_run_id"]), f"{version} {entry.get('experiment_id')}")
