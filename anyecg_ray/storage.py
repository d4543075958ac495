"""The one place for locations: a folder and `s3://bucket/prefix` behave alike everywhere else.

Reads come as ranges, many at a time, because an archive is millions of small objects. Writes are
atomic: a reader sees the old object, the new one, or none, never half of one. Endpoint and
credentials come from the `AWS_*` environment, as in every AWS tool.
"""

import os
import posixpath
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import lru_cache
from typing import IO, Any, NamedTuple, TypeVar, cast

import fsspec

from anyecg_ray.config import InputError

T = TypeVar("T")

ATTEMPTS = 4
"""Tries of one read before a passing fault counts as one that stayed; waits of 0.2, 0.4 and 0.8 s between."""


class StorageError(InputError):
    """A location that cannot be read or written; the message names it."""


class MissingObject(StorageError):
    """The object is not there."""


class TransientError(StorageError):
    """A time-out, a 503, a dropped connection: another try may succeed."""


class Range(NamedTuple):
    """Bytes of one object: `length` None means to its end."""

    uri: str
    offset: int = 0
    length: int | None = None


def join(uri: str, *parts: str) -> str:
    """Location below `uri`, for folders and buckets alike."""
    return posixpath.join(uri.rstrip("/") or "/", *parts)


@lru_cache
def _s3() -> fsspec.AbstractFileSystem:
    # s3fs retries 5 times with long waits of its own; one retry policy, ours, is easier to reason about
    config = {"max_pool_connections": 64, "connect_timeout": 10, "read_timeout": 60, "retries": {"max_attempts": 1}}
    return fsspec.filesystem("s3", use_listings_cache=False, config_kwargs=config)


def filesystem(uri: str) -> tuple[fsspec.AbstractFileSystem, str]:
    """The fsspec file system of a location, and the location's path within it."""
    protocol, _, path = uri.rpartition("://")
    if protocol in ("s3", "s3a"):
        return _s3(), path
    if protocol in ("", "file"):
        return fsspec.filesystem("file"), os.path.abspath(os.path.expanduser(path))
    try:
        return cast(tuple[fsspec.AbstractFileSystem, str], fsspec.url_to_fs(uri))
    except (ValueError, ImportError) as error:
        raise StorageError(f"{uri}: cannot use this kind of location ({error}); give a folder or s3://…") from None


def is_local(uri: str) -> bool:
    """Whether the location is on this machine's disk."""
    return uri.rpartition("://")[0] in ("", "file")


def explain(error: Exception, uri: str) -> StorageError:
    """The storage library's exception as one of ours, with the location and the mend."""
    if isinstance(error, StorageError):
        return error
    if isinstance(error, (FileNotFoundError, NotADirectoryError, IsADirectoryError)):
        return MissingObject(f"{uri}: not there")
    name, text = type(error).__name__, " ".join(str(error).split())[:200]
    if isinstance(error, PermissionError) or name in ("NoCredentialsError", "PartialCredentialsError"):
        mend = "check the file's permissions" if is_local(uri) else "check AWS_ACCESS_KEY_ID, AWS_PROFILE or the role"
        return StorageError(f"{uri}: access refused ({text}); {mend}")
    if is_local(uri):
        return StorageError(f"{uri}: {text}")
    return TransientError(f"{uri}: storage failed ({name}: {text})")


def retried(action: Callable[[], T], uri: str) -> T:
    """`action()`, tried again while it fails in a way that may pass. Raises StorageError."""
    for attempt in range(ATTEMPTS):
        try:
            return action()
        except Exception as error:
            told = explain(error, uri)
            if not isinstance(told, TransientError) or attempt == ATTEMPTS - 1:
                raise told from None
            time.sleep(0.2 * 2**attempt)
    raise AssertionError("unreachable")


def read_bytes(uri: str) -> bytes:
    """The whole object. Raises StorageError."""
    fs, path = filesystem(uri)
    return retried(lambda: cast(bytes, fs.cat_file(path)), uri)


