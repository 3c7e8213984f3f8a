"""A predictor without an image of our own, for development: a stock Python image that brings our source along.

The counterpart of the pipeline's `image: embedded`: packages are installed when the pod starts, the source is in the
ServingRuntime itself. The same files from an installed evctl and from a deploy step's archive: one content, one runtime.
"""

from __future__ import annotations

import base64
import gzip
import importlib.util
import io
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from evctl.errors import RefusedError
from evctl.rollout.serving import kserve_spec as spec
from evctl.rollout.serving.embedded_pins import BROUGHT, SERVER

CARRIES = (
    "ev_ml",
    "ev_ml.bundle",
    "ev_ml.errors",
    "ev_ml.features",
    "ev_ml.features_table",
    "ev_ml.schema",
    "ev_ml.segments",
    "ev_ml.split",
    "ev_ml.train",
    "ev_serving",
    "ev_serving.__main__",
    "ev_serving.batch",
    "ev_serving.inputs",
    "ev_serving.predictor",
    "ev_serving.server",
    "ev_serving.trees",
)
"""What the predictor imports of ours; `ev_pipeline.embed` puts these files beside a step that imports this module."""
LIBRARIES = ("joblib", "numpy", "pandas", "scikit-learn")
PLACE = "/tmp/ev"  # noqa: S108  the pod's own, and the only place a user without a home may write to
LIMIT = 90_000
"""Bytes of the archive in base64: it is one argument of a program (kubeflow-facts 21)."""


def runtime(
    image: str, versions: Mapping[str, str], *, cpu: str, memory: str, mode: str = "Standard"
) -> dict[str, Any]:
    """Return the ServingRuntime of a stock Python image for a model pickled with these versions, named by its content.

    RefusedError when the source is too large for it, or is not here.
    """
    made = spec.own_runtime(image, cpu=cpu, memory=memory, mode=mode)
    container = made["spec"]["containers"][0]
    serve = " ".join(f"'{argument}'" for argument in container["args"])
    container["command"] = ["sh", "-ec", program(versions, f"exec python -m ev_serving {serve}")]
    container["args"] = []
    container["env"] = [{"name": "HOME", "value": PLACE}]
    return spec.named(made)


def program(versions: Mapping[str, str], serve: str) -> str:
    """Return the shell program: packages, source, server."""
    packed = base64.b64encode(archive()).decode()
    if len(packed) > LIMIT:
        raise RefusedError(f"the predictor's source has {len(packed):,} bytes", hint="set serving: {image: ...}")
    unpack = "import base64, io, sys, tarfile; "
    unpack += "tarfile.open(fileobj=io.BytesIO(base64.b64decode(sys.argv[1]))).extractall(sys.argv[2], filter='data')"
    return "\n".join(
        [
            f"mkdir -p {PLACE}/src",
            f'python -c "{unpack}" {packed} {PLACE}/src',
            f"printf '%s\\n' {' '.join(BROUGHT)} > {PLACE}/constraints",
            # a log that says nothing for minutes leaves everybody to guess
            f"pip install --no-cache-dir --disable-pip-version-check --progress-bar off --target {PLACE}/site "
            f"--constraint {PLACE}/constraints " + " ".join(pins(versions)),
            # KServe refuses a container whose environment names PYTHONPATH
            f"export PYTHONPATH={PLACE}/src:{PLACE}/site",
            serve,
        ]
    )


def pins(versions: Mapping[str, str]) -> list[str]:
    """Return the packages as `name==version`: those that pickled the model, and the server."""
    return [*SERVER, *(f"{name}=={versions[name]}" for name in LIBRARIES if name in versions)]


def archive() -> bytes:
    """Return the predictor's source as a tar.gz without times or owners: equal content gives equal bytes."""
    plain, packed = io.BytesIO(), io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name in CARRIES:
            file = _file(name)
            path = name.replace(".", "/") + ("/__init__.py" if file.name == "__init__.py" else ".py")
            entry, content = tarfile.TarInfo(path), file.read_bytes()
            entry.size, entry.mode = len(content), 0o644
            tar.addfile(entry, io.BytesIO(content))
    with gzip.GzipFile(filename="", mode="wb", compresslevel=9, fileobj=packed, mtime=0) as file_:
        file_.write(plain.getvalue())
    return packed.getvalue()


def _file(name: str) -> Path:
    found = importlib.util.find_spec(name)
    if found is None or found.origin is None:
        raise RefusedError(f"the predictor's source {name} is not here", hint="set serving: {image: NAME@sha256:...}")
    return Path(found.origin)
