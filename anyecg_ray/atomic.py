"""Write one object so that a reader sees the old one, the new one, or none, never half of one.

On disk that is a rename of a file beside it; an S3 upload becomes visible when it completes. `create` never replaces.
"""

import errno
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import IO, Any

import fsspec

from anyecg_ray.locations import filesystem, is_local
from anyecg_ray.storage_errors import MissingObject, StorageError, explain, retried, s3_code

NO_LINKS = frozenset({errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK})
"""What a file system says that gives a file one name only."""

UPLOAD_PART = 16 << 20
"""Bytes of one part of an upload, and of the buffer behind it; S3 takes 10,000 of them."""


@contextmanager
def atomic_output(uri: str) -> Iterator[IO[bytes]]:
    """A binary file that appears at `uri` once the block ends, and not at all where it raises.

    Raises StorageError where it cannot be written.
    """
    fs, path = filesystem(uri)
    local = is_local(uri)
    path = _real(uri) if local else path
    target = _temporary_name(path) if local else path
    file = _opened(fs, target, uri)
    try:
        yield file
        if local:
            file.flush()
            os.fsync(file.fileno())
        file.close()
        if local:
            os.replace(target, path)
            _keep_entry(path)
    except BaseException as error:
        _discard(file, target if local else None)
        if isinstance(error, OSError):
            raise _unwritable(error, uri) from None
        raise


def _temporary_name(path: str) -> str:
    """A name in the same folder for what is not yet whole; readers of folders pass over names that begin with a dot."""
    folder, name = os.path.split(path)
    return os.path.join(folder, f".{name}.{uuid.uuid4().hex[:8]}.tmp")


def _real(uri: str) -> str:
    """The path on disk to replace: links are followed. Raises StorageError for a folder or a device."""
    path = os.path.realpath(filesystem(uri)[1])
    if os.path.isdir(path):
        raise StorageError(f"cannot write to {uri}: it is a folder; name a file in it")
    if os.path.exists(path) and not os.path.isfile(path):
        raise StorageError(f"cannot write to {uri}: it is no regular file")
    return path


def _opened(fs: fsspec.AbstractFileSystem, target: str, uri: str) -> Any:
    try:
        if not is_local(uri):
            return fs.open(target, "wb", block_size=UPLOAD_PART)
        fs.makedirs(os.path.dirname(target), exist_ok=True)
        return fs.open(target, "wb")
    except Exception as error:
        raise _unwritable(error, uri) from None


def check_writable(uri: str) -> None:
    """Raise StorageError where no object could be written at `uri`; leaves nothing behind.

    For jobs that write only at their end, hours later.
    """
    fs, path = filesystem(uri)
    if is_local(uri):
        target = _temporary_name(_real(uri))
        _discard(_opened(fs, target, uri), target)
        return
    bucket, key, _ = fs.split_path(path)
    try:
        upload = retried(lambda: fs.call_s3("create_multipart_upload", Bucket=bucket, Key=key), uri)
    except Exception as error:
        raise _unwritable(error, uri) from None
    try:
        fs.abort_mpu(bucket, key, upload["UploadId"])
    except Exception:
        pass  # who may write need not be allowed to abort


def _unwritable(error: Exception, uri: str) -> StorageError:
    told = explain(error, uri)
    if isinstance(told, MissingObject):
        return StorageError(f"cannot write to {uri}: the bucket or the folder is not there")
    return type(told)(f"cannot write to {told}")


def _discard(file: Any, temporary: str | None) -> None:
    """Drop what was written: abort the upload, or remove the temporary file."""
    try:
        if temporary is None:
            file.discard()
        else:
            file.close()
    except Exception:
        pass  # nothing was begun; what counts is the error that led here
    if temporary is None:
        file.closed = True  # else the upload would be finished when the file object is collected
    else:
        try:
            os.unlink(temporary)
        except OSError:
            pass


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


def create(uri: str, data: bytes) -> bool:
    """Write one object where there is none, and say whether it was written: of several writers one succeeds.

    False may also mean that an earlier try of this very call was written and its answer lost. Raises StorageError.
    """
    fs, path = filesystem(uri)
    try:
        return _linked(_real(uri), data) if is_local(uri) else retried(lambda: _put_new(fs, path, data), uri)
    except (OSError, StorageError) as error:
        raise _unwritable(error, uri) from None


def _linked(path: str, data: bytes) -> bool:
    os.makedirs(os.path.dirname(path), exist_ok=True)
    whole = _temporary_name(path)
    try:
        with open(whole, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.link(whole, path)  # unlike a rename, it never replaces what is there
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in NO_LINKS:
            raise
        return _written_in_place(path, data)
    finally:
        with suppress(OSError):
            os.unlink(whole)
    _keep_entry(path)
    return True


def _written_in_place(path: str, data: bytes) -> bool:
    """Where files cannot have two names: as exclusive, but a crash may leave half of it."""
    try:
        with open(path, "xb") as file:
            file.write(data)
    except FileExistsError:
        return False
    return True


def _put_new(fs: fsspec.AbstractFileSystem, path: str, data: bytes) -> bool:
    try:
        fs.pipe_file(path, data, mode="create")
    except OSError as error:
        if s3_code(error) in ("PreconditionFailed", "412"):
            return False
        if s3_code(error) != "NotImplemented":
            raise
        if fs.exists(path):  # a store that knows no conditional write: two writers of one moment are not told apart
            return False
        fs.pipe_file(path, data)
    return True


def _keep_entry(path: str) -> None:
    """Let a new name survive a power cut as its content does, where the file system can."""
    try:
        folder = os.open(os.path.dirname(path), os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError:
        pass
