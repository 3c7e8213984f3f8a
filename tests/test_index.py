"""The index of what was submitted from here: what a reference means, and what survives."""

from __future__ import annotations

import json
import os
import threading
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from evctl.errors import NotFoundError, UnavailableError, UsageError
from evctl.index import IndexEntry, RunIndex

IDS = st.text("0123456789abcdef", min_size=2, max_size=6)


def entry(run_id: str, at: float = 0.0, env: str = "local", **more: object) -> IndexEntry:
    return IndexEntry(run_id, env, "local", f"run {run_id}", at, **more)  # type: ignore[arg-type]


@pytest.fixture
def index(tmp_path: Path) -> RunIndex:
    return RunIndex(tmp_path / "index")


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(ids=st.sets(IDS, min_size=1, max_size=8), ref=IDS)
def test_a_reference_is_an_id_or_the_beginning_of_exactly_one(
    tmp_path_factory: pytest.TempPathFactory, ids: set[str], ref: str
) -> None:
    index = RunIndex(tmp_path_factory.mktemp("index"))
    for run_id in ids:
        index.add(entry(run_id))
    begun = {run_id for run_id in ids if run_id.startswith(ref)}
    if ref in ids or len(begun) == 1:
        assert index.resolve(ref).run_id == (ref if ref in ids else begun.pop())
    elif begun:
        with pytest.raises(UsageError) as told:
            index.resolve(ref)
        assert all(run_id in told.value.message for run_id in begun)
    else:
        with pytest.raises(NotFoundError):
            index.resolve(ref)


def test_a_run_is_found_by_its_name_the_newest_of_two_that_share_it(index: RunIndex) -> None:
    for run_id, at in (("aa", 1.0), ("bb", 2.0)):
        index.add(IndexEntry(run_id, "local", "local", "nightly", at))
    assert index.resolve("nightly").run_id == "bb"


def test_none_and_latest_are_the_newest_and_last_good_the_newest_that_registered(index: RunIndex) -> None:
    index.add(entry("aa", 1.0, registered=True))
    index.add(entry("bb", 2.0))
    assert index.resolve(None).run_id == index.resolve("@latest").run_id == "bb"
    assert index.resolve("@last-good").run_id == "aa"
    index.update("bb", state="SUCCEEDED", registered=True)
    assert (index.resolve("@last-good").run_id, index.resolve("bb").state) == ("bb", "SUCCEEDED")


def test_an_environment_has_its_own_runs(index: RunIndex) -> None:
    index.add(entry("aa", 1.0, env="prod"))
    index.add(entry("bb", 2.0))
    assert index.resolve("@latest", "prod").run_id == "aa"
    assert [each.run_id for each in index.all("local")] == ["bb"]
    with pytest.raises(NotFoundError, match="in prod"):
        index.resolve("bb", "prod")


def test_nothing_to_find_says_what_to_type_and_makes_no_folder(index: RunIndex) -> None:
    with pytest.raises(NotFoundError) as told:
        index.resolve(None)
    assert told.value.hint == "evctl run"
    assert not index.folder.exists()


def test_a_cancel_that_was_asked_for_is_remembered_and_a_removed_run_forgotten(index: RunIndex) -> None:
    index.add(entry("aa"))
    index.mark_cancel_requested("aa")
    assert index.resolve("aa").cancel_requested
    index.remove("aa")
    assert index.all() == []


def test_what_is_known_already_is_not_written_again(index: RunIndex) -> None:
    index.add(entry("aa"))
    index.update("aa", state="FAILED", registered=False)
    before = index.path.read_bytes()
    index.update("aa", state="FAILED", registered=False)
    index.update("no such run", state="FAILED")
    assert index.path.read_bytes() == before
    index.update("aa", registered=True)
    assert (index.resolve("aa").state, index.resolve("aa").registered) == ("FAILED", True)


def test_many_writers_at_once_lose_nothing(index: RunIndex) -> None:
    threads = [threading.Thread(target=index.add, args=(entry(f"{n:02x}"),)) for n in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(index.all()) == 16


def put_run(folder: Path, run_id: str, **record: object) -> Path:
    run = folder / "runs" / run_id
    run.mkdir(parents=True)
    request = {"run_id": run_id, "env": "local", "name": run_id, "parameters": {}, "created_at": time.time()}
    (run / "request.json").write_text(json.dumps(request))
    (run / "record.json").write_text(json.dumps({**request, "state": "SUCCEEDED", "model": None, **record}))
    return run


def test_a_corrupt_ledger_is_kept_aside_and_read_back_damaged_records_and_all(
    index: RunIndex, capsys: pytest.CaptureFixture[str]
) -> None:
    put_run(index.folder, "aa", model={"version": "v"})
    (put_run(index.folder, "bb") / "record.json").write_text("{")
    for name in ("record.json", "request.json"):
        (put_run(index.folder, f"cc-{name}") / name).write_text("")
    lost = put_run(index.folder, "dd")
    (lost / "record.json").write_text("")
    (lost / "request.json").write_text("[]")
    rubbish = os.urandom(5000)
    index.path.write_bytes(rubbish)
    found = {each.run_id: each for each in index.all()}
    assert set(found) == {"aa", "bb", "cc-record.json", "cc-request.json"}
    assert (found["aa"].registered, found["bb"].state) == (True, "PENDING")
    assert [path.read_bytes() for path in index.folder.glob("state.db.corrupt-*")] == [rubbish]
    said = capsys.readouterr().err
    assert said.count("ledger was corrupt") == 1
    assert "run dd is left out" in said
    # told once: from now on it is whole
    assert len(index.all()) == 4
    assert capsys.readouterr().err == ""


def test_a_ledger_that_lost_its_end_is_corrupt_too(index: RunIndex) -> None:
    for n in range(400):
        index.add(entry(f"{n:03x}"))
    whole = index.path.read_bytes()
    put_run(index.folder, "aa")
    index.path.write_bytes(whole[: len(whole) // 2])
    assert [each.run_id for each in index.all()] == ["aa"]


def test_a_state_folder_that_is_a_file_is_told_with_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UnavailableError) as told:
        RunIndex(tmp_path / "file").add(entry("aa"))
    assert "EVCTL_HOME" in str(told.value.hint)
