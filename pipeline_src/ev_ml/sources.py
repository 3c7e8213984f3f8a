"""Telemetry from a user's own file: CSV or Parquet, gzipped or not, local or remote, in bounded memory.

Remote and packed files are unpacked to disk first, with a limit; rows are then regrouped so that a vehicle never spans
two Parquet row groups, which is what every later step relies on.
"""

from __future__ import annotations

import gzip
import http.client
import shutil
import tempfile
import urllib.error
import urllib.parse
import urllib.request
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pcsv
import pyarrow.parquet as pq

from ev_ml.errors import DataError
from ev_ml.schema import LABEL, RAW_SCHEMA, REQUIRED

MAX_UNPACKED_BYTES = 64 * 2**30
MAX_EXPANSION = 120
"""Unpacked over packed size: telemetry packs 5-20 times; beyond this a file is taken for a decompression bomb."""
BUCKETS = 32
CHUNK = 1 << 20


class MissingColumnError(DataError):
    """The file lacks a column that is needed; the message names it."""


def convert(uri: str, out: Path, *, columns: Mapping[str, str] | None = None) -> int:
    """Write a user's telemetry as raw Parquet; return the rows. `columns` maps our names to the file's.

    Raises:
        MissingColumnError: without a needed column. DataError: unreachable, unreadable or empty.
    """
    with tempfile.TemporaryDirectory(dir=out.parent) as folder:
        local = _fetch(uri, Path(folder))
        try:
            rows = _regroup(_batches(local, columns or {}), Path(folder), out)
        except (pa.ArrowInvalid, pa.ArrowTypeError, OSError, ValueError) as error:
            raise DataError(
                f"{shown(uri)} cannot be read: {_line(error)}",
                hint="is the file whole, and CSV or Parquet? Convert it, or fetch it again",
            ) from error
    if rows == 0:
        raise DataError(f"{shown(uri)} has no rows", hint="name a file with telemetry")
    return rows


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


def _fetch(uri: str, folder: Path) -> Path:
    parts = urllib.parse.urlsplit(uri)
    name = Path(parts.path).name or "data"
    target = folder / name
    if parts.scheme in ("", "file"):
        source = Path(urllib.parse.unquote(parts.path) if parts.scheme else uri)
        if not source.is_file():
            raise DataError(f"no file {source}", hint="name an existing file")
        target = source
    elif parts.scheme in ("http", "https"):
        _download(uri, target)
    elif parts.scheme in ("s3", "gs"):
        _from_store(parts, target)
    else:
        raise DataError(
            f"{shown(uri)}: scheme {parts.scheme} is not known", hint="use a path, s3://, gs:// or https://"
        )
    return _unpack(target, folder) if name.endswith(".gz") else target


def shown(uri: str) -> str:
    """Return a URI as it may be printed: without a password or a signature in it."""
    parts = urllib.parse.urlsplit(uri)
    return uri if not parts.netloc else f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def _download(uri: str, target: Path) -> None:
    try:
        with urllib.request.urlopen(uri, timeout=30) as answer, target.open("wb") as file:  # noqa: S310 - http(s) only
            shutil.copyfileobj(answer, file, CHUNK)
            announced, got = answer.headers.get("Content-Length"), file.tell()
    except (urllib.error.URLError, http.client.HTTPException, OSError) as error:
        raise DataError(
            f"{shown(uri)} cannot be fetched: {_line(error)}", hint="is the server up, the address right?"
        ) from error
    # a connection cut in the middle of a CSV looks like a shorter CSV
    if announced is not None and int(announced) != got:
        raise DataError(f"{shown(uri)} was cut off: {got:,} of {int(announced):,} bytes came", hint="evctl retry")


def _from_store(parts: urllib.parse.SplitResult, target: Path) -> None:
    import obstore
    from obstore.store import from_url

    try:
        store = from_url(f"{parts.scheme}://{parts.netloc}")
        with target.open("wb") as file:
            for chunk in obstore.get(store, parts.path.lstrip("/")).stream():
                file.write(chunk)
    except Exception as error:  # obstore's errors share no base of their own
        raise DataError(
            f"{shown(parts.geturl())} cannot be fetched: {_line(error)}", hint="check the name and the credentials"
        ) from error


