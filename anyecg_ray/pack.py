"""Pack an archive of many small objects for those who read it again and again: large files, and a manifest of them.

A part of the manifest becomes one pack (pack_file.py) in a Ray task; its index, written last, says that the part is
done, so the same line goes on where another stopped. Once all are, the manifest is written again, each span with the
places of its signal objects, row group by row group as it was: nothing is lost, and a back-fill that began on the
archive goes on with the packs.

OUT/manifest.parquet              the manifest of the packed archive
OUT/packs/PART-….arrow            the objects of a part
OUT/packs/PART-….dat              one that is very long, as it was
OUT/packs/PART.parquet            which objects the part has and where, or why not
OUT/_job.json, OUT/_driver.json   what is packed here, which a resume must match; who is at work on it (lease.py)
"""

from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import ray
from pydantic import Field

from anyecg_ray import cluster, json_file, storage
from anyecg_ray.config import InputError, JobError, Location, Settings
from anyecg_ray.lease import Lease
from anyecg_ray.manifest import ManifestFile, open_manifest, read_rows
from anyecg_ray.manifest_file import check_archive, write_packed
from anyecg_ray.pack_file import FOLDER, write_pack
from anyecg_ray.pack_parts import Part, index_uri, left, plan, read_index, rows_of, tidy
from anyecg_ray.progress import Progress
from anyecg_ray.schema import PACKED, Status

MANIFEST, JOB = "manifest.parquet", "_job.json"


class Pack(Settings):
    """Copy an archive's signals into large files, with a manifest that back-fill and prepare take like any other."""

    manifest: Location
    """What `anyecg manifest` wrote."""

    out: Location
    """Where the packs and their manifest go: a folder or s3:// prefix. The same command goes on with it."""

    archive: Location | None = None
    """Where the records lie now, if not where the manifest found them."""

    megabytes: int = Field(256, ge=1)
    """Approximate size of a pack: what one task writes, and the most that each task loses when a run is stopped."""


class Job(NamedTuple):
    """What a task needs to pack a part: plain values, which travel to any node."""

    manifest: ManifestFile
    archive: str
    out: str


def pack(settings: Pack) -> Counter[str]:
    """Write the packs and the manifest, print and return how many objects were packed and how many not, by reason.

    Raises InputError where an input cannot be used, JobError where storage failed for some objects: the manifest has
    their spans, as transient ones, and the same command tries them again.
    """
    manifest = open_manifest(storage.absolute(settings.manifest))
    if manifest.packed_from is not None:
        raise InputError(f"{settings.manifest}: is of packs already; give the manifest of {manifest.packed_from}")
    archive, out = (storage.absolute(uri).rstrip("/") for uri in (settings.archive or manifest.archive, settings.out))
    job = Job(manifest, archive, out)
    if manifest.uri == storage.join(out, MANIFEST):
        raise InputError(f"{settings.manifest}: would be overwritten; give another --out")
    check_archive(job.archive)
    with Lease(job.out, {"verb": "pack"}) as lease:
        _claim(job, settings.megabytes)
        parts = list(plan(manifest, settings.megabytes << 20))
        if not storage.exists(storage.join(job.out, MANIFEST)):
            tidy(parts, job.out)
        _write(todo := left(parts, job.out), job)
        lease.check()
        told = _write_manifest(parts, job)
        if not todo:  # else somebody may still be reading by the manifest of before
            tidy(parts, job.out)
    _report(told, job)
    return told.counts


def _claim(job: Job, megabytes: int) -> None:
    """Write down what is packed here. Raises InputError where it is something else."""
    uri = storage.join(job.out, JOB)
    told: dict[str, Any] = {"archive": job.archive, "megabytes": megabytes, "row_groups": list(job.manifest.digests)}
    before = json_file.read(uri) or {**told, "row_groups": []}
    if differ := json_file.differing(told, before):
        raise InputError(f"{job.out}: holds packs whose {differ}; give the same to go on, or another --out")
    json_file.write(uri, told)


