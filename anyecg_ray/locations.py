"""Where things lie: a folder or s3://bucket/prefix, and the one client for each."""

import os
from functools import lru_cache

import fsspec

from anyecg_ray.storage_errors import StorageError

S3_CLIENT = {
    "max_pool_connections": 64,
    "connect_timeout": 5,
    "read_timeout": 30,
    # "standard" also retries 500, 502, 503 and 504, which s3fs's own loop does not, and stops when all requests fail
    "retries": {"mode": "standard", "total_max_attempts": 4},
}


_ODD_BYTES = {0xDC00 + byte: 0xEF00 + byte for byte in range(0x80, 0x100)}
"""What Python makes of a byte that is no UTF-8, which no table can hold, and a private character that it can."""

_AS_ON_DISK = {told: odd for odd, told in _ODD_BYTES.items()}


def printable(name: str) -> str:
    """A file's name as a table can hold it, and filesystem() finds it again: on disk it need not be UTF-8."""
    return name if name.isascii() else name.translate(_ODD_BYTES)


def join(uri: str, *parts: str) -> str:
    """Location below `uri`, for folders and buckets alike; a part never leads out of it by being absolute."""
    whole = uri.rstrip("/") or "/"
    for part in parts:
        whole += part if not part or whole.endswith("/") else f"/{part}"
    return whole


def absolute(uri: str) -> str:
    """The same location whatever the working folder of the process that uses it."""
    return filesystem(uri)[1] if is_local(uri) else uri


@lru_cache
def _s3() -> fsspec.AbstractFileSystem:
    fs = fsspec.filesystem("s3", use_listings_cache=False, config_kwargs=S3_CLIENT)
    fs.retries = 1  # else its own five tries multiply with botocore's and ours
    return fs


def forget_clients() -> None:
    """Drop the S3 client, so that the next use reads endpoint and credentials anew."""
    _s3.cache_clear()
    fsspec.get_filesystem_class("s3").clear_instance_cache()


def filesystem(uri: str) -> tuple[fsspec.AbstractFileSystem, str]:
    """The fsspec file system of a location, and the location's path within it. Raises StorageError for another kind."""
    protocol, _, path = uri.rpartition("://")
    if protocol in ("s3", "s3a"):
        return _s3(), path
    if protocol in ("", "file"):
        path = path if path.isascii() else path.translate(_AS_ON_DISK)
        return fsspec.filesystem("file"), os.path.abspath(os.path.expanduser(path))
    raise StorageError(f"{uri}: cannot use this kind of location ({protocol}); give a folder or s3://…")


def is_local(uri: str) -> bool:
    """Whether the location is on this machine's disk."""
    return uri.rpartition("://")[0] in ("", "file")
