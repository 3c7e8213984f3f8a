"""What a file or folder holds, as a digest: a cache that goes by names alone answers with yesterday's data."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import uuid
from collections.abc import Mapping
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

LIBRARIES = ("kfp", "numpy", "pandas", "pyarrow", "scikit-learn")
ARTIFACT_MARK = "__kfp_artifact__"


def tree_digest(roots: list[Path]) -> str:
    """Return the sha256 over the files below some roots: their names and contents; compiled Python is left out."""
    total = hashlib.sha256()
    for root in roots:
        files = [root] if root.is_file() else sorted(p for p in root.rglob("*") if p.is_file())
        for file in files:
            if "__pycache__" in file.parts:
                continue
            total.update(os.fsencode(file.relative_to(root)) + b"\0")
            with file.open("rb") as handle:
                total.update(hashlib.file_digest(handle, "sha256").digest())
    return total.hexdigest()


@cache
def code_digest(source: str) -> str:
    """Return what names the code that a component runs: its own, ours that it imports, and the libraries' versions."""
    from ev_pipeline.embed import modules_of

    total = hashlib.sha256(source.encode())
    for name, content in sorted(modules_of(source).items()):
        total.update(name.encode() + b"\0" + hashlib.sha256(content).digest())
    total.update(",".join(f"{name} {metadata.version(name)}" for name in LIBRARIES).encode())
    return total.hexdigest()


def source_commit() -> str:
    """Return the git commit of the step logic that is installed, `-dirty` when it was changed since; "" for a wheel."""
    import ev_ml

    folder = Path(str(ev_ml.__file__)).parent
    git = ["git", "-C", str(folder)]
    try:
        # installed into an environment inside somebody's repository, it is not of that repository
        subprocess.run(
            [*git, "ls-files", "--error-unmatch", "__init__.py"], capture_output=True, check=True, timeout=10
        )
        said = subprocess.run(
            [*git, "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
            capture_output=True,
            check=True,
            text=True,
            timeout=10,
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return said.stdout.strip()


def argument_content(value: Any) -> Any:
    """Return a task's argument as its cache key states it: an artifact by what it holds."""
    path = getattr(value, "path", None)
    if path is None:
        return [argument_content(item) for item in value] if isinstance(value, list) else value
    return tree_digest([Path(path)]) if Path(path).exists() else getattr(value, "uri", None)


def source_content(arguments: Mapping[str, Any]) -> str | None:
    """Return what the data version of a task's arguments holds now; None where it names no file.

    A remote source may have changed without a word, so each look at it is a new content: never answered from the cache.
    """
    data, version = arguments.get("data"), arguments.get("data_version")
    if not isinstance(data, dict):
        return None
    uri = (data.get("versions") or {}).get(version, {}).get("uri")
    if not uri:
        return None
    path = Path(str(uri).removeprefix("file://"))
    return tree_digest([path]) if path.exists() else uuid.uuid4().hex


def output_digests(outputs: Mapping[str, Any]) -> dict[str, str]:
    """Return the digest of each artifact in kfp's serialised outputs, by output name."""
    found = {}
    for name, value in outputs.items():
        if isinstance(value, dict) and value.get(ARTIFACT_MARK):
            path = Path(str(value["uri"]).removeprefix("file://"))
            if path.exists():
                found[name] = tree_digest([path])
    return found


def drop_if_damaged(entry: Path) -> None:
    """Forget a cache entry when one of its artifacts is no longer what the task wrote.

    Args:
        entry: kfp's cache entry; `keep_digests` wrote the digests beside it.
    """
    beside = entry.with_suffix(".digests")
    if not entry.exists():
        return
    try:
        whole = beside.exists() and output_digests(json.loads(entry.read_text())) == json.loads(beside.read_text())
    except ValueError:
        whole = False
    if not whole:
        entry.unlink(missing_ok=True)


def keep_digests(entry: Path, digests: Mapping[str, str]) -> None:
    """Write the artifacts' digests beside a cache entry."""
    partial = entry.with_suffix(f".{os.getpid()}.part")
    partial.write_text(json.dumps(dict(digests)))
    partial.replace(entry.with_suffix(".digests"))
