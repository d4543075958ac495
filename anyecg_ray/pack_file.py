"""Write packs: the signal objects of many records, their bytes unchanged, in one large Arrow file.

A pack is an uncompressed Arrow file (pyarrow, pandas, polars open it) of two columns, an object's path in the archive
and its bytes. Parquet was the other choice: there an object lies behind a page's header, levels and encoding, and a
part of a long record could not be had by a range of bytes, nor read in place. Signal bytes hardly compress losslessly
without a codec of their own, which would be a second decoder.
"""

import uuid
from collections.abc import Iterator, Sequence
from itertools import accumulate, chain, islice
from typing import IO, Any, NamedTuple

import pyarrow as pa

from anyecg_ray import storage
from anyecg_ray.storage import Range, StorageError
from anyecg_ray.storage_errors import status_of

FOLDER = "packs"
"""Of the packed archive."""

OBJECTS = 64
"""Objects that are fetched together."""

FIRST = 1 << 20
"""Bytes of each object in the first request: most are smaller, so that their sizes need not be asked for."""

CHUNK = 8 << 20
"""Bytes of the rest of an object that are held at a time."""

BATCH = 8 << 20
"""Bytes from which on a record batch is full."""

PACK = pa.schema([pa.field("path", pa.string(), nullable=False), pa.field("bytes", pa.large_binary(), nullable=False)])

INDEX = pa.schema(
    [
        pa.field("path", pa.string(), nullable=False),
        # as in schema.PACKED
        pa.field("pack", pa.string()),
        pa.field("offset", pa.int64()),
        pa.field("length", pa.int64()),
        pa.field("fault", pa.string()),
        # why it could not be packed
        pa.field("detail", pa.string()),
    ]
)

Row = dict[str, Any]


def write_pack(archive: str, paths: Sequence[str], out: str, name: str) -> pa.Table:
    """Pack the objects at some paths of an archive, in their order, as OUT/packs/NAME-….arrow.

    Returns a row of INDEX per object, also for those that could not be read. An object of more than FIRST + CHUNK
    bytes becomes a file of its own. Every call writes new files: what a manifest points at never changes.
    Raises StorageError where `out` cannot be written.
    """
    stem = f"{FOLDER}/{name}-{uuid.uuid4().hex[:8]}"
    rows: list[Row] = []
    with storage.atomic_output(storage.join(out, f"{stem}.arrow")) as file:
        pack = _Pack(file, f"{stem}.arrow")
        for path, content in _objects(archive, paths):
            if isinstance(content, StorageError):
                rows.append(_fault(path, content))
            elif isinstance(content, bytes):
                rows += pack.add(path, content)
            else:
                rows.append(_alone(path, content, out, f"{stem}-{len(rows)}.dat"))
        rows += pack.close()
    return pa.Table.from_pylist(rows, INDEX)


class _Long(NamedTuple):
    """An object that is too long to be held."""

    begins: bytes
    rest: Iterator[bytes]


class _Unread(Exception):
    """The rest of an object could not be read; wraps the StorageError, lest it be taken for one of writing."""


def _objects(archive: str, paths: Sequence[str]) -> Iterator[tuple[str, bytes | _Long | StorageError]]:
    todo = iter(paths)
    while some := list(islice(todo, OBJECTS)):
        uris = [storage.join(archive, path) for path in some]
        found = storage.read_ranges([Range(uri, 0, FIRST) for uri in uris])
        for path, uri, content in zip(some, uris, found, strict=True):
            if isinstance(content, bytes) and len(content) == FIRST:
                yield path, _continued(uri, content)
            else:
                yield path, content


def _continued(uri: str, begins: bytes) -> bytes | _Long | StorageError:
    rest = _rest(uri)
    try:
        more = next(rest)
    except _Unread as error:
        return error.args[0]
    return begins + more if len(more) < CHUNK else _Long(begins + more, rest)


def _rest(uri: str) -> Iterator[bytes]:
    """What follows an object's first bytes; only the last chunk is shorter than CHUNK. Raises _Unread."""
    at, found = FIRST, bytes(CHUNK)
    while len(found) == CHUNK:
        (read,) = storage.read_ranges([Range(uri, at, CHUNK)])
        if isinstance(read, StorageError):
            raise _Unread(read)
        yield read
        at, found = at + len(read), read


def _alone(path: str, content: _Long, out: str, pack: str) -> Row:
    """Copy one object as it is."""
    length = 0
    try:
        with storage.atomic_output(storage.join(out, pack)) as file:
            for chunk in chain([content.begins], content.rest):
                length += file.write(chunk)
    except _Unread as error:
        return _fault(path, error.args[0])
    return {"path": path, "pack": pack, "offset": 0, "length": length}


def _fault(path: str, error: StorageError) -> Row:
    return {"path": path, "fault": str(status_of(error)), "detail": str(error)}


class _Pack:
    """A pack while it is written, a record batch at a time."""

    def __init__(self, file: IO[bytes], name: str) -> None:
        self._file, self._name = file, name
        self._writer = pa.ipc.new_file(file, PACK)
        self._waiting: list[tuple[str, bytes]] = []
        self._size = 0

    def add(self, path: str, content: bytes) -> list[Row]:
        """Take an object; returns the rows of those that were written now."""
        self._waiting.append((path, content))
        self._size += len(content)
        return self._written() if self._size >= BATCH else []

    def close(self) -> list[Row]:
        """Write what waits, and the file's end."""
        rows = self._written() if self._waiting else []
        self._writer.close()
        return rows

    def _written(self) -> list[Row]:
        paths, contents = zip(*self._waiting, strict=True)
        batch = pa.record_batch([pa.array(paths, pa.string()), pa.array(contents, pa.large_binary())], schema=PACK)
        self._writer.write_batch(batch)
        begins = self._file.tell() - _after_first_byte(batch)
        self._waiting, self._size = [], 0
        offsets = accumulate(map(len, contents), initial=begins)
        return [
            {"path": path, "pack": self._name, "offset": offset, "length": len(content)}
            for path, content, offset in zip(paths, contents, offsets, strict=False)
        ]


def _after_first_byte(batch: pa.RecordBatch) -> int:
    """Bytes from the first object's first to the end of the batch as it is written.

    Arrow does not say where in a file it put a buffer, but the last bytes of the file are now this very message.
    """
    message = batch.serialize()
    data = pa.ipc.read_record_batch(message, batch.schema).column("bytes").buffers()[2]
    return message.address + message.size - data.address
