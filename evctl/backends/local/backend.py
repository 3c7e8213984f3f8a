"""`Backend` over run folders: starts workers, reads their records. Never imports kfp."""

from __future__ import annotations

import contextlib
import shutil
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

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
from evctl.backends.local.content import tree_digest
from evctl.backends.local.folder import FULL_BYTES, RunFolder, write_atomically
from evctl.backends.local.launching import launch, relaunch
from evctl.backends.local.logs import follow_logs, read_logs
from evctl.backends.local.reader import WORKER_DIED, moment, to_run
from evctl.backends.partial import OLD, WRITABLE, partial_copy
from evctl.backends.spec import Node, tree
from evctl.errors import ConflictError, ElsewhereError, EvctlError, FailedError, NotFoundError, UnavailableError
from evctl.index import RunIndex
from evctl.profile import Profile
from evctl.state import home


class LocalBackend:
    """Runs on this machine."""

    def __init__(self, profile: Profile) -> None:
        self.profile = profile
        self.home = home()

    def submit(self, request: RunRequest) -> str:
        """Make the run folder and start its worker, detached; nothing is left when that cannot be done."""
        return launch(self.profile, self.home, request)

    def get(self, run_id: str) -> Run:
        """Return the run as its record says; a dead worker's run has failed."""
        folder = self._folder(run_id)
        # asked before the record is read: a worker that ends in between has written its last word
        alive = folder.alive()
        run = to_run(folder.record(), _nodes(folder), alive=alive, why_died=_why_died(folder))
        if run.finished:
            if not alive:
                folder.sweep_when_dead()
            # a state folder that can only be read still answers
            with contextlib.suppress(UnavailableError):
                RunIndex(self.home).update(run_id, state=run.state.value, registered=run.model is not None)
        return run

    def list(self, query: RunQuery) -> Sequence[RunSummary]:
        """Return this environment's runs, newest first."""
        oldest = time.time() - query.since.total_seconds() if query.since else 0.0
        found: list[RunSummary] = []
        for entry in RunIndex(self.home).all(self.profile.name):
            if len(found) >= query.limit or entry.created_at < oldest:
                break
            if not (self.home / "runs" / entry.run_id).is_dir():
                continue
            try:
                run = self.get(entry.run_id)
            except EvctlError as error:
                print(f"warning: run {entry.run_id[:8]} is left out: {error.message}", file=sys.stderr)
                continue
            if not query.states or run.state in query.states:
                found.append(
                    RunSummary(
                        run.run_id,
                        run.name,
                        run.env,
                        run.state,
                        run.created_at,
                        run.finished_at,
                        str(run.parameters.get("data_version", "")),
                        self.profile.experiment,
                        run.gate.accuracy,
                        run.model.version if run.model else None,
                    )
                )
        return found

    def outputs(self, run_id: str) -> Outputs:
        """Return what the tasks gave out; a cached task's artifacts are in the older run's folder."""
        parameters: dict[str, Any] = {}
        artifacts: list[Artifact] = []
        folder = self._folder(run_id)
        recorded = folder.record()["tasks"]
        for task in _task_names(_nodes(folder)):
            # kfp keeps them in a protobuf map, which has another order each time
            for key, value in sorted((recorded.get(task, {}).get("outputs") or {}).items()):
                if isinstance(value, dict) and value.get("__kfp_artifact__"):
                    artifacts.append(_artifact(task, key, value, recorded[task].get("digests", {}).get(key)))
                else:
                    parameters[f"{task}.{key}"] = value
        return Outputs(run_id, parameters, tuple(artifacts))

    def fetch(self, artifact: Artifact, target: Path) -> Path:
        """Copy an artifact to `target`, replacing what is there; nothing is there until all of it is.

        Raises:
            NotFoundError: it is gone. ElsewhereError: it never was a file of this machine.
            FailedError: the copy is not what the task wrote. UnavailableError: no room, no right.
        """
        scheme, colon, _ = artifact.uri.partition("://")
        if artifact.path is None and (not artifact.uri or (colon and scheme != "file")):
            what = f"{scheme}: {artifact.uri}" if colon else "an empty address"
            raise ElsewhereError(f"evctl does not copy from {what}", hint="copy it by hand")
        source = Path(artifact.path or artifact.uri.removeprefix("file://"))
        if not source.exists():
            raise NotFoundError(
                f"artifact {artifact.task}.{artifact.name} is no longer at {source}", hint="evctl run makes it again"
            )
        with partial_copy(target) as work:
            try:
                copy = work / "content"
                if source.is_dir():
                    shutil.copytree(source, copy)
                else:
                    shutil.copyfile(source, copy)
                if artifact.digest is not None and tree_digest([copy]) != artifact.digest:
                    raise FailedError(
                        f"artifact {artifact.task}.{artifact.name} at {source} is not what the task wrote",
                        hint="evctl run --no-cache makes it anew",
                    )
                if target.exists():
                    target.replace(work / OLD)
                copy.replace(target)
            except OSError as error:
                raise UnavailableError(
                    f"{target} cannot be written: {error.strerror or error}", hint=WRITABLE
                ) from error
        return target

    def logs(
        self, run_id: str, task: str | None, *, follow: bool = False, tail: int | None = None
    ) -> Iterator[LogLine]:
        """Yield log lines; with `follow` until the run, or the task, has ended."""
        folder = self._folder(run_id)
        known = _task_names(_nodes(folder))
        names = [task] if task else known
        if task and task not in known:
            raise NotFoundError(f"run {run_id[:8]} has no task {task}", hint=f"evctl status {run_id[:8]}")
        for name in names:
            if follow:
                yield from follow_logs(lambda: self.get(run_id), folder, name)
            else:
                yield from read_logs(folder, name, tail)

    def cancel(self, run_id: str) -> None:
        """Ask the worker to end the run; the exit handler still runs."""
        run = self.get(run_id)
        if run.finished:
            raise ConflictError(
                f"run {run_id[:8]} has ended already: {run.state.value}", hint=f"evctl status {run_id[:8]}"
            )
        folder = self._folder(run_id)
        try:
            # this is what the worker looks for; on a full disk it still can be made, and the ledger not be written
            folder.cancel_file.touch()
        except OSError as error:
            raise UnavailableError(
                f"{folder.cancel_file} cannot be made: {error.strerror or error}",
                hint="is EVCTL_HOME writable, and the disk not full?",
            ) from error
        with contextlib.suppress(UnavailableError):
            RunIndex(self.home).mark_cancel_requested(run_id)

    def retry(self, run_id: str) -> None:
        """Start a worker on the same folder: what succeeded is kept."""
        run = self.get(run_id)
        if not run.finished:
            raise ConflictError(f"run {run_id[:8]} is still running", hint=f"evctl cancel {run_id[:8]}")
        if run.state is RunState.SUCCEEDED:
            raise ConflictError(f"run {run_id[:8]} succeeded; there is nothing to retry", hint="evctl run")
        relaunch(self._folder(run_id))

    def upload(self, package: Path, digest: str, *, description: str, set_default: bool) -> PipelineVersion:
        """Keep the package under its digest in the state folder."""
        target = self.home / "uploads" / f"{digest[:12]}.yaml"
        known = target.exists()
        if not known:
            try:
                target.parent.mkdir(parents=True, exist_ok=True)
                write_atomically(target, package.read_text())
            except OSError as error:
                raise UnavailableError(
                    f"{target} cannot be written: {error.strerror or error}",
                    hint="is EVCTL_HOME writable, and the disk not full?",
                ) from error
        return _version(target, digest, unchanged=known, description=description)

    def latest_version(self) -> tuple[PipelineVersion, Mapping[str, Any]] | None:
        """Return the newest kept package."""
        import yaml

        kept = sorted((self.home / "uploads").glob("*.yaml"), key=lambda path: path.stat().st_mtime)
        if not kept:
            return None
        return _version(kept[-1], kept[-1].stem), next(yaml.safe_load_all(kept[-1].read_text()))

    def experiments(self) -> Sequence[Experiment]:
        """Return the profile's experiment, if it has runs here."""
        entries = RunIndex(self.home).all(self.profile.name)
        if not entries:
            return ()
        return (Experiment(self.profile.experiment, self.profile.experiment, moment(entries[-1].created_at)),)

    def _folder(self, run_id: str) -> RunFolder:
        folder = RunFolder(self.home / "runs" / run_id)
        if not folder.path.is_dir():
            raise NotFoundError(f"no run {run_id} on this machine", hint="evctl runs")
        return folder


