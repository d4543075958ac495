"""What a fault of storage means to a job: gone, not allowed, wrong, or worth another try."""

from anyecg_ray.config import InputError
from anyecg_ray.schema import Status


class StorageError(InputError):
    """A location that cannot be read or written; the message names it."""


class MissingObject(StorageError):
    """The object is not there."""


class RefusedError(StorageError):
    """Storage does not let us: credentials, permissions, a policy."""


class TransientError(StorageError):
    """A time-out, a 503, a dropped connection: another try may succeed."""


def status_of(error: StorageError) -> Status:
    """What becomes of a span whose signals met this. A refusal passes too: once the credentials are mended."""
    return Status.TRANSIENT if isinstance(error, (TransientError, RefusedError)) else Status.MISSING_SIGNAL


def explain(error: Exception, uri: str) -> StorageError:
    """The storage library's exception as one of ours, with the location and the mend."""
    if isinstance(error, StorageError):
        return error
    if isinstance(error, (FileNotFoundError, NotADirectoryError, IsADirectoryError)):
        return MissingObject(f"{uri}: not there")
    local = uri.rpartition("://")[0] in ("", "file")
    name, text = type(error).__name__, " ".join(str(getattr(error, "strerror", None) or error).split())[:200]
    if name == "NoCredentialsError":
        mend = "set AWS_PROFILE or AWS_ACCESS_KEY_ID, or FSSPEC_S3_ANON=true for a public bucket"
        return RefusedError(f"{uri}: no credentials; {mend}")
    if isinstance(error, PermissionError) or name == "PartialCredentialsError":
        mend = "check the permissions" if local else "check AWS_ACCESS_KEY_ID, AWS_PROFILE or the role"
        return RefusedError(f"{uri}: access refused ({text}); {mend}")
    if local or _is_final(error):
        return StorageError(f"{uri}: {text}")
    return TransientError(f"{uri}: storage failed ({name}: {text})")


def _is_final(error: Exception) -> bool:
    """Whether S3 said that the request itself is wrong (a bucket's name, its region): another try cannot help."""
    response = getattr(error.__cause__, "response", None)
    status = response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0) if isinstance(response, dict) else 0
    return 300 <= status < 500 and status not in (408, 409, 429)
