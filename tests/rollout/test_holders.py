"""Whether a lease's holder is known to be dead."""

from __future__ import annotations

import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from evctl.rollout import holders
from evctl.rollout.holders import Holder, process_table, started

linux = pytest.mark.skipif(sys.platform != "linux", reason="no /proc here: a lease ends by its time alone")


def test_a_holder_is_read_back_from_its_identity_whatever_its_name_holds() -> None:
    own = Holder.own("anna (team, a), process 7 on x")
    assert Holder.parse(own.identity) == own
    assert own.told.startswith("anna (team, a), process 7 on x, process ")


def test_an_identity_of_an_older_evctl_or_of_another_tool_is_never_taken_for_dead() -> None:
    older = Holder.parse("boris, process 4194303 on host, 0a1b2c3d")
    assert older is not None
    assert (older.told, older.is_dead) == ("boris, process 4194303 on host", False)
    assert Holder.parse("argocd-application-controller-0") is None


@linux
def test_a_process_that_ended_is_dead_and_one_that_runs_is_not() -> None:
    other = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    start = started(other.pid)
    assert start
    holder = Holder("boris", other.pid, "host", "0a1b2c3d", process_table(), start)
    assert not holder.is_dead
    other.send_signal(signal.SIGKILL)
    # not waited for yet: what is left of it holds nothing
    while started(other.pid) is not None:
        pass
    assert holder.is_dead
    other.communicate()
    assert holder.is_dead


@linux
def test_a_later_process_of_the_same_number_is_another_one() -> None:
    own = Holder.own("anna")
    assert not own.is_dead
    assert replace(own, start=str(int(own.start) - 1)).is_dead


@linux
def test_a_process_of_another_table_is_not_ours_to_judge(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pod on the host network has its node's host name, and process numbers of its own."""
    own = replace(Holder.own("anna"), pid=4194303)
    assert own.is_dead
    monkeypatch.setattr(holders, "process_table", lambda: "elsewhere")
    assert not own.is_dead


@linux
def test_another_users_process_that_is_hidden_from_us_is_not_taken_for_dead(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As with hidepid: /proc shows nothing of it, and only a signal to it tells that it is there."""
    held = replace(Holder.own("anna"), pid=4194303)
    table = process_table()

    def refused(pid: int, number: int) -> None:
        raise PermissionError

    assert held.is_dead
    monkeypatch.setattr(holders, "process_table", lambda: table)
    monkeypatch.setattr(holders, "PROC", tmp_path)
    monkeypatch.setattr("os.kill", refused)
    assert not held.is_dead
