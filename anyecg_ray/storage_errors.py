"""What a fault of storage means to a job: gone, not allowed, wrong, or worth another try.

The message names the location, for the row of a table. A line that may end in a log has the reason only: of an object
in an archive the location may tell whose it is, and so may what a library says.
"""

import errno
import time
from collections.abc import Callable
from typing import TypeVar

from anyecg_ray.config import InputError, one_line
from anyecg_ray.schema import Status

T = TypeVar("T")

ATTEMPTS = 3
"""Tries of one action before a passing fault counts as one that stayed; waits of 0.2 and 0.4 s between.

Each is up to four requests, with botocore's own back-off between them: a busy bucket gets some ten seconds.
"""

PASSING = frozenset(
    {errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EAGAIN, errno.EINTR, errno.EMFILE, errno.ENFILE, errno.ENOMEM}
    | {errno.ECONNRESET, errno.ECONNREFUSED, errno.ECONNABORTED, errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ENETDOWN}
    | {errno.ENETUNREACH, errno.ENOLINK, errno.ENOTCONN, errno.ESHUTDOWN, errno.EBUSY}
)
"""What the operating system says of a network's folder that is out of reach, or of a process that holds too much."""


class StorageError(InputError):
    """A location that cannot be read or written; the message names it."""

    reason = "cannot be used"
    """The same without the location."""


class MissingObject(StorageError):
    """The object is not there."""

    reason = "not there"


class RefusedError(StorageError):
    """Storage does not let us: credentials, permissions, a policy."""

    reason = "access refused"


class TransientError(StorageError):
    """A time-out, a 503, a dropped connection, a network's folder out of reach: another try may succeed."""

    reason = "storage failed"


_GONE: dict[type[Exception], str] = {
    NotADirectoryError: "not there: a file stands where a folder should be",
    IsADirectoryError: "not there: it is a folder; name a file in it",
}


def status_of(error: StorageError) -> Status:
    """What becomes of a span whose signals met this. A refusal passes too: once the credentials are mended."""
    return Status.TRANSIENT if isinstance(error, (TransientError, RefusedError)) else Status.MISSING_SIGNAL


def explain(error: Exception, uri: str) -> StorageError:
    """The storage library's exception as one of ours, with the location and the mend."""
    if isinstance(error, StorageError):
        return error
    too_long = getattr(error, "errno", None) == errno.ENAMETOOLONG  # no file can have such a name
    if too_long or isinstance(error, (FileNotFoundError, NotADirectoryError, IsADirectoryError)):
        return MissingObject(f"{uri}: {_GONE.get(type(error), 'not there')}")
    local = uri.rpartition("://")[0] in ("", "file")
    name, text = type(error).__name__, one_line(getattr(error, "strerror", None) or error, 200)
    if name == "NoCredentialsError":
        mend = "set AWS_PROFILE or AWS_ACCESS_KEY_ID, or FSSPEC_S3_ANON=true for a public bucket"
        return _because(RefusedError(f"{uri}: no credentials; {mend}"), f"no credentials; {mend}")
    kind = text if local else s3_code(error) or name
    if isinstance(error, PermissionError) or name == "PartialCredentialsError":
        mend = "check the permissions" if local else "check AWS_ACCESS_KEY_ID, AWS_PROFILE or the role"
        told = RefusedError(f"{uri}: access refused ({text}); {mend}")
        return _because(told, f"access refused ({kind}); {mend}")
    passing = local and getattr(error, "errno", None) in PASSING
    if (local and not passing) or _is_final(error):
        return _because(StorageError(f"{uri}: {text}"), kind)
    return _because(TransientError(f"{uri}: storage failed ({name}: {text})"), f"storage failed ({kind})")


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


def below(error: StorageError, uri: str) -> StorageError:
    """The error of something below a location, for a line that may end in a log."""
    return type(error)(f"{uri.rstrip('/')}/…: {error.reason}")


def _because(error: StorageError, reason: str) -> StorageError:
    error.reason = reason
    return error


def s3_code(error: Exception) -> str:
    """S3's word for what is wrong; its sentence may name the object."""
    response = getattr(error.__cause__, "response", None)
    return str(response.get("Error", {}).get("Code", "")) if isinstance(response, dict) else ""


def _is_final(error: Exception) -> bool:
    """Whether S3 said that the request itself is wrong (a bucket's name, its region): another try cannot help."""
    response = getattr(error.__cause__, "response", None)
    status = response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0) if isinstance(response, dict) else 0
    return 300 <= status < 500 and status not in (408, 409, 429)
