"""Copy a run's artifacts into a folder: each to a place of its own below it, whatever its name is."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Protocol
from urllib.parse import quote

from evctl.backends.base import Artifact
from evctl.errors import ElsewhereError, EvctlError, FailedError, NotFoundError
from evctl.output import clean, say

MAX_PART = 200
"""Bytes of one part of a place: file systems take 255, and a copy that is not whole has a longer name."""
_UNSAFE = re.compile(r"^\.|[%/\\\x00-\x1f\x7f-\x9f\ud800-\udfff]")


class Source(Protocol):
    """What is needed of a backend."""

    def fetch(self, artifact: Artifact, target: Path) -> Path:
        """Copy an artifact to `target` and return where it is."""
        ...


def download(source: Source, artifacts: Sequence[Artifact], folder: Path, task: str | None = None) -> None:
    """Copy every artifact that can be had to its place, and tell on stderr of each.

    Args:
        artifacts: all of the run, since a place is made beside the others'.
        task: copy those of this task only.

    Raises:
        EvctlError: some could not be copied; the worst error (the highest exit code) names them all. One that is gone
            from its store counts as failed (1); one that was never in a store is a note.
    """
    asked = [(each, at) for each, at in zip(artifacts, places(artifacts), strict=True) if task in (None, each.task)]
    failed: list[tuple[str, EvctlError]] = []
    for each, place in asked:
        name = f"{each.task}.{each.name}"
        try:
            _tell(f"{name} -> {source.fetch(each, target_of(folder, place))}")
        except ElsewhereError as error:
            _tell(f"{name}: not copied: {error.message}")
        except EvctlError as error:
            if isinstance(error, NotFoundError) and each.type.endswith("Metrics"):
                # Kubeflow keeps these as metadata and writes no file
                _tell(f"{name}: no file, its values are its metadata")
            else:
                failed.append((name, error))
    for name, why in failed:
        _tell(f"{name}: not copied: {why.message}")
    if failed:
        raise _all_of(failed, len(asked))


def places(artifacts: Sequence[Artifact]) -> tuple[PurePosixPath, ...]:
    """Return each artifact's place below a folder: `task/name`, with the groups around a task as folders.

    Names come from servers where anybody may write. No part is empty, begins with a dot or holds a separator or a
    control character (they are written as `%2F`); no two artifacts have one place, and none lies inside another.
    """
    taken: set[tuple[str, ...]] = set()
    around: set[tuple[str, ...]] = set()
    found = []
    for each in artifacts:
        folder, *parts = (*map(_part, each.task.split("/")), _part(each.name))
        folders = names = 1
        while True:
            place = PurePosixPath(_numbered(folder, folders), *parts[:-1], _numbered(parts[-1], names))
            key = tuple(unicodedata.normalize("NFC", part).casefold() for part in place.parts)
            above = {key[:size] for size in range(1, len(key))}
            if above & taken:
                folders += 1
            elif key in taken | around:
                names += 1
            else:
                break
        taken.add(key)
        around |= above
        found.append(place)
    return tuple(found)


def target_of(folder: Path, place: PurePosixPath) -> Path:
    """Return a place as a path. FailedError for one that is not below the folder."""
    if place.is_absolute() or ".." in place.parts or not place.parts:
        raise FailedError(
            f"{place} would be written outside {folder}", hint="evctl outputs shows each artifact and its address"
        )
    return folder / place


def _all_of(failed: Sequence[tuple[str, EvctlError]], asked: int) -> EvctlError:
    """Return one error for all: the worst, whose command is typed first."""
    names = ", ".join(name for name, _ in failed)
    lost = NotFoundError.exit_code
    worst = max((error for _, error in failed), key=lambda error: error.exit_code if error.exit_code != lost else 0)
    if isinstance(worst, NotFoundError):
        return FailedError(
            f"could not be copied, since it is gone from the store: {names}",
            hint="evctl outputs shows what is left; another run of its pipeline makes it again",
        )
    return type(worst)(
        f"{len(failed)} of {asked} artifacts could not be copied: {names}; {worst.message}", hint=worst.hint
    )


def _tell(line: str) -> None:
    # a name may hold anything, a line's end too
    say(clean(line).replace("\n", "�"))


def _numbered(part: str, number: int) -> str:
    return part if number == 1 else f"{part}~{number}"


def _part(name: str) -> str:
    """Return a name as one part of a path: equal for equal names only."""
    safe = _UNSAFE.sub(lambda found: _escaped(found[0]), name) or "unnamed"
    if len(safe.encode()) <= MAX_PART:
        return safe
    digest = hashlib.sha256(safe.encode()).hexdigest()[:12]
    return f"{safe.encode()[: MAX_PART - 13].decode(errors='ignore')}~{digest}"


def _escaped(character: str) -> str:
    return "%2E" if character == "." else quote(character, safe="", errors="surrogatepass")
