"""The service on one machine: a front with the stable address, and a KServe server a release behind it.

A server of its own for each release, and not one process that swaps models: a bundle that crashes or fills the memory
takes its own process down and nothing else, and unpickling never stops the live model's answers.
"""

from __future__ import annotations

import json
import secrets
import shutil
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from evctl import state
from evctl.errors import FailedError, NotFoundError, RefusedError, trim
from evctl.rollout.files import FileLease, FileLedger, write_atomic
from evctl.rollout.ledger import Release
from evctl.rollout.registry import fetch
from evctl.rollout.serving import front
from evctl.rollout.serving.base import ProofError, Serving
from evctl.rollout.serving.golden import call, prove_at
from evctl.rollout.serving.processes import Process, announced, spawn
from evctl.rollout.target import ServiceTarget

POLL_S = 0.05
FRONT_START_S = 15.0


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
        if "port" not in self._record():
            return Serving("absent")
        url = f"http://127.0.0.1:{self._record()['port']}"
        door, backend = self._process("front"), self._process("backend")
        if not (door and door.alive):
            detail = "nothing runs" if not (backend and backend.alive) else "the front is gone, its model server runs"
            return Serving("stopped", url=url, detail=detail)
        upstream = self._upstream(door)
        serves = next((p for p in (backend, self._process("candidate")) if p and p.port == upstream.get("port")), None)
        if serves is None or not serves.alive:
            return Serving("failing", url=url, detail="the model server is gone; `evctl serving start` starts it again")
        return Serving("serving", digest=serves.digest, url=url, extra={"pid": serves.pid, "front_pid": door.pid})

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
        except FailedError as error:
            raise RefusedError(error.message, hint=error.hint) from error
        return ()

    def apply(self, release: Release, *, canary: int | None = None) -> None:
        """Start the release's server beside the one that serves."""
        self._drop_candidate()
        announce = self.folder / f"port-{release.revision}"
        announce.unlink(missing_ok=True)
        command = [sys.executable, "-m", "ev_serving", "--bundle", str(self._bundle(release))]
        command += ["--name", self._target.name, "--announce", str(announce)]
        started = spawn(command, self._log(release))
        self._save(candidate={**started.to_json(), "digest": release.digest})

    def prove(self, release: Release, deadline_s: float) -> Iterator[str]:
        """Wait for the server, then send it the golden rows."""
        deadline = time.monotonic() + deadline_s
        server = self._server_of(release)
        yield "starting the model server"
        while not server.port:
            if not server.alive:
                raise ProofError(f"the model server ended: {self._last_words(release)}")
            if time.monotonic() > deadline:
                raise ProofError(f"the model server was not ready within {deadline_s:.0f} s")
            port = announced(self.folder / f"port-{release.revision}", server.pid)
            if port is None:
                time.sleep(POLL_S)
                continue
            server = Process(server.pid, server.started, port, server.digest)
            self._save(candidate=server.to_json())
        prove_at(
            server.port,
            self._target.name,
            self._bundle(release),
            version=release.model,
            digest=release.digest,
        )
        yield "golden rows answered as recorded"

    def commit(self, release: Release) -> None:
        """Switch the front to the proved server, ask again through the front, then end the old server."""
        server, old = self._server_of(release), self._process("backend")
        door = self._front()
        self._switch(door, server)
        prove_at(door.port, self._target.name, self._bundle(release), version=release.model, digest=release.digest)
        self._save(backend=server.to_json(), candidate=None)
        if old and old.pid != server.pid:
            old.stop()

    def undo(self, failed: Release, previous: Release | None) -> None:
        """End the failed server; the previous one answers again, started anew where it is gone, and is proved."""
        old = self._process("backend")
        if previous is None:
            self.stop()
            return
        if old and old.alive and old.digest == previous.digest:
            self._switch(self._front(), old)
            self._drop_candidate()
            prove_at(
                self._front().port, self._target.name, self._bundle(previous),
                version=previous.model, digest=previous.digest,
            )  # fmt: skip
            return
        self.start(previous)

    def start(self, release: Release) -> None:
        """Bring a release's server and the front up, proved."""
        self.apply(release)
        for _ in self.prove(release, self._target.proof_timeout_s):
            pass
        self.commit(release)

    def stop(self) -> None:
        """End the front and every server; the address and the releases stay known."""
        for role in ("front", "candidate", "backend"):
            if process := self._process(role):
                process.stop()
        self._save(front=None, candidate=None, backend=None)

    def _bundle(self, release: Release) -> Path:
        from ev_ml.bundle import verify
        from ev_ml.errors import DataError

        kept = self.folder / "bundles" / release.digest[:16]
        try:
            if verify(kept).digest == release.digest:
                return kept
        except DataError:
            shutil.rmtree(kept, ignore_errors=True)
        partial = kept.with_name(f"{kept.name}.{secrets.token_hex(4)}")
        try:
            fetch(release.uri, self._target.store, partial)
            if (found := verify(partial).digest) != release.digest:
                raise FailedError(f"{release.uri} holds {found[:12]} now, not {release.digest[:12]}")
            partial.replace(kept)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
        return kept

    def _front(self) -> Process:
        door = self._process("front")
        if door and door.alive:
            return door
        token = self.folder / "front.token"
        if not token.exists():
            write_atomic(token, secrets.token_hex(16))
        announce = self.folder / "port-front"
        announce.unlink(missing_ok=True)
        port = self._record().get("port") or self._target.port
        command = [sys.executable, "-m", front.__name__, "--port", str(port)]
        command += ["--token-file", str(token), "--announce", str(announce)]
        log = self.folder / "front.log"
        started = spawn(command, log)
        deadline = time.monotonic() + FRONT_START_S
        while (found := announced(announce, started.pid)) is None:
            if not started.alive or time.monotonic() > deadline:
                started.stop()
                said = trim(log.read_text().strip().rpartition("\n")[2])
                raise FailedError(f"the front on port {port} did not start: {said}", hint="set serving.port")
            time.sleep(POLL_S)
        door = Process(started.pid, started.started, found)
        self._save(front=door.to_json(), port=found)
        return door

    def _switch(self, door: Process, server: Process) -> None:
        wanted = {"port": server.port, "digest": server.digest}
        try:
            headers = {"x-evctl-token": (self.folder / "front.token").read_text()}
            status, answer = call(door.port, "POST", front.CONTROL, wanted, headers, timeout_s=front.DRAIN_S + 5)
        except OSError as error:
            raise FailedError(f"the front does not answer: {trim(str(error))}", hint="evctl serving") from error
        if status != 200 or answer.get("port") != server.port:
            raise FailedError(
                f"the front did not switch ({status})", hint="evctl serving stop, then evctl serving start"
            )

    def _upstream(self, door: Process) -> dict[str, Any]:
        try:
            headers = {"x-evctl-token": (self.folder / "front.token").read_text()}
            status, answer = call(door.port, "GET", front.CONTROL, None, headers)
        except OSError:
            return {}
        return dict(answer) if status == 200 else {}

    def _server_of(self, release: Release) -> Process:
        for role in ("candidate", "backend"):
            if (process := self._process(role)) and process.digest == release.digest:
                return process
        raise ProofError(f"no model server of {release.model} was started")

    def _drop_candidate(self) -> None:
        if process := self._process("candidate"):
            process.stop()
            self._save(candidate=None)

    def _log(self, release: Release) -> Path:
        return self.folder / f"server-{release.revision}.log"

    def _last_words(self, release: Release) -> str:
        lines = [line for line in self._log(release).read_text(errors="replace").splitlines() if line.strip()]
        return trim(lines[-1]) if lines else "it said nothing"

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
