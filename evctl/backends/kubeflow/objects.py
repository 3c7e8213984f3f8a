"""Copy artifacts from the cluster's object store: verified, retried, never half there."""

from __future__ import annotations

import contextlib
import hashlib
import re
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

from evctl.backends.base import Artifact
from evctl.backends.kubeflow.objects_place import Location, object_of
from evctl.backends.kubeflow.objects_reach import Reach, explained, stores, transient
from evctl.backends.kubeflow.side_by_side import Leaving, LeftError, side_by_side
from evctl.backends.partial import OLD, WRITABLE, partial_copy
from evctl.errors import EvctlError, FailedError, NotAllowedError, NotFoundError, UnavailableError

CHUNK = 8 << 20
"""Bytes of one range request: what a cut body costs at most."""
AT_ONCE = 8
"""Files of a folder copied, and sizes asked, side by side."""
_MD5 = re.compile(r'^"?([0-9a-f]{32})"?$')
Answer = TypeVar("Answer")


@dataclass(frozen=True, slots=True)
class Entry:
    """One object of an artifact. `name` is relative to the artifact, '' for a file."""

    key: str
    name: str
    size: int
    tag: str | None


def fetch(connection: Reach, artifact: Artifact, target: Path) -> Path:
    """Copy an artifact, a file or a folder, to `target`. See `Objects.fetch`."""
    return Objects(connection).fetch(artifact, target)


def with_sizes(connection: Reach, artifacts: Sequence[Artifact]) -> tuple[Artifact, ...]:
    """Return the artifacts with `size_bytes` where the store tells it. See `Objects.with_sizes`."""
    return Objects(connection).with_sizes(artifacts)


