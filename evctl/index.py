"""What was submitted from this machine, to either engine: finds a run's environment, and completes names.

SQLite in `EVCTL_HOME/state.db`. It can be lost: a file that is no database is set aside and the local runs are read back
from their folders.
"""

from __future__ import annotations

import fcntl
import json
import shutil
import sqlite3
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from evctl.errors import NotFoundError, UnavailableError, UsageError
from evctl.state import home

LATEST, LAST_GOOD = "@latest", "@last-good"
_COLUMNS = ("run_id", "env", "backend", "name", "created_at", "state", "registered", "cancel_requested")
_TABLE = """create table if not exists runs (run_id text primary key, env text not null, backend text not null,
name text not null, created_at real not null, state text not null, registered integer not null default 0,
cancel_requested integer not null default 0)"""


@dataclass(frozen=True, slots=True)
class IndexEntry:
    """One run. `created_at` is seconds since the epoch; `state` is the last one seen from here."""

    run_id: str
    env: str
    backend: str
    name: str
    created_at: float
    state: str = "PENDING"
    registered: bool = False
    cancel_requested: bool = False


class RunIndex:
    """The index of a state folder. Every call opens and closes the database: writers are many and short."""

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder or home()
        self.path = self.folder / "state.db"

    def add(self, entry: IndexEntry) -> None:
        """Remember a run."""
        values = [getattr(entry, column) for column in _COLUMNS]
        with self._open() as db:
            db.execute(f"insert or replace into runs values ({','.join('?' * len(_COLUMNS))})", values)  # noqa: S608

    def remove(self, run_id: str) -> None:
        """Forget a run that could not be started."""
        with self._open() as db:
            db.execute("delete from runs where run_id = ?", (run_id,))

    def update(self, run_id: str, *, state: str | None = None, registered: bool | None = None) -> None:
        """Remember what became of a run; nothing is written when that is known."""
        with self._open() as db:
            known = db.execute("select state, registered from runs where run_id = ?", (run_id,)).fetchone()
            if known is None:
                return
            now = (known[0] if state is None else state, known[1] if registered is None else int(registered))
            if now != tuple(known):
                db.execute("update runs set state = ?, registered = ? where run_id = ?", (*now, run_id))

    def mark_cancel_requested(self, run_id: str, *, asked: bool = True) -> None:
        """Remember that its end was asked for: a terminated run says FAILED on Kubeflow (kubeflow-facts 7).

        A retry begins another life, whose end nobody asked for yet (`asked=False`).
        """
        with self._open() as db:
            db.execute("update runs set cancel_requested = ? where run_id = ?", (int(asked), run_id))

    def all(self, env: str | None = None) -> Sequence[IndexEntry]:
        """Return the runs of an environment (of all), newest first."""
        if not self.folder.is_dir():
            return ()
        with self._open() as db:
            rows = db.execute(
                "select * from runs where ? is null or env = ? order by created_at desc, rowid desc", (env, env)
            ).fetchall()
        return [IndexEntry(row[0], row[1], row[2], row[3], row[4], row[5], bool(row[6]), bool(row[7])) for row in rows]

    def resolve(self, ref: str | None, env: str | None = None) -> IndexEntry:
        """Return the run that an id, unique prefix, name, `@latest` or `@last-good` means; None is `@latest`.

        Raises:
            NotFoundError: none. UsageError: several; they are listed.
        """
        runs = self.all(env)
        if ref is None or ref in (LATEST, LAST_GOOD):
            good = [run for run in runs if run.registered or ref != LAST_GOOD]
            if not good:
                what = "registered a model yet" if ref == LAST_GOOD else "been started yet"
                raise NotFoundError(f"no run has {what}", hint="evctl run")
            return good[0]
        exact = [run for run in runs if ref in (run.run_id, run.name)]
        found = exact[:1] or [run for run in runs if run.run_id.startswith(ref)]
        if not found:
            raise NotFoundError(f"no run {ref!r}" + (f" in {env}" if env else ""), hint="evctl runs")
        if len(found) > 1:
            listed = ", ".join(run.run_id[:12] for run in found[:8])
            raise UsageError(f"{ref!r} is the beginning of {len(found)} runs: {listed}", hint="type more of it")
        return found[0]

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            try:
                db = self._connect()
            except sqlite3.DatabaseError as error:
                if isinstance(error, sqlite3.OperationalError):
                    raise
                db = self._rebuild()
            with closing(db), db:
                yield db
        except (sqlite3.OperationalError, OSError) as error:
            raise UnavailableError(
                f"the state folder {self.folder} cannot be used: {error}",
                hint="is it writable, and the disk not full? EVCTL_HOME names another",
            ) from error

    def _connect(self, path: Path | None = None) -> sqlite3.Connection:
        db = sqlite3.connect(path or self.path, timeout=10)
        try:
            db.execute(_TABLE)
            if db.execute("pragma quick_check(1)").fetchone()[0] != "ok":
                raise sqlite3.DatabaseError("damaged")
        except sqlite3.DatabaseError:
            db.close()
            raise
        return db

    def _rebuild(self) -> sqlite3.Connection:
        with (self.folder / "state.lock").open("ab") as turn:
            fcntl.flock(turn, fcntl.LOCK_EX)
            try:
                # whoever had the turn before has rebuilt it
                return self._connect()
            except sqlite3.OperationalError:
                raise
            except sqlite3.DatabaseError:
                aside = self.path.with_name(f"state.db.corrupt-{time.time_ns()}")
            # there is a ledger at every moment: a reader that found none would make an empty one
            shutil.copyfile(self.path, aside)
            print(
                f"warning: the run ledger was corrupt; kept as {aside.name}, rebuilt from the run folders",
                file=sys.stderr,
            )
            return self._read_back()

    def _read_back(self) -> sqlite3.Connection:
        fresh = self.path.with_name("state.db.new")
        fresh.unlink(missing_ok=True)
        with closing(self._connect(fresh)) as db, db:
            for folder in sorted((self.folder / "runs").glob("*")):
                try:
                    row = _row(folder)
                except (OSError, ValueError, KeyError, TypeError) as error:
                    print(
                        f"warning: run {folder.name[:8]} is left out, its record is damaged: {error}", file=sys.stderr
                    )
                    continue
                db.execute("insert or replace into runs values (?,?,?,?,?,?,?,?)", row)
        # SQLite would roll an old journal back into the new file
        self.path.with_name("state.db-journal").unlink(missing_ok=True)
        fresh.replace(self.path)
        return self._connect()


def _row(folder: Path) -> tuple[object, ...]:
    """Return a run's row as its folder tells it; with a damaged record, as its request does."""
    try:
        known = json.loads((folder / "record.json").read_text())
    except (OSError, ValueError):
        known = {"state": "PENDING", **json.loads((folder / "request.json").read_text())}
    return (
        known["run_id"], known["env"], "local", known["name"], known["created_at"], known["state"],
        int(known.get("model") is not None), int(bool(known.get("cancel_requested"))),
    )  # fmt: skip
