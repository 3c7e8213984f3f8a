"""Starts the real ML Metadata in a Python of its own, installed once into the tests' cache folder."""

from __future__ import annotations

import contextlib
import fcntl
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

HERE = Path(__file__).parent
REQUIREMENTS = HERE / "real_mlmd.txt"


def cache_folder() -> Path:
    """Return where it is kept between sessions."""
    if explicit := os.environ.get("EVCTL_TEST_CACHE"):
        return Path(explicit).absolute() / "ml-metadata"
    return HERE.parents[1] / ".cache" / "ml-metadata"


def python() -> Path:
    """Return the Python that has ML Metadata, making it when it is missing or of other versions."""
    folder = cache_folder()
    folder.mkdir(parents=True, exist_ok=True)
    made = folder / "bin" / "python"
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = folder / "installed.txt"
        if not done.exists() or done.read_text() != REQUIREMENTS.read_text():
            subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
            install = [made, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r", REQUIREMENTS]
            subprocess.run([str(each) for each in install], check=True)
            done.write_text(REQUIREMENTS.read_text())
    return made


@contextlib.contextmanager
def serving(runs: Path) -> Iterator[str]:
    """Serve the recorded runs of a folder; yields `host:port`."""
    command = [str(python()), str(HERE / "real_mlmd_server.py"), str(runs)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None and server.stdin is not None
        port = server.stdout.readline().strip()
        assert port, "the server ended before it listened"
        try:
            yield f"127.0.0.1:{port}"
        finally:
            server.stdin.close()