def _why_died(folder: RunFolder) -> str:
    free = shutil.disk_usage(folder.path).free
    return f"{WORKER_DIED}; the disk of {folder.path} is full" if free < FULL_BYTES else WORKER_DIED


def _nodes(folder: RunFolder) -> tuple[Node, ...]:
    try:
        return _parsed(folder.package.read_text())
    except (OSError, ValueError) as error:
        raise UnavailableError(f"{folder.package} cannot be read: {error}", hint="evctl run submits it anew") from error


@cache
def _parsed(package: str) -> tuple[Node, ...]:
    """Return a package's nodes; runs of one pipeline share them."""
    import yaml

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        return tree(next(iter(yaml.load_all(package, loader))))
    except (yaml.YAMLError, StopIteration, AttributeError) as error:
        raise ValueError("not a compiled pipeline") from error


def _task_names(nodes: Sequence[Node]) -> list[str]:
    names: list[str] = []
    for node in nodes:
        names += [node.name] if node.kind == "task" else _task_names(node.children)
    return names


def _artifact(task: str, name: str, value: Mapping[str, Any], digest: str | None) -> Artifact:
    path = Path(str(value["uri"]).removeprefix("file://"))
    size = None
    named = bool(value["uri"])  # an empty path is the folder that evctl was called in
    if named and path.is_dir():
        size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    elif named and path.exists():
        size = path.stat().st_size
    metadata = {key: each for key, each in value.get("metadata", {}).items() if key != "summary"}
    where = str(path) if size is not None else None
    return Artifact(task, name, value["schema_title"], str(value["uri"]), where, size, metadata, digest)


def _version(path: Path, digest: str, *, unchanged: bool = False, description: str = "") -> PipelineVersion:
    created = datetime.fromtimestamp(path.stat().st_mtime, UTC)
    return PipelineVersion("ev-battery-health-fault-pipeline", digest[:12], digest, created, unchanged, description)