def _write(todo: list[Part], job: Job) -> None:
    """Write these parts, on Ray. Raises InputError, JobError."""
    if not todo:
        return
    progress = Progress(sum(part.stop - part.first for part in todo), "spans")
    try:
        with cluster.connected():
            made = ray.data.range(len(todo), override_num_blocks=len(todo)).map_batches(
                _write_parts,  # type: ignore[arg-type]  # Ray forgets fn_args
                fn_args=(todo, job),
                batch_size=None,
                batch_format="pyarrow",
                num_cpus=1,
            )
            done = 0
            for block in made.iter_batches(batch_size=None, batch_format="pyarrow"):
                done += pc.sum(block["spans"]).as_py() or 0  # type: ignore[index]
                progress.reach(done)
    except ray.exceptions.RayError as error:
        raise cluster.explained(error) from None
    progress.close()


def _write_parts(batch: pa.Table, parts: list[Part], job: Job) -> Iterator[pa.Table]:
    for i in batch.column("id").to_pylist():
        yield pa.table({"spans": [write_part(parts[i], job)]})


def write_part(part: Part, job: Job) -> int:
    """Write a part's pack, then its index. Returns how many spans it has."""
    files = rows_of(job.manifest, part, ["files"])["files"]
    paths = dict.fromkeys(path for of_span in files.to_pylist() for path in of_span or ())
    index = write_pack(job.archive, list(paths), job.out, part.name)
    with storage.atomic_output(index_uri(job.out, part)) as file:
        pq.write_table(index, file, compression="zstd")
    return part.stop - part.first


@dataclass
class Packed:
    """What became of the objects."""

    counts: Counter[str] = field(default_factory=Counter)
    """Objects: `packed`, or the status that their spans get."""
    size: int = 0
    """Bytes of those that are packed."""

    def add(self, index: pa.Table) -> None:
        """Count the objects of a part."""
        self.counts.update(fault or "packed" for fault in index["fault"].to_pylist())
        self.size += pc.sum(index["length"]).as_py() or 0


def _write_manifest(parts: Sequence[Part], job: Job) -> Packed:
    """Write the manifest of the packs. Raises InputError where there would be nothing in them."""
    told = Packed()

    def groups() -> Iterator[pa.Table]:
        begins, ends = [part.first for part in parts], [part.stop for part in parts]
        first = 0
        for group, n in enumerate(job.manifest.row_groups):
            places: dict[str, Any] = {}
            for part in parts[bisect_right(ends, first) : bisect_left(begins, first + n)]:
                index = read_index(job.out, part)
                if part.first >= first:  # else it was counted with the group before
                    told.add(index)
                places |= zip(index["path"].to_pylist(), index.select(_PLACE).to_pylist(), strict=True)
            yield _placed(read_rows(job.manifest.uri, group), places)
            first += n
        if told.counts and set(told.counts) == {Status.MISSING_SIGNAL}:
            raise InputError(
                f"{job.archive}: has none of the manifest's {told.counts.total():,} signal files; "
                "give --archive where they lie now, and another --out"
            )

    write_packed(storage.join(job.out, MANIFEST), job.out, job.manifest, groups())
    return told


_PLACE = [f.name for f in PACKED.type.value_type]


def _placed(rows: pa.Table, places: dict[str, Any]) -> pa.Table:
    found = [files and [places[path] for path in files] for files in rows["files"].to_pylist()]
    return rows.append_column(PACKED, pa.array(found, PACKED.type))


def _report(told: Packed, job: Job) -> None:
    """Print what was packed and what was not. Raises JobError where something is to be tried again."""
    print(f"{job.manifest.rows:,} spans, {told.size / 1e9:,.2f} GB of signals")
    for what, n in told.counts.most_common():
        print(f"  {what:15} {n:>10,} files")
    print(f"manifest: {storage.join(job.out, MANIFEST)}")
    if failed := told.counts[Status.TRANSIENT]:
        why = f"the column detail of {storage.join(job.out, FOLDER)}/*.parquet says why"
        raise JobError(f"{failed:,} signal files could not be read ({why}); the same command tries them again")