class Objects:
    """The object store behind a connection; each bucket's credentials are found once."""

    def __init__(self, connection: Reach) -> None:
        self.reach = connection
        self._known: dict[tuple[str, str, str | None], tuple[str, Any] | UnavailableError] = {}

    def fetch(self, artifact: Artifact, target: Path) -> Path:
        """Copy an artifact to `target`, replacing what is there, and return it.

        A file's MD5 is compared where the store gives it, sizes always. Nothing is at `target` until all of it is.

        Raises:
            NotFoundError: it is gone, or lies where evctl does not copy from. NotAllowedError: by any credentials.
            FailedError: the copy is not what the store holds. UnavailableError: the store, or this disk.
        """
        where = object_of(artifact.uri)
        ((entries, whose, store),) = side_by_side(lambda place: self._found(artifact, place), [where], 1)
        leaving = Leaving()
        with partial_copy(target) as work:
            try:
                copy = partial(self._copy, leaving, store, whose)
                side_by_side(lambda each: copy(each, work / "content" / _safe(each, artifact)), entries, AT_ONCE)
                _put(work / "content", target, work / OLD)
            except OSError as error:
                raise UnavailableError(
                    f"{target} cannot be written: {error.strerror or error}", hint=WRITABLE
                ) from error
            finally:
                leaving.leave()
        return target

    def _found(self, artifact: Artifact, where: Location) -> tuple[list[Entry], str, Any]:
        entries = self._entries(artifact, where)
        return entries, *self._store(artifact, where)

    def read(self, artifact: Artifact) -> bytes:
        """Return a file artifact's content, such as a stored log."""
        with tempfile.TemporaryDirectory() as folder:
            return self.fetch(artifact, Path(folder) / "content").read_bytes()

    def with_sizes(self, artifacts: Sequence[Artifact]) -> tuple[Artifact, ...]:
        """Return the artifacts with `size_bytes`; None where the store does not say. Asked side by side."""
        asked = list({each.uri: each for each in artifacts}.values())
        firsts: dict[object, Artifact] = {}
        for each in asked:
            firsts.setdefault(_bucket(each), each)
        # the first of a store finds the way in; a store that does not answer is asked once, not once an artifact
        found = self._sizes(list(firsts.values()), 1)
        rest = [
            each
            for each in asked
            if each.uri not in found
            and not isinstance(found[firsts[_bucket(each)].uri], NotAllowedError | UnavailableError)
        ]
        found |= self._sizes(rest, AT_ONCE)
        sizes = {uri: size for uri, size in found.items() if isinstance(size, int)}
        return tuple(replace(each, size_bytes=sizes.get(each.uri)) for each in artifacts)

    def _sizes(self, artifacts: Sequence[Artifact], at_once: int) -> dict[str, int | EvctlError]:
        found = side_by_side(self._size, artifacts, at_once)
        return {each.uri: size for each, size in zip(artifacts, found, strict=True)}

    def _size(self, artifact: Artifact) -> int | EvctlError:
        try:
            return sum(each.size for each in self._entries(artifact, object_of(artifact.uri)))
        except EvctlError as error:
            return error

    def _entries(self, artifact: Artifact, where: Location) -> list[Entry]:
        import obstore

        whose, store = self._store(artifact, where)
        name = f"artifact {artifact.task}.{artifact.name}"
        with contextlib.suppress(NotFoundError):
            head = self._ask(lambda: obstore.head(store, where.key), name, whose)
            if head["size"]:
                return [_entry(head, "")]
        batches = self._ask(lambda: [list(batch) for batch in obstore.list(store, where.key + "/")], name, whose)
        prefix = where.key + "/"
        found = [_entry(each, str(each["path"])[len(prefix) :]) for batch in batches for each in batch]
        if found := _files(found):
            return found
        # an empty file is an artifact too
        head = self._ask(lambda: obstore.head(store, where.key), f"{name} at {artifact.uri}", whose)
        return [_entry(head, "")]

    def _store(self, artifact: Artifact, where: Location) -> tuple[str, Any]:
        """Return the store, opened with the first credentials that it takes; one that does not answer is asked once."""
        key = (where.provider, where.bucket, artifact.store)
        if key not in self._known:
            try:
                self._known[key] = self._opened(artifact, where)
            except UnavailableError as error:  # a refusal may be one key's alone
                self._known[key] = error
                raise
        known = self._known[key]
        if isinstance(known, UnavailableError):
            raise type(known)(f"{artifact.uri} was not asked for: {known.message}", hint=known.hint)
        return known

    def _opened(self, artifact: Artifact, where: Location) -> tuple[str, Any]:
        import obstore

        denied: EvctlError | None = None
        for whose, store in stores(self.reach, where, artifact.store):
            try:
                with contextlib.suppress(NotFoundError):
                    self._ask(lambda opened=store: obstore.head(opened, where.key), artifact.uri, whose)  # type: ignore[misc]
            except NotAllowedError as error:
                denied = error
                continue
            return whose, store
        raise denied or NotAllowedError(f"no credentials open {artifact.uri}")

    def _ask(self, question: Callable[[], Answer], what: str, whose: str) -> Answer:
        """Ask until it is answered, within the profile's deadline."""
        end = time.monotonic() + self.reach.profile.kubeflow.deadline_s
        pause = 0.2
        while True:
            try:
                return question()
            except LeftError:
                raise
            except Exception as error:
                if not transient(error) or time.monotonic() + pause > end:
                    raise explained(error, what, whose) from None  # the cause's text may hold a key
            time.sleep(pause)
            pause = min(2 * pause, 5.0)

    def _copy(self, leaving: Leaving, store: Any, whose: str, entry: Entry, target: Path) -> None:
        known = _MD5.match(entry.tag or "")
        first = self._write(leaving, store, whose, entry, target)
        if known and first != known[1] and self._write(leaving, store, whose, entry, target) not in (first, known[1]):
            # a store that encrypts gives tags that look like an MD5 and are none: two equal reads are believed
            raise FailedError(f"the copy of {entry.key} is not what the store holds", hint="the same command again")

    def _write(self, leaving: Leaving, store: Any, whose: str, entry: Entry, target: Path) -> str:
        """Write one object and return its MD5. LeftError, at the latest after a part, when nobody waits for it."""
        import obstore

        def part(start: int) -> bytes:
            leaving.check()
            stop = min(start + CHUNK, entry.size)
            options: Any = {"range": (start, stop), **({"if_match": entry.tag} if entry.tag else {})}
            return _part(obstore.get(store, entry.key, options=options), options)

        digest = hashlib.md5(usedforsecurity=False)
        with leaving.staying():  # else it could make a folder anew that is being removed
            target.parent.mkdir(parents=True, exist_ok=True)
            file = target.open("wb")
        with file:
            for start in range(0, entry.size, CHUNK):
                content = self._ask(partial(part, start), entry.key, whose)
                leaving.check()
                digest.update(content)
                file.write(content)
        return digest.hexdigest()


def _bucket(artifact: Artifact) -> object:
    with contextlib.suppress(EvctlError):
        where = object_of(artifact.uri)
        return where.provider, where.bucket, artifact.store
    return None


def _part(answer: Any, options: Mapping[str, Any]) -> bytes:
    part = bytes(answer.bytes())
    start, stop = options["range"]
    if len(part) != stop - start:
        raise ConnectionError("a part was cut short")
    return part


def _entry(meta: Any, name: str) -> Entry:
    return Entry(str(meta["path"]), name, int(meta["size"]), meta.get("e_tag"))


def _files(entries: Sequence[Entry]) -> list[Entry]:
    """Leave out the empty objects by which consoles mark a folder."""
    folders = {str(parent) for each in entries for parent in PurePosixPath(each.name).parents} | {""}
    return [each for each in entries if each.size or each.name not in folders]


def _safe(entry: Entry, artifact: Artifact) -> PurePosixPath:
    """Return where an object goes inside the copy; a key cannot lead out of it."""
    path = PurePosixPath(entry.name)
    if path.is_absolute() or ".." in path.parts:
        raise FailedError(
            f"artifact {artifact.task}.{artifact.name} has an object whose name leads elsewhere",
            hint="evctl outputs, and look at the store: nobody but this run should write there",
        )
    return path


def _put(content: Path, target: Path, aside: Path) -> None:
    """Put the finished copy in place: what was there goes only when the new one stands."""
    if target.is_dir() and not target.is_symlink():
        target.rename(aside)
    elif content.is_dir() and target.exists():
        target.unlink()
    content.replace(target)
