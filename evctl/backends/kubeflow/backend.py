"""`Backend` over Kubeflow Pipelines: one connection, asked as seldom as can be."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evctl.backends import spec as specs
from evctl.backends.base import (
    Artifact,
    Experiment,
    LogLine,
    Outputs,
    PipelineVersion,
    Run,
    RunQuery,
    RunRequest,
    RunState,
    RunSummary,
)
from evctl.backends.kubeflow import listing
from evctl.backends.kubeflow.api import Api
from evctl.backends.kubeflow.join import run_state
from evctl.backends.kubeflow.nodes import moment
from evctl.backends.kubeflow.reading import Reader
from evctl.backends.metadata.values import RunMetadata
from evctl.errors import (
    ConflictError,
    EvctlError,
    RefusedError,
    UnavailableError,
    UsageError,
)
from evctl.index import IndexEntry, RunIndex
from evctl.profile import PIPELINE_NAME, Profile

if TYPE_CHECKING:
    from evctl.backends.kubeflow.objects import Objects
    from evctl.backends.kubeflow.submitting import Submitter

MOVE_TIMEOUT_S = 30.0
"""How long a retried run may look as before: the API answers before its controller acts."""
MOVE_POLL_S = 1.0


class KubeflowBackend:
    """Runs on a Kubeflow."""

    def __init__(self, profile: Profile, connection: Any = None) -> None:
        if connection is None:
            from evctl.backends.kubeflow.connect import connect

            connection = connect(profile)
        self.profile, self.connection = profile, connection
        self.api = Api(connection, profile.namespace)
        self.index = RunIndex()
        places = profile.namespace, profile.kubeflow.system_namespace
        self._reader = Reader(connection, self.api, profile.name, *places)
        self._asked_to_end: dict[str, bool] = {}
        self._told: dict[str, tuple[str, bool]] = {}
        self._ended_here: set[str] = set()

    def submit(self, request: RunRequest) -> str:
        """Start a run, from the uploaded version or, without the cache, from a spec with caching off everywhere."""
        run_id = self._submitter().submit(request)
        # a state folder that cannot be written must not hide a run that was started; `status` asks the server too
        with contextlib.suppress(UnavailableError):
            self.index.add(IndexEntry(run_id, self.profile.name, "kubeflow", request.name, time.time()))
        return run_id

    def get(self, run_id: str) -> Run:
        """Return the run as API, ML Metadata, spec and pods together know it."""
        asked = self._cancel_requested(run_id)
        run = self._reader.run(run_id, cancel_requested=asked)
        if run.state is RunState.FAILED and not asked and run_id in self._cancelled():
            # another evctl of this machine asked meanwhile
            self._asked_to_end[run_id] = True
            run = self._reader.run(run_id, cancel_requested=True)
        if run.state is RunState.CANCELED and run_id in self._ended_here:
            run = replace(run, warnings=(*run.warnings, *self._reader.leftovers(run_id)))
        now = (run.state.value, run.model is not None)
        if run.finished and self._told.get(run_id) != now:
            self._told[run_id] = now
            # a state folder that can only be read still answers
            with contextlib.suppress(UnavailableError):
                self.index.update(run_id, state=now[0], registered=now[1])
        return run

    def list(self, query: RunQuery) -> Sequence[RunSummary]:
        """Return the newest runs of the profile's experiment, a page in memory at a time."""
        name = query.experiment or self.profile.experiment
        experiment = self.api.experiment_id(name)
        if experiment is None:
            return ()
        cancelled = self._cancelled()

        def rows(predicates: Sequence[Mapping[str, Any]]) -> Iterator[RunSummary]:
            found = self.api.runs(predicates=predicates, experiment_id=experiment, page=listing.page_size(query))
            return (listing.summary(run, self.profile.name, cancelled, name) for run in found)

        now = self._now()
        asked = listing.predicates_of(query)
        try:
            return listing.select(rows(asked), query, now)
        except UsageError:
            if not asked:
                raise
            # a server that cannot filter by state: look at each run here
            return listing.select(rows(()), query, now)

    def find(self, reference: str) -> Sequence[RunSummary]:
        """Return the runs of a name or whose id begins so, whoever started them, newest first."""
        cancelled = self._cancelled()
        return [
            listing.summary(run, self.profile.name, cancelled, None) for run in listing.matching(self.api, reference)
        ]

    def outputs(self, run_id: str) -> Outputs:
        """Return output parameters and artifacts of every task, cached ones included."""
        from evctl.backends.kubeflow.artifacts import outputs_of
        from evctl.backends.kubeflow.objects import with_sizes

        spec = self.api.spec_of(self.api.run(run_id))
        metadata = self.connection.metadata().read(run_id)
        found = outputs_of(run_id, metadata or RunMetadata(), specs.tree(spec) if spec else ())
        return Outputs(run_id, found.parameters, with_sizes(self.connection, found.artifacts))

    def fetch(self, artifact: Artifact, target: Path) -> Path:
        """Copy an artifact from the object store, verified."""
        return self._objects.fetch(artifact, target)

    @cached_property
    def _objects(self) -> Objects:
        from evctl.backends.kubeflow.objects import Objects

        return Objects(self.connection)

    def logs(
        self, run_id: str, task: str | None, *, follow: bool = False, tail: int | None = None
    ) -> Iterator[LogLine]:
        """Yield log lines: the pod's, else the API's archive, else the launcher's artifact."""
        from evctl.backends.kubeflow.logs import logs

        return logs(
            self.connection,
            run_id,
            task,
            look=lambda: self.get(run_id),
            metadata=lambda: self._reader.metadata(run_id)[0],
            follow=follow,
            tail=tail,
        )

    def cancel(self, run_id: str) -> None:
        """Ask for the end of a run, and remember it: a terminated run ends FAILED (kubeflow-facts 7)."""
        self._refuse_finished(run_id)
        with contextlib.suppress(UnavailableError):
            self._remember(run_id)
        try:
            self._terminate(run_id)
        except EvctlError:
            with contextlib.suppress(UnavailableError):
                self._forget(run_id)
            raise
        self._ended_here.add(run_id)

    def retry(self, run_id: str) -> None:
        """Give a failed run another life under its id, and see it move."""
        before = self.api.run(run_id)
        state = run_state(before, cancel_requested=self._cancel_requested(run_id))
        short = run_id[:8]
        if state in (RunState.RUNNING, RunState.PENDING):
            raise ConflictError(f"run {short} is still running", hint=f"evctl cancel {short}")
        if state in (RunState.SUCCEEDED, RunState.SKIPPED):
            raise ConflictError(f"run {short} succeeded; there is nothing to retry", hint="evctl run")
        try:
            self.api.retry(run_id)
        except ConflictError as error:
            raise ConflictError(
                f"run {short} cannot be retried: Kubeflow takes only failed runs whose workflow is still kept "
                f"({error.message})",
                hint="evctl run starts a new one; what succeeded comes from the cache",
            ) from error
        except UnavailableError:
            if not _moved(before, self.api.run(run_id)):
                raise
        with contextlib.suppress(UnavailableError):
            self._forget(run_id)
        self._told.pop(run_id, None)
        deadline = time.monotonic() + MOVE_TIMEOUT_S
        while not _moved(before, self.api.run(run_id)):
            if time.monotonic() > deadline:
                raise RefusedError(
                    f"run {short} was accepted for a retry and has not moved in {MOVE_TIMEOUT_S:g} s", hint="evctl run"
                )
            time.sleep(MOVE_POLL_S)

    def upload(self, package: Path, digest: str, *, description: str, set_default: bool) -> PipelineVersion:
        """Keep a version named by content, with tags and description; the same content again is `unchanged`."""
        return self._submitter().upload(package, digest, description=description, set_default=set_default)

    def version_ids(self, package: Path, digest: str) -> tuple[str, str, str]:
        """Return (pipeline, version, experiment) ids of a package, uploading and making what is missing."""
        submitter = self._submitter()
        pipeline, version = submitter.version_of(package, digest, f"profile {self.profile.name}")
        return pipeline, version, submitter.experiment_id()

    def latest_version(self) -> tuple[PipelineVersion, Mapping[str, Any]] | None:
        """Return the newest uploaded version and its pipeline spec; None if there is none."""
        pipeline = self.api.pipeline_id(PIPELINE_NAME)
        newest = self.api.newest_version(pipeline) if pipeline else None
        if newest is None:
            return None
        spec, _ = specs.unwrap(newest.get("pipeline_spec"))
        return (self._submitter().shown(newest), spec) if spec is not None else None

    def experiments(self) -> Sequence[Experiment]:
        """Return the experiments of the server (of the namespace, where users are kept apart)."""
        return tuple(
            Experiment(
                str(each["experiment_id"]),
                str(each.get("display_name") or ""),
                moment(each.get("created_at")),
                str(each.get("description") or ""),
            )
            for each in self.api.experiments()
        )

    def _now(self) -> datetime:
        """Return the server's time: an hour's skew must not hide the runs of the last half hour."""
        transport = getattr(self.connection, "transport", None)
        return datetime.now(UTC) + timedelta(seconds=(transport().skew_s if transport else None) or 0.0)

    def _submitter(self) -> Submitter:
        from evctl.backends.kubeflow.submitting import Submitter

        return Submitter(self.connection, self.api, self.profile)

    def _refuse_finished(self, run_id: str) -> None:
        state = run_state(self.api.run(run_id), cancel_requested=self._cancel_requested(run_id))
        if state not in (RunState.RUNNING, RunState.PENDING):
            raise ConflictError(f"run {run_id[:8]} has ended already: {state.value}", hint=f"evctl status {run_id[:8]}")

    def _terminate(self, run_id: str) -> None:
        try:
            self.api.terminate(run_id)
        except UsageError:
            self._refuse_finished(run_id)  # it ended in between
            raise
        except UnavailableError:
            if self.api.run(run_id).get("state") in ("RUNNING", "PENDING"):
                self.api.terminate(run_id)  # else the answer was lost, and its effect was not

    def _forget(self, run_id: str) -> None:
        self._asked_to_end[run_id] = False
        self.index.mark_cancel_requested(run_id, asked=False)

    def _remember(self, run_id: str) -> None:
        if not any(entry.run_id == run_id for entry in self.index.all(self.profile.name)):
            document = self.api.run(run_id)
            name = str(document.get("display_name") or run_id)
            created = moment(document.get("created_at")) or datetime.now(UTC)
            self.index.add(IndexEntry(run_id, self.profile.name, "kubeflow", name, created.timestamp()))
        self.index.mark_cancel_requested(run_id)
        self._asked_to_end[run_id] = True

    def _cancel_requested(self, run_id: str) -> bool:
        if run_id not in self._asked_to_end:
            self._asked_to_end[run_id] = run_id in self._cancelled()
        return self._asked_to_end[run_id]

    def _cancelled(self) -> frozenset[str]:
        """Return the runs whose end was asked for from here."""
        try:
            return frozenset(entry.run_id for entry in self.index.all() if entry.cancel_requested)
        except EvctlError:
            return frozenset()


def _moved(before: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    """Whether a retry has begun: the run goes again, or has already ended another time."""
    if run_state(now) in (RunState.RUNNING, RunState.PENDING):
        return True
    return any(before.get(key) != now.get(key) for key in ("finished_at", "state"))
