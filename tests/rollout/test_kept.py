"""The service's own copies of bundles and its logs go with their last release."""

from __future__ import annotations

from pathlib import Path

from evctl.rollout.ledger import Ledger, Release
from evctl.rollout.serving.keeper import bundle_of, last_words, log_of
from evctl.rollout.serving.kept import prune


def release(revision: int, digest: str) -> Release:
    return Release(revision, "m", "u", digest, None, "superseded", "2026-11-23T00:00:00Z", "me")


def test_what_no_release_of_the_ledger_needs_is_dropped(tmp_path: Path) -> None:
    digests = {n: f"{n}" * 64 for n in (1, 2, 3)}
    for number, digest in digests.items():
        bundle_of(tmp_path, digest).mkdir(parents=True)
        log_of(tmp_path, number).write_text("x")
        (tmp_path / f"port-{number}").write_text("x")
    (tmp_path / "server-1.log.1").write_text("x")
    for kept in ("releases.json", "service.json", "front.log", "port-front"):
        (tmp_path / kept).write_text("x")
    prune(tmp_path, Ledger((release(2, digests[2]), release(3, digests[2])), 3))
    assert [each.name for each in (tmp_path / "bundles").iterdir()] == ["2" * 16]
    assert sorted(each.name for each in tmp_path.iterdir() if each.is_file()) == [
        "front.log", "port-2", "port-3", "port-front", "releases.json", "server-2.log", "server-3.log", "service.json",
    ]  # fmt: skip


def test_a_servers_last_words_are_its_last_line(tmp_path: Path) -> None:
    assert last_words(tmp_path, 1) == "it said nothing"
    log_of(tmp_path, 1).write_bytes(b"first\nrefused: \xff why\n\n")
    assert last_words(tmp_path, 1) == "refused: \ufffd why"
