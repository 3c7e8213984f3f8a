"""The search for secrets finds what it is there to find."""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path

import pytest

from tests import secrecy

VALUE = "s3cr3t-value"


@pytest.mark.shows_secrets
def test_what_a_process_prints_and_what_is_captured_is_seen(capsys: pytest.CaptureFixture[str]) -> None:
    subprocess.run([sys.executable, "-c", f"import sys; sys.exit('{VALUE}')"], capture_output=True, check=False)
    assert len(secrecy._seen) == 1
    print(f"the key is {VALUE}")
    capsys.readouterr()
    assert len(secrecy._seen) == 2


@pytest.mark.shows_secrets
def test_what_is_logged_is_seen(caplog: pytest.LogCaptureFixture) -> None:
    logging.getLogger("somebody").warning("sent %s", VALUE)
    assert [secrecy.found_in(record.getMessage()) for record in caplog.records] == ["b'sent s3cr3t'"]


def test_what_is_stored_is_seen_but_for_its_source(tmp_path: Path) -> None:
    for name in ("state/secrets/ev-telemetry-secret/KEY", "env", "runs/1/logs/train.1.log", "runs/1/record.json"):
        (tmp_path / "kept" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "kept" / name).write_text(f"x{VALUE}")
    found = secrecy.found_below(tmp_path / "kept")
    assert sorted(Path(each.partition(": ")[0]).name for each in found) == ["record.json", "train.1.log"]
    for hit in found:
        Path(hit.partition(": ")[0]).unlink()
