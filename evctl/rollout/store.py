"""The model store: a URI over files, S3-compatible servers and Google Cloud Storage, through obstore."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from evctl.errors import ConflictError, NotFoundError, UnavailableError, UsageError, trim
from evctl.rollout.store_errors import failure
from evctl.rollout.store_remote import remote


class Store:
    """A prefix of an object store. Keys are relative, with forward slashes.

    Args:
        config: `StoreSettings` as a dict: `uri`, and for S3 `endpoint`, `region`; credentials come from the environment.

    Raises:
        NotAllowedError: no credentials, told before anything is asked, or ones that the store refuses. UnavailableError:
        the store does not answer, after bounded retries. NotFoundError, ConflictError: as each method says.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        uri = str(config["uri"])
        parts = urlsplit(uri)
        self.uri = uri.rstrip("/") + "/"
        self._prefix = ""
        self._where = str(config.get("endpoint") or "the store")
        if parts.scheme in ("", "file"):
            from obstore.store import LocalStore

            root = Path(parts.path if parts.scheme else uri)
            self.uri = f"file://{root}/"
            try:
                root.mkdir(parents=True, exist_ok=True)
                self._store: Any = LocalStore(root)
            except OSError as error:
                raise UnavailableError(
                    f"the store {root} cannot be opened: {trim(error.strerror or str(error))}",
                    hint="is it writable, and the disk not full? store.uri in the profile names another",
                ) from error
        elif parts.scheme in ("s3", "gs"):
            self._prefix = parts.path.strip("/") + "/" if parts.path.strip("/") else ""
            self._store = remote(parts.scheme, parts.netloc, config)
        else:
            raise UsageError(f"store {uri}: scheme {parts.scheme} is not known", hint="use a path, s3:// or gs://")

    def create(self, key: str, content: bytes | Path) -> None:
        """Write a key that must not exist. ConflictError if it does."""
        self._put(key, content, mode="create")

    def overwrite(self, key: str, content: bytes) -> None:
        """Write a key, whatever was there."""
        self._put(key, content, mode="overwrite")

    def read(self, key: str) -> bytes:
        """Return a key's content. NotFoundError if there is none."""
        import obstore

        try:
            return bytes(obstore.get(self._store, self._prefix + key).bytes())
        except Exception as error:
            if _is_absent(error):
                raise NotFoundError(f"{self.uri}{key} does not exist", hint="evctl models list") from error
            raise failure(f"{self.uri}{key} cannot be read", error, self._where) from error

    def keys(self, prefix: str) -> list[str]:
        """Return the keys under a prefix, sorted."""
        import obstore

        try:
            batches = obstore.list(self._store, self._prefix + prefix)
            found = [str(each["path"]) for batch in batches for each in batch]
        except Exception as error:
            if _is_absent(error):
                return []
            raise failure(f"{self.uri}{prefix} cannot be listed", error, self._where) from error
        return sorted(path[len(self._prefix) :] for path in found)

    def _put(self, key: str, content: bytes | Path, *, mode: Any) -> None:
        import obstore
        from obstore.exceptions import AlreadyExistsError

        try:
            obstore.put(self._store, self._prefix + key, content, mode=mode, use_multipart=False)
        except AlreadyExistsError as error:
            raise ConflictError(f"{self.uri}{key} exists already") from error
        except Exception as error:
            raise failure(f"{self.uri}{key} cannot be written", error, self._where) from error


def _is_absent(error: Exception) -> bool:
    # a bucket that is not there is no missing key, though it is told with the same class
    return isinstance(error, FileNotFoundError) and "NoSuchBucket" not in str(error)
