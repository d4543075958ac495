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


class _Hash:
    """A file that keeps nothing but the hash of what is written to it."""

    def __init__(self) -> None:
        self.sha256 = hashlib.sha256()

    def write(self, data: Any) -> None:
        self.sha256.update(data)


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
    found = [file for file in storage.files(storage.join(out, FOLDER, name)) if file.endswith(".parquet")]
    read = storage.read_ranges([storage.Range(storage.join(out, FOLDER, name, file)) for file in found])
    tables = {}
    for file, raw in zip(found, read, strict=True):
        if not isinstance(raw, bytes):
            raise raw
        tables[file.removesuffix(".parquet")] = pq.read_table(io.BytesIO(raw))
    return tables


def forget(out: str) -> None:
    """Remove all counts."""
    storage.remove_folder(storage.join(out, FOLDER))


def forget_others(out: str, name: str) -> None:
    """Remove the counts of all other work."""
    for other in storage.folders(storage.join(out, FOLDER)):
        if other != name:
            storage.remove_folder(storage.join(out, FOLDER, other))


def clear(out: str, shards: set[str]) -> None:
    """Remove window files of all other shards: made under another split, they could put one patient into two."""
    for split in PARTS:
        for part in segments.parts(out, split):
            if part.rpartition("/part-")[2].removesuffix(".parquet") not in shards:
                storage.remove(part)
