"""Records that a request names and the server reads itself: only below the prefixes that were allowed.

A location is checked before it is used. It may have no `..`, no other scheme, no host and no symbolic link that leads
out of the prefixes, so that nobody can make the server read its own keys, or a cloud's metadata address.
"""

import os
import re
from collections.abc import Sequence

from anyecg_ray import storage
from anyecg_ray.header import NO_FILE, RecordError, header_text, parse_header
from anyecg_ray.http_problems import Problem, busy, of_record
from anyecg_ray.limits import Limits
from anyecg_ray.request_ecg import HEADER_BYTES, Ecg, check_header, check_header_size, joined
from anyecg_ray.storage import MissingObject, Range, StorageError, TransientError

SEGMENTS = 1000
"""Most segments of a record whose headers are fetched."""

_PLAIN = re.compile(r"[^\x00-\x1f\x7f\\?#%*\[\]]+")


def read(uri: str, prefixes: Sequence[str], limits: Limits) -> Ecg:
    """The record at a location, with all of its signal files. Raises Problem."""
    where = allowed(uri, prefixes)
    try:
        text = _headers(where, prefixes)
        files = {name: _inside(_sibling(where, name), prefixes) for name in _files(text)}
        sizes = dict(zip(files, storage.sizes(list(files.values())), strict=True))
        known = {name: size for name, size in sizes.items() if isinstance(size, int)}
        check_header(text, known, limits)
        if sum(known.values()) > 4 * limits.samples + (1 << 20):  # bytes of a sample, and what may precede them
            raise Problem(413, "too_large", "the signal files are larger than this server reads", "use the back-fill")
        blobs = _fetched([Range(files[name]) for name in files])
    except RecordError as error:
        raise of_record(error, "record") from None
    return Ecg(header=text, blobs={n: b for n, b in zip(files, blobs, strict=True) if b is not None})


def _files(text: str) -> list[str]:
    """Signal files of a record and its segments."""
    signals = [s for part in text.split("\f") for s in parse_header(part).signals]
    return list(dict.fromkeys(s.file for s in signals if s.file != NO_FILE))


def allowed(uri: str, prefixes: Sequence[str]) -> str:
    """The location in one plain form. Raises Problem: 403 outside the prefixes, 422 for what is no location."""
    scheme, mark, path = uri.rpartition("://")
    plain = _PLAIN.fullmatch(path.strip("/") or "?") and not any(
        p in ("", ".", "..") for p in path.strip("/").split("/")
    )
    if not plain or path.startswith("~"):
        detail = "the location is not plain: no .., no doubled slashes, no wildcards, no escapes"
        raise Problem(422, "not_a_location", detail, "give s3://bucket/prefix/name", "record")
    if scheme not in ("", "file", "s3", "s3a"):
        raise _outside()
    where = (f"s3://{path}" if scheme.startswith("s3") else f"/{path.lstrip('/')}").removesuffix(".hea")
    if (mark or uri.startswith("/")) and any(_below(where, prefix) for prefix in prefixes):
        return _inside(where, prefixes)
    raise _outside()


def _outside() -> Problem:
    detail = "this server does not read records there"
    return Problem(403, "record_not_allowed", detail, "send the record itself as multipart/form-data", "record")


def _below(where: str, prefix: str) -> bool:
    prefix = prefix.replace("s3a://", "s3://", 1)
    root = prefix if prefix.startswith("s3://") else storage.absolute(prefix)
    return where.startswith(root.rstrip("/") + "/")


def _inside(where: str, prefixes: Sequence[str]) -> str:
    """The location, unchanged. Raises Problem (403) where a symbolic link leads out of the prefixes."""
    if not storage.is_local(where):
        return where
    roots = [os.path.realpath(storage.absolute(p)) for p in prefixes if storage.is_local(p)]
    for file in (where, where + ".hea"):
        real = os.path.realpath(file)
        if not any(real.startswith(root.rstrip("/") + "/") for root in roots):
            raise _outside()
    return where


def _headers(where: str, prefixes: Sequence[str]) -> str:
    """The record's header with those of its segments. Raises RecordError, Problem."""
    text = _header(where)
    header = parse_header(text)
    names = dict.fromkeys(s.name for s in header.segments if s.name != NO_FILE)
    if len(names) > SEGMENTS:
        detail = f"the record has {len(names)} segments"
        raise Problem(413, "too_many_segments", detail, "use the back-fill for such a record", "record")
    places = [_inside(_sibling(where, name), prefixes) for name in names]
    found = _fetched([Range(place + ".hea", 0, HEADER_BYTES) for place in places])
    texts = {n: header_text(b) for n, b in zip(names, found, strict=True) if b}
    return joined({header.name: text, **texts}) if texts else text


def _header(where: str) -> str:
    try:
        check_header_size(storage.size(where + ".hea"), "the header")
    except StorageError as error:
        raise _explained(error) from None
    raw = _fetched([Range(where + ".hea")])[0]
    if raw is None:
        raise _missing()
    return header_text(raw)


def _fetched(ranges: Sequence[Range]) -> list[bytes | None]:
    """The bytes of each; None where an object is not there. Raises Problem (502, 503) where storage fails."""
    found = storage.read_ranges(ranges)
    for got in found:
        if isinstance(got, StorageError) and not isinstance(got, MissingObject):
            raise _explained(got)
    return [got if isinstance(got, bytes) else None for got in found]


def _explained(error: StorageError) -> Problem:
    if isinstance(error, MissingObject):
        return _missing()
    if isinstance(error, TransientError):
        return busy("the storage of the records does not answer", 5)
    # which credentials are missing is for the server's keeper, and stands in no answer
    detail, mend = "the storage of the records refuses this server", "tell whoever runs this server"
    return Problem(502, "storage_refused", detail, mend, "record")


def _missing() -> Problem:
    return Problem(
        404, "no_such_record", "there is no such record", "name it without suffix, as in the archive", "record"
    )


def _sibling(where: str, name: str) -> str:
    return storage.join(where.rpartition("/")[0], name)