def read_ranges(ranges: Sequence[Range]) -> list[bytes | StorageError]:
    """The bytes of each range, fetched concurrently; in its place the error where one could not be had.

    A range that reaches past the object's end gives the bytes up to it.
    """
    if not ranges:
        return []
    if is_local(ranges[0].uri):
        return [_read_local(r) for r in ranges]
    results: list[bytes | StorageError] = [TransientError(f"{r.uri}: not tried") for r in ranges]
    todo = list(range(len(ranges)))
    for attempt in range(ATTEMPTS):
        if attempt:
            time.sleep(0.2 * 2 ** (attempt - 1))
        for i, result in zip(todo, _fetch([ranges[i] for i in todo]), strict=True):
            results[i] = result
        todo = [i for i in todo if isinstance(results[i], TransientError)]
        if not todo:
            break
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
    starts = [r.offset for r in ranges]
    ends = [None if r.length is None else r.offset + r.length for r in ranges]
    try:
        found = fs.cat_ranges(paths, starts, ends, on_error="return")
    except Exception as error:  # refused credentials fail before any single range does
        found = [error] * len(ranges)
    return [explain(f, r.uri) if isinstance(f, Exception) else bytes(f) for f, r in zip(found, ranges, strict=True)]


def exists(uri: str) -> bool:
    """Whether an object or a folder is there. Raises StorageError where that cannot be told."""
    fs, path = filesystem(uri)
    return retried(lambda: bool(fs.exists(path)), uri)


def size(uri: str) -> int:
    """Bytes of the object. Raises StorageError."""
    fs, path = filesystem(uri)
    return retried(lambda: int(fs.size(path)), uri)


@contextmanager
def open_input(uri: str) -> Iterator[IO[bytes]]:
    """The object as a seekable binary file. Raises StorageError."""
    fs, path = filesystem(uri)
    file = retried(lambda: fs.open(path, "rb"), uri)
    with file:
        yield file


@contextmanager
def atomic_output(uri: str) -> Iterator[IO[bytes]]:
    """A binary file that appears at `uri` once the block ends, and not at all where it raises.

    On disk that is a rename of a file beside it; an S3 upload becomes visible when it completes.
    """
    fs, path = filesystem(uri)
    local = is_local(uri)
    target = f"{path}.{uuid.uuid4().hex[:8]}.tmp" if local else path
    try:
        if local:
            fs.makedirs(os.path.dirname(path), exist_ok=True)
        file: Any = fs.open(target, "wb")
    except Exception as error:
        raise _unwritable(error, uri) from None
    try:
        yield file
        if local:
            file.flush()
            os.fsync(file.fileno())
        file.close()
        if local:
            os.replace(target, path)
    except BaseException as error:
        _discard(file, target if local else None)
        if isinstance(error, OSError):
            raise _unwritable(error, uri) from None
        raise


def _unwritable(error: Exception, uri: str) -> StorageError:
    told = explain(error, uri)
    kind = StorageError if isinstance(told, MissingObject) else type(told)
    return kind(f"{told} — cannot write there")


def _discard(file: Any, temporary: str | None) -> None:
    """Drop what was written: abort the upload, or remove the temporary file."""
    try:
        if temporary is None:
            file.discard()
        else:
            file.close()
            os.unlink(temporary)
    except (OSError, AttributeError):
        pass  # nothing was begun, or it is gone already


def write_atomic(uri: str, data: bytes) -> None:
    """Write one object so that a reader sees all of it or none. Raises StorageError."""
    if is_local(uri):
        with atomic_output(uri) as file:
            file.write(data)
        return
    fs, path = filesystem(uri)
    try:
        retried(lambda: fs.pipe_file(path, data), uri)
    except StorageError as error:
        raise _unwritable(error, uri) from None


def remove(uri: str) -> None:
    """Remove one object; one that is not there is no error."""
    fs, path = filesystem(uri)
    try:
        retried(lambda: fs.rm_file(path), uri)
    except MissingObject:
        pass


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


def walk(uri: str, suffix: str, threads: int = 16) -> Iterator[str]:
    """Paths (relative to `uri`) of every object whose name ends with `suffix`, folder by folder, in order.

    Folders are listed `threads` at a time; only the folders still to be listed are held in memory.
    """
    with ThreadPoolExecutor(threads) as pool:
        waiting: list[str] = [""]
        while waiting:
            here, waiting = waiting[-threads:][::-1], waiting[:-threads]
            listed = list(pool.map(lambda folder: list_folder(join(uri, folder) if folder else uri), here))
            for folder, (_, files) in zip(here, listed, strict=True):
                yield from (posixpath.join(folder, name) for name in files if name.endswith(suffix))
            for folder, (folders, _) in reversed(list(zip(here, listed, strict=True))):
                waiting += [posixpath.join(folder, name) for name in reversed(folders)]
