"""The process that runs one pipeline: started by `submit`, detached, alone in its run folder.

python -m evctl.backends.local.worker RUN_FOLDER LOCK_FD
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from evctl.backends.local.content import source_commit
from evctl.backends.local.folder import FULL, RunFolder
from evctl.backends.local.forks import Forks, modules_of
from evctl.backends.local.kfp_local import GOOD, Tracker
from evctl.backends.local.mounts import SecretCopies, mounts_of
from evctl.backends.local.reader import to_run
from evctl.backends.local.recorder import Recorder
from evctl.backends.spec import Node, tree
from evctl.documents import run_document
from evctl.errors import UnavailableError
from evctl.index import RunIndex

POLL_S = 0.1


def main(folder: RunFolder) -> None:
    """Run the pipeline of a run folder to its end."""
    request = folder.request()
    recorder = Recorder(folder, to_go_on_with(folder))
    home = folder.path.parent.parent
    try:
        recorder.begin_run()
        _work(folder, request, recorder, home)
        _finish(recorder, None)
    except BaseException as error:
        traceback.print_exc()
        _finish(recorder, f"the worker failed: {_said(error, folder)}")
    finally:
        folder.sweep()
    final = recorder.document
    # the next look at the run tells the ledger too
    with contextlib.suppress(UnavailableError):
        RunIndex(home).update(folder.run_id, state=final["state"], registered=final.get("model") is not None)


def _work(folder: RunFolder, request: Mapping[str, Any], recorder: Recorder, home: Path) -> None:
    import yaml

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    documents = list(yaml.load_all(folder.package.read_text(), loader))
    nodes = tree(documents[0])
    with contextlib.ExitStack() as stack:
        # elsewhere a library's threads may not outlive a fork
        forks = Forks(modules_of(_programs(documents[0], nodes))) if sys.platform == "linux" else None
        if forks is not None:
            stack.callback(forks.close)
        tracker = _tracker(folder, request, recorder, home, documents, nodes, forks)
        threading.Thread(target=_watch_for_cancel, args=(folder, tracker, recorder), daemon=True).start()
        _run(folder, request, tracker, home)


def _tracker(
    folder: RunFolder,
    request: Mapping[str, Any],
    recorder: Recorder,
    home: Path,
    documents: Sequence[Mapping[str, Any]],
    nodes: tuple[Node, ...],
    forks: Forks | None,
) -> Tracker:
    exits = frozenset(node.name for node in nodes if node.always_runs)
    mounts = mounts_of(documents)
    secrets = SecretCopies(home / "secrets", folder.new_scratch("secrets-"))
    scratch = folder.path / "tmp"
    scratch.mkdir(exist_ok=True)
    commit = os.environ.get("EV_GIT_COMMIT") or source_commit()

    def step_env(task: str) -> dict[str, str]:
        env = {"TMPDIR": str(scratch), "EVCTL_HOME": str(home), "EV_GIT_COMMIT": commit}
        if mount := mounts.get(task):
            env.update(secrets.variables(mount))
            env["EV_SECRETS_DIR"] = os.environ.get("EV_SECRETS_DIR") or str(secrets.folder(task, mount))
        if task in exits:
            folder.write(folder.path / "outcome.json", json.dumps(_outcome(recorder.document, nodes)))
            env["EVCTL_RUN_RECORD"] = str(folder.path / "outcome.json")
        return env

    return Tracker(
        recorder,
        run_id=folder.run_id,
        new_log=folder.new_log,
        timeouts={task: mount.timeout_s for task, mount in mounts.items() if mount.timeout_s},
        step_env=step_env,
        exit_tasks=exits,
        use_cache=bool(request["use_cache"]),
        forks=forks,
    )


def _programs(spec: Mapping[str, Any], nodes: Sequence[Node]) -> Iterator[str]:
    """Yield the components' sources in the order of the flow."""
    executors = spec["deploymentSpec"]["executors"]
    for node in nodes:
        command = executors.get(f"exec-{node.key}", {}).get("container", {}).get("command", ())
        yield from command[3:4]
        yield from _programs(spec, node.children)


def _said(error: BaseException, folder: RunFolder) -> str:
    if isinstance(error, OSError) and error.errno in FULL:
        return f"no space left on the disk of {folder.path}"
    return " ".join(str(error).split())[:300] or type(error).__name__


def to_go_on_with(folder: RunFolder) -> dict[str, Any]:
    """Return the record a worker starts from: of an earlier worker's only what succeeded is still so."""
    document = folder.record()
    document["tasks"] = {name: entry for name, entry in document["tasks"].items() if entry.get("state") in GOOD}
    document.pop("warnings", None)
    return document


def _run(folder: RunFolder, request: Mapping[str, Any], tracker: Tracker, home: Path) -> None:
    from kfp import components, local
    from kfp.local import pipeline_orchestrator

    logging.getLogger().setLevel(logging.WARNING)
    local.init(
        runner=local.SubprocessRunner(use_venv=False),
        pipeline_root=str(folder.artifacts),
        raise_on_error=False,
        enable_caching=True,
        cache_root=str(home / "cache"),
    )
    tracker.install()
    pipeline = components.load_component_from_file(str(folder.package))
    pipeline_orchestrator.run_local_pipeline(pipeline.pipeline_spec, dict(request["parameters"]))


def _finish(recorder: Recorder, reason: str | None) -> None:
    """Judge the run by its tasks: cancelled when that ended one, failed when one failed.

    A cancel that came when only the notification was left has ended nothing.
    """
    document = recorder.document
    if document.get("failures") and reason is None:
        task, said = document["failures"][0]
        reason = f"{task}: {said}"
    state = "FAILED" if reason else "SUCCEEDED"
    if any(entry["state"] == "CANCELED" for entry in document["tasks"].values()):
        state, reason = "CANCELED", "cancelled on request"
    recorder.event("run_finished", state=state, reason=reason)
    recorder.set(state=state, reason=reason, finished_at=time.time())


def _watch_for_cancel(folder: RunFolder, tracker: Tracker, recorder: Recorder) -> None:
    while not folder.cancel_file.exists():
        time.sleep(POLL_S)
    try:
        recorder.set(cancel_requested=True)
        recorder.event("cancel_requested")
    finally:
        tracker.cancel()


def _outcome(document: Mapping[str, Any], nodes: tuple[Node, ...]) -> dict[str, Any]:
    """Return the run's record as its exit handler is told it: what the tasks did so far."""
    told = run_document(to_run(document, nodes, alive=True))
    return {**told, "cancel_requested": document.get("cancel_requested", False)}


def _leave(number: int, frame: FrameType | None) -> None:
    """End in order when asked to: the record says so and the secrets are removed."""
    raise SystemExit(f"ended by {signal.Signals(number).name}")


if __name__ == "__main__":
    # the lock's descriptor is inherited and only has to stay open
    signal.signal(signal.SIGTERM, _leave)
    main(RunFolder(Path(sys.argv[1])))