def _unpack(packed: Path, folder: Path) -> Path:
    limit = min(MAX_UNPACKED_BYTES, MAX_EXPANSION * max(packed.stat().st_size, 1 << 20))
    target = folder / packed.name.removesuffix(".gz")
    size = 0
    try:
        with gzip.open(packed) as source, target.open("wb") as file:
            while chunk := source.read(CHUNK):
                size += len(chunk)
                if size > limit:
                    raise DataError(
                        f"{packed.name} unpacks to more than {limit:,} bytes from {packed.stat().st_size:,}",
                        hint="this looks like a decompression bomb; unpack it yourself if it is not",
                    )
                file.write(chunk)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{packed.name} is not a whole gzip file: {_line(error)}", hint="fetch it again") from error
    return target


def _batches(path: Path, columns: Mapping[str, str]) -> Iterator[pa.Table]:
    with path.open("rb") as probe:
        magic = probe.read(4)
    if magic == b"":
        raise DataError(f"{path.name} is empty", hint="name a file with telemetry")
    if magic == b"PAR1":
        for batch in pq.ParquetFile(path).iter_batches(batch_size=65_536):
            yield _ours(pa.Table.from_batches([batch]), columns)
    else:
        with pcsv.open_csv(path) as reader:
            for batch in reader:
                yield _ours(pa.Table.from_batches([batch]), columns)


def _ours(table: pa.Table, columns: Mapping[str, str]) -> pa.Table:
    names = {ours: columns.get(ours, ours) for ours in RAW_SCHEMA.names}
    missing = [name for name in REQUIRED if names[name] not in table.column_names]
    if missing:
        raise MissingColumnError(
            f"column {', '.join(names[m] for m in missing)} is missing; the file has {', '.join(table.column_names[:20])}",
            hint=f"map it in the profile: data.versions.<version>.columns: {{{missing[0]}: <the file's name>}}",
        )
    arrays = []
    for field in RAW_SCHEMA:
        if names[field.name] not in table.column_names:
            arrays.append(pa.nulls(table.num_rows, field.type))
            continue
        column = table.column(names[field.name])
        if pa.types.is_timestamp(field.type) and pa.types.is_string(column.type):
            column = pc.cast(column, pa.timestamp("ms", tz="UTC"))
        elif pa.types.is_timestamp(field.type) and pa.types.is_timestamp(column.type) and column.type.tz is None:
            column = pc.assume_timezone(column, "UTC")
        arrays.append(column.cast(field.type, safe=False))
    return pa.table(arrays, schema=RAW_SCHEMA)


def _regroup(tables: Iterator[pa.Table], folder: Path, out: Path) -> int:
    """Spill rows to hash buckets of vehicles on disk, then write each bucket as one row group."""
    writers: dict[int, pq.ParquetWriter] = {}
    rows = 0
    try:
        for table in tables:
            rows += table.num_rows
            ids = table.column("vehicle_id").to_pylist()
            bucket = pa.array([zlib.crc32(str(i).encode()) % BUCKETS for i in ids])
            for key in pc.unique(bucket).to_pylist():
                part = table.filter(pc.equal(bucket, key))
                if key not in writers:
                    writers[key] = pq.ParquetWriter(folder / f"bucket-{key}.parquet", RAW_SCHEMA)
                writers[key].write_table(part)
    finally:
        for writer in writers.values():
            writer.close()
    with pq.ParquetWriter(out, RAW_SCHEMA, compression="zstd") as final:
        for key in sorted(writers):
            group = pq.read_table(folder / f"bucket-{key}.parquet")
            final.write_table(group, row_group_size=group.num_rows)
    return rows


def unlabelled(table: pa.Table) -> bool:
    """Return whether no row of a raw table has a label."""
    return bool(table.column(LABEL).null_count == table.num_rows)
