"""What a test needs of the machine. A developer's may lack it; CI installs it, so there its absence is a failure."""

from __future__ import annotations

import os
import shutil

import pytest


def command(name: str, package: str) -> pytest.MarkDecorator:
    """Skip a test where a command is missing, except in CI. `package` is Debian's."""
    required = os.environ.get("EVCTL_REQUIRE_CLUSTER") or os.environ.get("CI")
    missing = shutil.which(name) is None and not required
    return pytest.mark.skipif(missing, reason=f"no {name} on this machine (Debian: {package})")
