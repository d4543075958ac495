"""Which rows of a manifest become one pack, and which of these parts are packed.

A part's index is written after its pack: that it is there, and has no object that is to be tried again, means that
the part is done.
"""

import io
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import accumulate, pairwise
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from anyecg_ray import storage
from anyecg_ray.manifest_file import ManifestFile, read_rows
from anyecg_ray.pack_file import FOLDER
from anyecg_ray.schema import Status

AT_ONCE = 32
"""Indexes that are read at once."""


class Part(NamedTuple):
    """Rows of the manifest, all spans of some records, whose objects become one pack."""

    first: int
    stop: int

    @property
    def name(self) -> str:
        """The same rows have the same name in every run."""
        return f"{self.first:010d}-{self.stop:010d}"


def plan(manifest: ManifestFile, size: int) -> Iterator[Part]:
    """The manifest's rows in parts of about `size` bytes of signals, estimated at two bytes a sample.

    A record's spans stay together, as they share its objects; but for that a part ends with its row group, so that
    a manifest that grew has the same parts and more.
    """
    first = at = held = 0
    record = ""
    for group in range(len(manifest.row_groups)):
        rows = read_rows(manifest.uri, group, columns=["record_id", "n_samples", "leads"])
        sizes = pc.multiply(pc.multiply(rows["n_samples"], pc.list_value_length(rows["leads"])), 2)
        began = at
        for record_id, n in zip(rows["record_id"].to_pylist(), pc.fill_null(sizes, 0).to_pylist(), strict=True):
            if record_id != record and at > first and (held >= size or first < began):
                yield Part(first, at)
                first, held = at, 0
            record, held, at = record_id, held + n, at + 1
    if at > first:
        yield Part(first, at)


def rows_of(manifest: ManifestFile, part: Part, columns: list[str]) -> pa.Table:
    """The part's rows, from all row groups that it touches."""
    tables = []
    for group, (a, b) in enumerate(pairwise(accumulate(manifest.row_groups, initial=0))):
        first, stop = max(a, part.first), min(b, part.stop)
        if first < stop:
            tables.append(read_rows(manifest.uri, group, first - a, stop - first, columns))
    return pa.concat_tables(tables)


class _Written(NamedTuple):
    """A part that has an index."""

    part: Part
    files: set[str]
    """The packs that the index names."""
    failed: bool
    """Whether some of its objects are to be tried again."""


def left(parts: Sequence[Part], out: str) -> list[Part]:
    """The parts that are still to be written, or again because storage failed."""
    files = set(storage.files(storage.join(out, FOLDER)))
    done = {w.part for w in _written(parts, files, out) if not w.failed and w.files <= files}
    if done:
        print(f"{out}: {len(done):,} of {len(parts):,} packs are done, going on", flush=True)
    return [part for part in parts if part not in done]


def tidy(parts: Sequence[Part], out: str) -> None:
    """Remove packs that no index names, which stopped runs left, and indexes of parts that are not among these."""
    files = storage.files(storage.join(out, FOLDER))
    written = _written(parts, set(files), out)
    used = {name for w in written for name in (f"{w.part.name}.parquet", *w.files)}
    for name in files:
        if name not in used:
            storage.remove(storage.join(out, FOLDER, name))


def _written(parts: Sequence[Part], files: set[str], out: str) -> list[_Written]:
    with ThreadPoolExecutor(AT_ONCE) as pool:
        return list(pool.map(lambda p: _summary(p, out), [p for p in parts if f"{p.name}.parquet" in files]))


def _summary(part: Part, out: str) -> _Written:
    index = read_index(out, part)
    packs = {p.rpartition("/")[2] for p in pc.unique(index["pack"]).to_pylist() if p}
    return _Written(part, packs, bool(pc.any(pc.equal(index["fault"], Status.TRANSIENT)).as_py()))


def read_index(out: str, part: Part) -> pa.Table:
    """What became of the part's objects, as pack_file.INDEX. Raises StorageError."""
    return pq.read_table(io.BytesIO(storage.read_bytes(index_uri(out, part))))


def index_uri(out: str, part: Part) -> str:
    """Where the part's index goes."""
    return storage.join(out, FOLDER, f"{part.name}.parquet")
