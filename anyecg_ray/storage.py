"""The one place for locations: a folder and `s3://bucket/prefix` behave alike everywhere else.

Reads come as ranges, many at a time, because an archive is millions of small objects. Writes are atomic (atomic.py).
Endpoint and credentials come from the `AWS_*` environment, as in every AWS tool. What lies in a zip is read there
(zips.py).
"""

import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import lru_cache
from typing import IO, Any, NamedTuple, cast

from anyecg_ray import zips
from anyecg_ray.atomic import atomic_output, check_writable, create, write_atomic
from anyecg_ray.locations import absolute, filesystem, forget_clients, is_local, join
from anyecg_ray.storage_errors import (
    ATTEMPTS,
    MissingObject,
    RefusedError,
    StorageError,
    TransientError,
    explain,
    retried,
)

__all__ = [
    "MissingObject", "RefusedError", "StorageError", "TransientError", "absolute", "atomic_output", "check_writable",
    "create", "filesystem", "forget_clients", "is_local", "join", "retried", "write_atomic",
]  # fmt: skip

LOCAL_THREADS = 16
"""Local files that are read, and objects whose sizes are asked for, at once."""


class Range(NamedTuple):
    """Bytes of one object: `length` None means to its end."""

    uri: str
    offset: int = 0
    length: int | None = None


def read_bytes(uri: str) -> bytes:
    """The whole object. Raises StorageError."""
    fs, path = filesystem(uri)
    return retried(lambda: cast(bytes, fs.cat_file(path, **_whole(uri))), uri)


def read_ranges(ranges: Sequence[Range]) -> list[bytes | StorageError]:
    """The bytes of each range, fetched concurrently; in its place the error where one could not be had.

    A range that reaches past the object's end gives the bytes up to it.
    """
    if not ranges:
        return []
    if any(zips.MARK in r.uri for r in ranges):
        return _read_members(ranges)
    return _read_plain(ranges)


def _read_plain(ranges: Sequence[Range]) -> list[bytes | StorageError]:
    read = _read_many_local if not ranges or is_local(ranges[0].uri) else _fetch
    results: list[bytes | StorageError] = [TransientError(f"{r.uri}: not tried") for r in ranges]
    todo = list(range(len(ranges)))
    for attempt in range(ATTEMPTS):
        if attempt:
            time.sleep(0.2 * 2 ** (attempt - 1))
        for i, result in zip(todo, read([ranges[i] for i in todo]), strict=True):
            results[i] = result
        todo = [i for i in todo if isinstance(results[i], TransientError)]
        if not todo:
            break
    return results


def _read_many_local(ranges: Sequence[Range]) -> list[bytes | StorageError]:
    if len(ranges) < LOCAL_THREADS:
        return [_read_local(r) for r in ranges]
    # a disk that is not yet in memory, or a network's, answers several at once no later than one
    parts = [ranges[i::LOCAL_THREADS] for i in range(LOCAL_THREADS)]
    results: list[bytes | StorageError] = [b""] * len(ranges)
    with ThreadPoolExecutor(LOCAL_THREADS) as pool:
        for i, read in enumerate(pool.map(lambda part: [_read_local(r) for r in part], parts)):
            results[i::LOCAL_THREADS] = read
    return results


def _read_local(r: Range) -> bytes | StorageError:
    try:
        with open(filesystem(r.uri)[1], "rb", buffering=0) as file:
            if r.offset:
                file.seek(r.offset)
            # -1 reads to the end; a raw read returns at most 2 GiB, far above any span
            return cast(bytes, file.read(-1 if r.length is None else r.length))
    except OSError as error:
        return explain(error, r.uri)


def _fetch(ranges: Sequence[Range]) -> list[bytes | StorageError]:
    fs = filesystem(ranges[0].uri)[0]
    paths = [filesystem(r.uri)[1] for r in ranges]
    # no range at all for a whole object: S3 refuses "from 0" where the object is empty
    starts = [r.offset if r.offset or r.length is not None else None for r in ranges]
    ends = [None if r.length is None else r.offset + max(r.length, 1) for r in ranges]
    try:
        found = fs.cat_ranges(paths, starts, ends, on_error="return", **_whole(ranges[0].uri))
    except Exception as error:  # refused credentials fail before any single range does
        found = [error] * len(ranges)
    return [_bytes_or_error(f, r) for f, r in zip(found, ranges, strict=True)]


def _whole(uri: str) -> dict[str, int]:
    # s3fs asks for an object's size first, a request each, unless it may not split the read
    return {"max_concurrency": 1} if uri.startswith(("s3://", "s3a://")) else {}


def _bytes_or_error(found: Any, r: Range) -> bytes | StorageError:
    if not isinstance(found, BaseException):
        return bytes(found)[: r.length]
    response = getattr(found.__cause__, "response", None) or {}
    if response.get("Error", {}).get("Code") in ("InvalidRange", "416"):
        return b""  # begins past the end
    return explain(found, r.uri) if isinstance(found, Exception) else TransientError(f"{r.uri}: read was cancelled")


