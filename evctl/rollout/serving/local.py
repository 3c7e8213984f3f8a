"""The service on one machine: a front with the stable address, and a KServe server a release behind it.

A server of its own for each release, and not one process that swaps models: a bundle that crashes or fills the memory
takes its own process down and nothing else, and unpickling never stops the live model's answers.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from evctl import state
from evctl.errors import NotFoundError, RefusedError, UnavailableError, trim
from evctl.rollout.files import FileLease, FileLedger, write_atomic
from evctl.rollout.ledger import Release
from evctl.rollout.serving import door as front_door
from evctl.rollout.serving.base import ProofError, Serving
from evctl.rollout.serving.golden import call, prove_at
from evctl.rollout.serving.keeper import last_words, read_roles, start_server
from evctl.rollout.serving.kept import kept_bundle, prune
from evctl.rollout.serving.processes import Process, announced
from evctl.rollout.target import ServiceTarget

POLL_S, ASK_S = 0.05, 60.0


class LocalWorld:
    """`ServingWorld` on this machine; everything it knows is under `EVCTL_HOME/serving/<service>/`."""

    def __init__(self, target: ServiceTarget) -> None:
        self._target = target
        self.folder = state.home() / "serving" / target.name

    def ledger(self) -> FileLedger:
        """Return the ledger."""
        return FileLedger(self.folder / "releases.json")

    def lease(self, by: str) -> FileLease:
        """Return the lease."""
        return FileLease(self.folder / "lease.json", by=by)

    def read(self) -> Serving:
        """Return what serves now, asked of the front itself."""
        record = self._record()
        if "port" not in record:
            return Serving("absent")
        url = f"http://127.0.0.1:{record['port']}"
        door, left = self._process("front"), read_roles(self.folder).get("current")
        if not (door and door.alive):
            detail = "the front is gone, its model server runs" if left and left.alive else "nothing runs"
            return Serving("stopped", url=url, detail=detail)
        told = front_door.told(self.folder, door)
        now = told.get("state")
        if now == "serving":
            pids = {"pid": told["pid"], "front_pid": door.pid, "starts": told["starts"]}
            return Serving("serving", digest=told["digest"], url=url, extra=pids)
        if now == "restarting":
            detail = f"the model server ended ({told['said']}) and is being started again"
        else:
            detail = "no model server was started" if now else "the front does not answer"
        return Serving("failing", digest=told.get("digest"), url=url, detail=detail)

    def ask(self, method: str, path: str, document: Any) -> tuple[int, Any]:
        """Send a request to the stable address."""
        try:
            return call(int(self._record().get("port") or 0), method, path, document, timeout_s=ASK_S)
        except OSError as error:
            told = f"{self._target.name} does not answer: {trim(str(error))}"
            raise UnavailableError(told, hint="evctl serving") from error

    def spec(self, manifest: Mapping[str, Any], uri: str) -> Mapping[str, Any]:
        """Return what makes the release again."""
        return {
            "kind": "local",
            "service": self._target.name,
            "storageUri": uri,
            "digest": manifest["digest"],
        }

    def preflight(self, release: Release, *, canary: int | None) -> Sequence[str]:
        """Fetch the bundle and verify it. RefusedError for a canary and for a bundle that does not verify."""
        if canary is not None:
            raise RefusedError(
                "a canary needs a traffic split, and one machine serves one model",
                hint="promote without --canary, or --env with a Knative service",
            )
        try:
            self._bundle(release)
        except NotFoundError as error:
            raise RefusedError(f"the bundle is not whole: {error.message}", hint="evctl models list") from error
        return ()

    def may_change(self, *, canary: int | None) -> None:
        """Nothing to check: what is under EVCTL_HOME is its owner's."""

    def apply(self, release: Release, *, canary: int | None = None) -> None:
        """Start the release's server beside the one that serves."""
        self._drop_candidate()
        self._bundle(release)
        started, _ = start_server(self.folder, self._target.name, release.digest, release.revision)
        self._save(candidate=started.to_json())

    def prove(self, release: Release, deadline_s: float) -> Iterator[str]:
        """Wait for the server, then send it the golden rows."""
        deadline = time.monotonic() + deadline_s
        server = self._server_of(release)
        yield "starting the model server"
        while not server.port:
            if not server.alive:
                raise ProofError(f"the model server ended: {last_words(self.folder, release.revision)}")
            if time.monotonic() > deadline:
                raise ProofError(f"the model server was not ready within {deadline_s:.0f} s")
            port = announced(self.folder / f"port-{release.revision}", server.pid)
            if port is None:
                time.sleep(POLL_S)
                continue
            server = Process(server.pid, server.started, port, server.digest, server.revision)
            self._save(candidate=server.to_json())
        self._prove_at(server.port, release)
        yield "golden rows answered as recorded"

    def commit(self, release: Release, *, canary: int | None = None) -> None:
        """Switch the front to the proved server, ask again through the front, then end the old server."""
        server, door = self._server_of(release), self._front()
        front_door.switch(self.folder, door, server)
        self._prove_at(door.port, release)
        self._save(candidate=None)
        front_door.retire(self.folder, door, server)
        prune(self.folder, self.ledger().read()[0])

    def undo(self, failed: Release, previous: Release | None) -> None:
        """End the failed server; the previous one answers again, started anew where it is gone, and is proved."""
        if previous is None:
            self.stop()
            return
        old = next((each for each in read_roles(self.folder).values() if self._answers(each, previous)), None)
        if old is None:
            self.start(previous)
            return
        door = self._front()
        front_door.switch(self.folder, door, old)
        front_door.retire(self.folder, door, old)
        self._drop_candidate()
        self._prove_at(door.port, previous)

    def start(self, release: Release) -> None:
        """Bring a release's server and the front up, proved."""
        self.apply(release)
        for _ in self.prove(release, self._target.proof_timeout_s):
            pass
        self.commit(release)

    def stop(self) -> None:
        """End the front and every server; the address and the releases stay known."""
        # the front first: it would start its server again
        for process in (self._process("front"), self._process("candidate")):
            if process:
                process.stop()
        for process in read_roles(self.folder).values():
            process.stop()
        if self._record():
            self._save(front=None, candidate=None)

    def _bundle(self, release: Release) -> Path:
        return kept_bundle(self.folder, self._target, release)

    def _prove_at(self, port: int, release: Release) -> None:
        prove_at(port, self._target.name, self._bundle(release), version=release.model, digest=release.digest)

    def _answers(self, server: Process, release: Release) -> bool:
        # a process that is being torn down still counts as alive, and one that hangs does for ever: only answers tell
        if not (server.alive and server.port and server.revision == release.revision):
            return False
        try:
            self._prove_at(server.port, release)
        except ProofError:
            return False
        return True

    def _front(self) -> Process:
        door = self._process("front")
        if door and door.alive:
            return door
        door = front_door.open_front(self.folder, self._record().get("port") or self._target.port, self._target.name)
        self._save(front=door.to_json(), port=door.port)
        return door

    def _server_of(self, release: Release) -> Process:
        found = [self._process("candidate"), *read_roles(self.folder).values()]
        server = next((each for each in found if each and each.revision == release.revision and each.alive), None)
        server = server or next((each for each in found if each and each.revision == release.revision), None)
        if server is None:
            raise ProofError(f"no model server of {release.model} was started")
        return server

    def _drop_candidate(self) -> None:
        if process := self._process("candidate"):
            now = read_roles(self.folder).get("current")
            if now is None or now.pid != process.pid:
                process.stop()
            self._save(candidate=None)

    def _process(self, role: str) -> Process | None:
        document = self._record().get(role)
        return Process(**document) if document else None

    def _record(self) -> dict[str, Any]:
        try:
            document: dict[str, Any] = json.loads((self.folder / "service.json").read_text())
        except FileNotFoundError:
            return {}
        return document

    def _save(self, **changes: Any) -> None:
        record = {key: value for key, value in {**self._record(), **changes}.items() if value is not None}
        write_atomic(self.folder / "service.json", json.dumps(record, indent=1))
