"""Whatever the tests make evctl print, log or store is searched for the secrets they handed it.

Every secret value in the tests holds one of `MARKS`. What processes print and what capsys reads is searched when the test ends,
the files of all tests when the session does. A test that prints or keeps a value on purpose (a helper that is asked for one)
says so with the mark `shows_secrets`; files that are a secret's source are in `SOURCES`.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

MARKS = re.compile(rb"s3cr3t|hunter2|t0ken|h1dden|k3y-")
SOURCES = re.compile(
    r"/etcd/member/"  # where a real API server keeps them
    r"|/secrets(-[^/]*)?/"  # the state folder's own, and what is mounted for a running step
    r"|/(env|[^/]*\.env|kubeconfig|cookie|token|TELEMETRY_TOKEN)$"
)
MOST_BYTES = 64 << 20

_seen: list[str] = []


def found_in(text: str | bytes | None) -> str | None:
    """Return where a secret stands in a text, without the rest of it; None if in no place."""
    raw = text.encode(errors="replace") if isinstance(text, str) else text or b""
    hit = MARKS.search(raw)
    return None if hit is None else repr(raw[max(0, hit.start() - 60) : hit.end()])


def found_below(folder: Path) -> list[str]:
    """Return the files below a folder that hold a secret and are not its source."""
    hits = []
    for path in folder.rglob("*"):
        if SOURCES.search(str(path)) or path.is_symlink() or not path.is_file():
            continue
        if path.stat().st_size <= MOST_BYTES and (hit := found_in(path.read_bytes())):
            hits.append(f"{path}: {hit}")
    return hits


def _watch(owner: Any, name: str) -> None:
    real = getattr(owner, name)

    def watched(self: Any, *given: Any, **named: Any) -> Any:
        result = real(self, *given, **named)
        for stream in result:
            if hit := found_in(stream):
                _seen.append(hit)
        return result

    setattr(owner, name, watched)


_watch(subprocess.Popen, "communicate")
_watch(pytest.CaptureFixture, "readouterr")


@pytest.fixture(autouse=True)
def nothing_shown(request: pytest.FixtureRequest, caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Fail a test in which a secret was printed or logged."""
    _seen.clear()
    yield
    shown = [*_seen, *filter(None, map(found_in, (record.getMessage() for record in caplog.records)))]
    if not request.node.get_closest_marker("shows_secrets"):
        assert not shown, f"a secret was shown: {shown}"


@pytest.fixture(scope="session", autouse=True)
def nothing_kept(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Fail the session when a secret was stored anywhere but at its source."""
    yield
    assert not (kept := found_below(tmp_path_factory.getbasetemp())), f"a secret was stored: {kept}"