@lru_cache(maxsize=4)  # a large zip's directory takes some dozens of megabytes, and shards go from zip to zip
def _zip(uri: str) -> dict[str, zips.Member] | None:
    """What a zip holds; None where that is no file: a folder may have such a name. Raises StorageError."""
    fs, path = filesystem(uri)
    if not retried(lambda: fs.isfile(path), uri):
        return None
    try:
        with open_input(uri, cache="none") as file:
            return zips.directory(file)
    except zips.DamagedZip as error:
        raise StorageError(f"{uri}: {error}") from None


def members(uri: str, suffix: str) -> list[str]:
    """Paths in a zip of all its files whose name ends with `suffix`, in order. Raises StorageError."""
    return sorted(path for path in _zip(uri) or () if path.endswith(suffix))


def _member(uri: str) -> tuple[str, zips.Member] | None:
    """The zip, and the member of it that a location names; None where it names a plain object. Raises StorageError."""
    if zips.MARK not in uri:
        return None
    zipped, path = zips.parted(uri)
    if (held := _zip(zipped)) is None:
        return None
    if (member := held.get(path)) is None:
        raise MissingObject(f"{uri}: not in the zip")
    return zipped, member


def _read_members(ranges: Sequence[Range]) -> list[bytes | StorageError]:
    results: list[bytes | StorageError] = [b""] * len(ranges)
    places: dict[int, tuple[zips.Member | None, Range]] = {}
    for i, r in enumerate(ranges):
        try:
            found = _member(r.uri)
        except StorageError as error:
            results[i] = error
        else:
            places[i] = (None, r) if found is None else (found[1], Range(found[0], *found[1].place(r.offset, r.length)))
    for i, raw in zip(places, _read_plain([within for _, within in places.values()]), strict=True):
        member = places[i][0]
        results[i] = raw if member is None or not isinstance(raw, bytes) else _taken(member, raw, ranges[i])
    return results


def _taken(member: zips.Member, raw: bytes, r: Range) -> bytes | StorageError:
    try:
        return member.taken(raw, r.offset, r.length)
    except zips.DamagedZip as error:
        return StorageError(f"{r.uri}: {error}")


def exists(uri: str) -> bool:
    """Whether an object or a folder is there. Raises StorageError where that cannot be told."""
    fs, path = filesystem(uri)
    return retried(lambda: bool(fs.exists(path)), uri)


def size(uri: str) -> int:
    """Bytes of the object. Raises StorageError."""
    if (found := _member(uri)) is not None:
        return found[1].size
    fs, path = filesystem(uri)
    return retried(lambda: int(fs.size(path)), uri)


def sizes(uris: Sequence[str]) -> list[int | StorageError]:
    """Bytes of each object, asked for concurrently; in its place the error where that cannot be told."""

    def one(uri: str) -> int | StorageError:
        try:
            return size(uri)
        except StorageError as error:
            return error

    if not uris:
        return []
    with ThreadPoolExecutor(LOCAL_THREADS) as pool:
        return list(pool.map(one, uris))


@contextmanager
def open_input(uri: str, cache: str = "readahead") -> Iterator[IO[bytes]]:
    """The object as a seekable binary file. Raises StorageError.

    cache: "readahead" for reading from start to end, "none" for reading here and there.
    """
    fs, path = filesystem(uri)
    options = {} if is_local(uri) else {"block_size": 8 << 20, "cache_type": cache}
    file = retried(lambda: fs.open(path, "rb", **options), uri)
    with file:
        yield file


def remove(uri: str) -> None:
    """Remove one object; one that is not there is no error."""
    fs, path = filesystem(uri)
    try:
        retried(lambda: fs.rm_file(path), uri)
    except MissingObject:
        pass


def remove_folder(uri: str) -> None:
    """Remove all that is below a location; one that is not there is no error."""
    fs, path = filesystem(uri)
    try:
        retried(lambda: fs.rm(path, recursive=True), uri)
    except MissingObject:
        pass


def files(uri: str) -> list[str]:
    """Names of the files directly below a location, sorted; none where it is not there. Raises StorageError."""
    try:
        return list_folder(uri)[1]
    except MissingObject:
        return []


def folders(uri: str) -> list[str]:
    """Names of the folders directly below a location, as files() has its files."""
    try:
        return list_folder(uri)[0]
    except MissingObject:
        return []


def list_folder(uri: str) -> tuple[list[str], list[str]]:
    """(folders, files) directly below a location, names only, sorted. Raises StorageError."""
    fs, path = filesystem(uri)
    if is_local(uri):
        entries = retried(lambda: list(os.scandir(path)), uri)
        folders = sorted(e.name for e in entries if e.is_dir())
        return folders, sorted(e.name for e in entries if not e.is_dir())
    found = retried(lambda: fs.ls(path, detail=True), uri)
    names = {
        d["name"].rstrip("/").rpartition("/")[2]: d["type"] for d in found if d["name"].strip("/") != path.strip("/")
    }
    return sorted(n for n, t in names.items() if t == "directory"), sorted(n for n, t in names.items() if t == "file")
