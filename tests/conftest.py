"""Every test runs as a stranger: no home, no cluster, no cloud credentials, a state folder of its own."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.secrecy import nothing_kept as nothing_kept
from tests.secrecy import nothing_shown as nothing_shown

SCRUBBED = ("EVCTL_", "EV_", "AWS_", "GOOGLE_", "GCS_", "AZURE_", "KUBE", "KFP_", "ML_PIPELINE_", "XDG_")
KEPT = {"EVCTL_KFP_HOST", "EVCTL_KFP_TOKEN", "EVCTL_MLMD_HOST", "EVCTL_TEST_CACHE", "KUBECONFIG_FOR_TESTS"}


@pytest.fixture(autouse=True)
def stranger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Scrub the environment; return the test's own EVCTL_HOME."""
    for name in list(os.environ):
        if name.startswith(SCRUBBED) and name not in KEPT:
            monkeypatch.delenv(name)
    home = tmp_path / "home"
    state = tmp_path / "state"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("EVCTL_HOME", str(state))
    monkeypatch.setenv("TERM", "dumb")
    monkeypatch.setenv("COLUMNS", "200")
    return state
