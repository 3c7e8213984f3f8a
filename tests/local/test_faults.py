"""What goes wrong with processes, disks and folders, on the product's own pipeline, as processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.local.product import Gate, Product, alive, children_of, heed_modes, power_cut, until

pytestmark = pytest.mark.local
TOO_FEW = "4 vehicle(s) left, at least 20 are needed"


def held_in_ingest(product: Product, gate: Gate) -> str:
    """Start a run from another process, wait until its first step waits for its data; return its id."""
    code, out, err = product.ask("run", "--detach")
    assert code == 0, err
    assert gate.asked.wait(60)
    return out.strip()


def states(run: dict[str, object]) -> dict[str, str]:
    return {task["name"]: task["state"] for task in run["tasks"]}  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGKILL, -signal.SIGKILL), (signal.SIGTERM, 143), (signal.SIGINT, 130)]
)
def test_a_run_goes_on_whatever_ends_the_one_that_follows_it(
    product: Product, gate: Gate, number: signal.Signals, code: int
) -> None:
    cli = product.start("run")
    run_id = product.run_id()
    assert gate.asked.wait(60)
    cli.send_signal(number)
    _, err = cli.communicate(timeout=30)
    assert cli.returncode == code, err
    if number == signal.SIGINT:
        assert f"run {run_id[:8]} goes on" in err
    assert "Traceback" not in err
    assert product.status()[0] == 8
    gate.open.set()
    code, run = product.ended()
    assert code == 1
    assert states(run)["ingest_battery_data"] == "SUCCEEDED"
    assert TOO_FEW in next(t["reason"] for t in run["tasks"] if t["name"] == "validate_battery_data")
    assert states(run)["notify_pipeline_status"] == "SUCCEEDED"


def test_a_power_cut_leaves_a_failed_run_no_orphan_no_model_and_the_next_run_works(
    product: Product, gate: Gate, few_vehicles: Path
) -> None:
    run_id = held_in_ingest(product, gate)
    folder = product.home / "runs" / run_id
    worker = product.worker(run_id)
    everyone = children_of(worker)
    assert len(everyone) > 2
    power_cut(worker)
    # what a power cut leaves of files that were being written
    (folder / ".record.json.4711").write_text('{"run_id": "' + run_id)
    (folder / "record.json").write_text('{"run_id": "' + run_id)
    with (folder / "events.jsonl").open("a") as file:
        file.write('{"at": "2026-11-')
    until(lambda: True if not any(alive(pid) for pid in everyone) else None)
    written = {path: path.stat().st_mtime_ns for path in (folder / "artifacts").rglob("*")}
    gate.open.set()
    code, run = product.status()
    assert (code, run["state"], run["model"]) == (1, "FAILED", None)
    assert states(run)["ingest_battery_data"] == "FAILED"
    _, shown, _ = product.ask("status")
    assert "the worker died" in shown
    assert not (folder / ".record.json.4711").exists()
    assert written == {path: path.stat().st_mtime_ns for path in (folder / "artifacts").rglob("*")}
    assert json.loads(product.ask("models", "list", "-o", "json")[1])["models"] == []
    code, _, err = product.ask("run")
    assert (code, TOO_FEW in err) == (1, True)
    code, _, err = product.ask("retry", run_id)
    assert code in (0, 1), err
    assert TOO_FEW in str(product.ended(run_id)[1]["tasks"])


def test_a_cancel_ends_every_process_but_the_notification_and_a_retry_goes_on(product: Product, gate: Gate) -> None:
    run_id = held_in_ingest(product, gate)
    everyone = children_of(product.worker(run_id))
    code, out, err = product.ask("cancel", run_id, "-o", "json")
    assert (code, json.loads(out)["state"]) == (0, "CANCELED"), err
    run = product.status(run_id)[1]
    assert states(run)["ingest_battery_data"] == "CANCELED"
    assert states(run)["notify_pipeline_status"] == "SUCCEEDED"
    until(lambda: True if not any(alive(pid) for pid in everyone) else None)
    gate.open.set()
    assert product.ask("cancel", run_id)[0] == 6
    assert product.ask("retry", run_id)[0] in (0, 1)
    code, run = product.ended(run_id)
    assert (code, states(run)["ingest_battery_data"]) == (1, "SUCCEEDED")


def test_two_runs_at_once_over_the_same_data_both_end_and_share_one_cache(product: Product) -> None:
    product.profile({"v1": {"fleet": "v1", "vehicles": 64}})
    both = [product.start("run", "-o", "json") for _ in range(2)]
    ended = [json.loads(process.communicate(timeout=90)[0]) for process in both]
    third = json.loads(product.ask("run", "-o", "json")[1])
    assert {run["state"] for run in (*ended, third)} == {"SUCCEEDED"}
    assert len({run["model"]["uri"] for run in (*ended, third)}) == 1
    assert [states(third)[name] for name in list(states(third))[:5]] == ["CACHED"] * 5
    assert not list((product.home / "cache").glob("*.part"))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of six megabytes."""
    mount = tmp_path / "disk"
    mount.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", str(mount)], capture_output=True, text=True
    )
    if done.returncode:
        pytest.skip(f"this machine mounts no disk for a test: {done.stderr.strip()}")
    yield mount
    subprocess.run(["umount", "-l", str(mount)], check=True)


