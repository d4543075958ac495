"""Spans read from packs, the large files in which `anyecg pack` puts the signal objects of many records.

The manifest's column `packed` says where each object lies, so nobody opens a pack to look: an object is a range of
bytes, and its bytes are as they were, so the same decoder reads them. Spans that follow each other in the manifest
follow each other in a pack and are read together, by a few large requests. Packs on disk are read in the same way and
not mapped into memory: a read that fails is a row with a status, a mapped page that fails a dead worker.
"""

from collections.abc import Sequence
from typing import Any

from anyecg_ray import storage
from anyecg_ray.record import Bytes
from anyecg_ray.schema import Status
from anyecg_ray.storage import MissingObject, Range, StorageError, TransientError

GAP = 256 << 10
"""Bytes between two ranges up to which both come with one request: S3 sends as many in the time that another takes."""

TOGETHER = 8 << 20
"""Most bytes of one joint request: a connection to S3 carries some 60 MB a second, so larger reads go over several."""


def located(archive: str, row: dict[str, Any], path: str, first: int, length: int | None) -> Range | StorageError:
    """Where the bytes [first, first + length) of a signal object lie; the error where it could not be packed.

    row: of schema.PACKED_MANIFEST; path: one of its `files`; length None: to the object's end, beyond which lies
    another object and no range reaches.
    """
    place = dict(zip(row["files"] or (), row["packed"] or (), strict=True)).get(path)
    if place is None or place["fault"] == Status.MISSING_SIGNAL:
        return MissingObject(f"{path}: was not there when its archive was packed")
    if place["fault"] is not None:
        return TransientError(f"{path}: could not be read when its archive was packed; run `anyecg pack` again")
    first = min(first, place["length"])
    left = place["length"] - first
    uri = storage.join(archive, place["pack"])
    return Range(uri, place["offset"] + first, left if length is None else min(length, left))


def read(asked: Sequence[Range | StorageError]) -> list[Bytes | StorageError]:
    """The bytes of each range, as views of what was read for several; an error stays one.

    asked: ranges of known length. Those of one pack that overlap or lie within GAP are read together.
    """
    ranges = [r for r in asked if isinstance(r, Range)]
    together, places = merged(ranges)
    found = storage.read_ranges(together)
    views = iter([_view(found[k], together[k], r) for r, k in zip(ranges, places, strict=True)])
    return [next(views) if isinstance(r, Range) else r for r in asked]


def merged(ranges: Sequence[Range]) -> tuple[list[Range], list[int]]:
    """Fewer ranges that cover these, and for each of these the index of the one that holds it."""
    fewer: list[Range] = []
    places = [0] * len(ranges)
    for i in sorted(range(len(ranges)), key=lambda i: ranges[i]):
        both = _joined(fewer[-1], ranges[i]) if fewer else None
        if both is None:
            fewer.append(ranges[i])
        else:
            fewer[-1] = both
        places[i] = len(fewer) - 1
    return fewer, places


def _joined(a: Range, b: Range) -> Range | None:
    """The range around two, of which `a` begins first; None where they are better read apart."""
    a_end, b_end = a.offset + (a.length or 0), b.offset + (b.length or 0)
    length = max(a_end, b_end) - a.offset
    if a.uri != b.uri or b.offset > a_end + GAP or (b_end > a_end and length > TOGETHER):
        return None
    return Range(a.uri, a.offset, length)


def _view(found: bytes | StorageError, whole: Range, r: Range) -> Bytes | StorageError:
    if isinstance(found, StorageError):
        return found
    begins = r.offset - whole.offset
    return memoryview(found)[begins : begins + (r.length or 0)]
