"""Ledger and lease in files: who holds it and until when, what a dead or late holder leaves, what damage does."""

from __future__ import annotations

import json
import multiprocessing
import os
import re
import socket
import subprocess
import sys
import threading
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from evctl.errors import ConflictError, FailedError
from evctl.rollout.files import FileLease, FileLedger
from evctl.rollout.holders import Holder
from evctl.rollout.ledger import Ledger, Release


def test_a_held_lease_tells_who_holds_it_and_until_when(tmp_path: Path) -> None:
    FileLease(tmp_path / "l.json", by="anna", seconds=60).acquire()
    with pytest.raises(ConflictError, match=rf"anna \(process {os.getpid()} on .*\) is promoting") as told:
        FileLease(tmp_path / "l.json", by="me").acquire()
    found = re.search(r"holds until (\S+Z) ", told.value.message)
    assert found
    left = datetime.fromisoformat(found[1]) - datetime.now(UTC)
    assert timedelta(seconds=50) < left <= timedelta(seconds=60)
    assert told.value.exit_code == 6


def test_a_lease_that_ended_is_taken_over_and_its_late_holder_is_told(tmp_path: Path) -> None:
    late = FileLease(tmp_path / "l.json", by="anna", seconds=-1)
    late.acquire()
    FileLease(tmp_path / "l.json", by="me").acquire()
    with pytest.raises(ConflictError, match="was lost"):
        late.renew()
    late.release()
    with pytest.raises(ConflictError, match=r"me .* is promoting"):
        FileLease(tmp_path / "l.json", by="carl").acquire()


def test_the_lease_of_a_process_that_was_killed_is_free_at_once(tmp_path: Path) -> None:
    code = (
        "import os, sys; from pathlib import Path; from evctl.rollout.files import FileLease;"
        "FileLease(Path(sys.argv[1]), by='anna').acquire(); os.kill(os.getpid(), 9)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "l.json")])
    assert done.returncode == -9
    assert (tmp_path / "l.json").exists()
    FileLease(tmp_path / "l.json", by="me").acquire()


def test_a_holder_of_another_process_table_is_waited_for_though_its_host_has_our_name(tmp_path: Path) -> None:
    """As two containers of one machine over one folder: numbers of the one say nothing in the other."""
    path, lease = tmp_path / "l.json", FileLease(tmp_path / "l.json", by="anna")
    lease.acquire()
    document, own = json.loads(path.read_text()), Holder.parse(json.loads(path.read_text())["identity"])
    assert own
    gone = replace(own, pid=4194303)
    path.write_text(json.dumps({**document, "identity": replace(gone, table="elsewhere").identity}))
    with pytest.raises(ConflictError, match=r"anna \(process 4194303 on .*\) is promoting"):
        FileLease(path, by="me").acquire()
    path.write_text(json.dumps({**document, "identity": gone.identity}))
    FileLease(path, by="me").acquire()


def test_a_lease_of_an_older_evctl_holds_until_its_time(tmp_path: Path) -> None:
    older = {"identity": "0a1b", "by": "anna", "pid": 4194303, "started": "1", "host": socket.gethostname()}
    (tmp_path / "l.json").write_text(json.dumps({**older, "expires": time.time() + 60}))
    with pytest.raises(ConflictError, match="anna is promoting; the lease holds until"):
        FileLease(tmp_path / "l.json", by="me").acquire()
    (tmp_path / "l.json").write_text(json.dumps({**older, "expires": time.time() - 1}))
    FileLease(tmp_path / "l.json", by="me").acquire()


def _take(path: Path, won: str) -> None:
    try:
        FileLease(path, by=won).acquire()
    except ConflictError:
        os._exit(6)
    threading.Event().wait(20)


def test_of_many_processes_at_once_one_takes_the_lease(tmp_path: Path) -> None:
    method = multiprocessing.get_context("fork")
    asked = [method.Process(target=_take, args=(tmp_path / "l.json", str(n))) for n in range(8)]
    for each in asked:
        each.start()
    try:
        for _ in range(200):
            ended = [each for each in asked if each.exitcode is not None]
            if len(ended) == 7:
                break
            threading.Event().wait(0.05)
        assert [each.exitcode for each in ended] == [6] * 7
    finally:
        for each in asked:
            each.kill()
            each.join()


def test_a_spoiled_lease_holds_nobody_up(tmp_path: Path) -> None:
    (tmp_path / "l.json").write_text("{")
    FileLease(tmp_path / "l.json", by="me").acquire()


@pytest.mark.parametrize("content", ["", "{", "[]", '{"releases": [{"odd": 1}], "revision": 1}'])
def test_a_spoiled_ledger_is_told_and_not_written_over(content: str, tmp_path: Path) -> None:
    path = tmp_path / "releases.json"
    path.write_text(content)
    with pytest.raises(FailedError, match=r"ledger .*releases\.json is not readable"):
        FileLedger(path).read()
    with pytest.raises(FailedError):
        FileLedger(path).write(Ledger(), None)
    assert path.read_text() == content


def test_a_ledger_written_since_is_a_conflict_and_a_kept_token_is_not(tmp_path: Path) -> None:
    store = FileLedger(tmp_path / "releases.json")
    release = Release(0, "m", "u", "d", None, "pending", "2026-11-23T00:00:00Z", "me", metrics={"recall": 0.9})
    ledger, begun = Ledger().begin(release, 5)
    token = store.write(ledger, None)
    assert store.read() == (ledger, token)
    store.write(ledger.ended(begun.revision, "live"), token)
    with pytest.raises(ConflictError):
        store.write(ledger, token)
