"""What an `anyecg prepare` that was cut off has done already: beside its files, each shard leaves what it counted.

SEGMENTS/unfinished/WORK/SHARD.parquet is written after the shard's windows, so that a shard whose counts are there is
whole. WORK names all that decides what the files hold, results and settings alike: other work begins anew.
"""

import hashlib
import io
import pickle
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from anyecg_ray import segments, storage
from anyecg_ray.splits import PARTS

FOLDER = "unfinished"


class _Hash(io.RawIOBase):
    """A file that keeps nothing but the hash of what is written to it."""

    def __init__(self) -> None:
        self.sha256 = hashlib.sha256()

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self.sha256.update(data)
        return len(memoryview(data).cast("B"))


def work(*parts: Any) -> str:
    """A name for work that these decide."""
    file = _Hash()
    pickle.Pickler(file, protocol=5).dump(parts)
    return file.sha256.hexdigest()[:16]


def leave(out: str, name: str, shard: str, counted: pa.Table) -> None:
    """Say that a shard is done."""
    with storage.atomic_output(storage.join(out, FOLDER, name, f"{shard}.parquet")) as file:
        pq.write_table(counted, file)


def done(out: str, name: str) -> dict[str, pa.Table]:
    """Shard -> what it counted, of those that this work has done. Raises StorageError."""
    found = [file for file in _listed(storage.join(out, FOLDER, name), 1) if file.endswith(".parquet")]
    read = storage.read_ranges([storage.Range(storage.join(out, FOLDER, name, file)) for file in found])
    tables = {}
    for file, raw in zip(found, read, strict=True):
        if not isinstance(raw, bytes):
            raise raw
        tables[file.removesuffix(".parquet")] = pq.read_table(io.BytesIO(raw))
    return tables


def forget(out: str, keep: str | None = None) -> None:
    """Remove the counts of all work but `keep`."""
    for name in _listed(storage.join(out, FOLDER), 0):
        if name != keep:
            storage.remove_folder(storage.join(out, FOLDER, name))
    if keep is None:
        storage.remove_folder(storage.join(out, FOLDER))


def clear(out: str, shards: set[str]) -> None:
    """Remove windows of all shards but these: those of another split would put their patients into two."""
    for split in PARTS:
        for part in segments.parts(out, split):
            if part.rpartition("/part-")[2].removesuffix(".parquet") not in shards:
                storage.remove(part)


def _listed(folder: str, which: int) -> list[str]:
    """Folders (0) or files (1) in a folder, none where it is not there."""
    try:
        return storage.list_folder(folder)[which]
    except storage.MissingObject:
        return []