def test_a_full_disk_starts_no_run_and_leaves_nothing_half_written(
    product: Product, few_vehicles: Path, small_disk: Path
) -> None:
    product.home = small_disk / "state"
    product.profile({"v1": {"uri": str(few_vehicles)}})
    filler = small_disk / "filler"
    fill(filler, leave=16_384)
    code, out, err = product.ask("run")
    assert (code, out) == (9, "")
    assert "No space left" in err or "disk" in err
    assert "Traceback" not in err
    assert not list(product.home.glob("runs/*"))
    filler.unlink()
    code, _, err = product.ask("run")
    assert (code, TOO_FEW in err) == (1, True)


def test_a_disk_that_fills_up_while_a_step_writes_fails_the_run_with_that_reason(
    product: Product, gate: Gate, small_disk: Path
) -> None:
    product.home = small_disk / "state"
    run_id = held_in_ingest(product, gate)
    filler = small_disk / "filler"
    fill(filler, leave=8_192)
    gate.open.set()
    code, run = product.ended(run_id)
    assert (code, run["state"], run["model"]) == (1, "FAILED", None)
    _, shown, err = product.ask("status")
    assert "space left" in shown, (shown, err)
    filler.unlink()
    code, _, err = product.ask("run")
    assert (code, TOO_FEW in err) == (1, True)


def fill(path: Path, leave: int) -> None:
    free = os.statvfs(path.parent)
    with path.open("wb") as file:
        file.write(b"x" * (free.f_bavail * free.f_bsize - leave))


def test_a_state_folder_that_may_only_be_read_still_answers_and_starts_nothing(
    product: Product, few_vehicles: Path
) -> None:
    product.profile({"v1": {"uri": str(few_vehicles)}})
    assert product.ask("run")[0] == 1
    before = product.status()[1]
    locked = [product.home, *(p for p in product.home.rglob("*") if p.is_dir())]
    for path in locked:
        path.chmod(0o555)
    for file in (path for path in product.home.rglob("*") if path.is_file()):
        file.chmod(0o444)
    try:
        code, out, err = product.ask("status", "-o", "json", preexec_fn=heed_modes)
        assert (code, json.loads(out)) == (1, before), err
        for verb in (["runs"], ["outputs"], ["logs"]):
            assert product.ask(*verb, preexec_fn=heed_modes)[0] == 0
        for verb in (["run"], ["retry", before["run_id"]]):
            code, out, err = product.ask(*verb, preexec_fn=heed_modes)
            assert (code, out) == (9, ""), err
            assert "writable" in err
            assert "Traceback" not in err
    finally:
        for path in locked:
            path.chmod(0o755)
    assert len(list(product.home.glob("runs/*"))) == 1


def test_a_state_folder_that_cannot_be_made_is_told_before_anything_starts(
    product: Product, few_vehicles: Path
) -> None:
    product.profile({"v1": {"uri": str(few_vehicles)}})
    product.home.parent.mkdir(exist_ok=True)
    (product.home.parent / "file").write_text("")
    product.home = product.home.parent / "file" / "state"
    code, out, err = product.ask("run")
    assert (code, out) == (9, "")
    assert "EVCTL_HOME" in err
    assert product.ask("status")[0] == 3


def test_a_corrupt_ledger_is_set_aside_told_and_rebuilt_from_the_run_folders(
    product: Product, few_vehicles: Path
) -> None:
    product.profile({"v1": {"uri": str(few_vehicles)}})
    assert product.ask("run")[0] == 1
    run = product.status()[1]
    (product.home / "state.db").write_bytes(os.urandom(4096))
    # two that find it corrupt at once
    both = [product.start("runs", "-o", "json") for _ in range(2)]
    answers = [process.communicate(timeout=60) for process in both]
    assert [json.loads(out)["runs"][0]["run_id"] for out, _ in answers] == [run["run_id"]] * 2
    assert sum("ledger was corrupt" in err for _, err in answers) == 1
    aside = list(product.home.glob("state.db.corrupt-*"))
    assert len(aside) == 1
    assert aside[0].stat().st_size == 4096
    assert product.status(run["run_id"][:6])[1] == run


def test_an_unknown_run_is_3_and_an_ambiguous_prefix_2_with_the_candidates(product: Product) -> None:
    product.profile({"v1": {"fleet": "v1"}})
    from evctl.index import IndexEntry, RunIndex

    for run_id in ("aa11", "aa22"):
        RunIndex(product.home).add(IndexEntry(run_id, "local", "local", run_id, time.time()))
    code, out, err = product.ask("status", "bb", "-o", "json")
    assert (code, out, json.loads(err.splitlines()[-1])["error"]["code"]) == (3, "", "not_found")
    code, out, err = product.ask("status", "aa")
    assert (code, out) == (2, "")
    assert "aa11" in err
    assert "aa22" in err
