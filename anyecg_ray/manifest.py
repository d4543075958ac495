"""Index an archive once: find its headers, parse each, and write one row per span of work.

The driver lists and writes; fetching and parsing run in Ray tasks of some hundred headers each, a bounded number at
a time, taken in order, so that the same archive always gives the same file. What the driver holds of a record once
its rows are written is a 16-byte hash. A small archive is indexed in this process: Ray takes longer to start.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Any, Literal

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from anyecg_ray import storage
from anyecg_ray.config import InputError, JobError, Location, Settings
from anyecg_ray.datasets import mc_med, mimic_iv_ecg, ptb_xl, wfdb
from anyecg_ray.datasets.found import Found
from anyecg_ray.datasets.mc_med import McMed
from anyecg_ray.datasets.ptb_xl import PtbXl
from anyecg_ray.datasets.wfdb import Wfdb
from anyecg_ray.idset import IdSet, hashes
from anyecg_ray.manifest_file import ManifestFile, open_manifest, read_rows, write_manifest
from anyecg_ray.manifest_summary import Summary
from anyecg_ray.spans import Indexed, index, segments

__all__ = ["Manifest", "ManifestFile", "manifest", "open_manifest", "read_rows", "write_manifest"]

BATCH = 500
"""Headers that are fetched and parsed together; a folder of up to 2,000 is not split."""

SMALL = 2000
"""Headers up to which an archive is indexed without Ray."""


class Manifest(Settings):
    """Index an archive: one row per span of at most `max_span` seconds."""

    archive: Location
    """Folder or s3:// prefix of the archive."""

    dataset: Literal["wfdb", "mc-med", "mimic-iv-ecg", "ptb-xl"] = "wfdb"
    """Kind of archive; `wfdb` is any tree of WFDB records."""

    out: Location
    """Where the manifest goes: a Parquet file."""

    max_span: float = Field(600.0, ge=10, le=1e9)
    """Seconds of the longest span; a longer recording becomes several."""

    update: bool = False
    """Keep the rows of the manifest at `out` as they are and append the records that it does not have."""

    workers: int | None = Field(None, ge=0)
    """Tasks at a time; by default two per CPU of the Ray cluster. 0: all in this process."""

    wfdb: Wfdb = Wfdb()
    """For dataset wfdb."""

    mc_med: McMed = McMed()
    """For dataset mc-med."""

    ptb_xl: PtbXl = PtbXl()
    """For dataset ptb-xl."""


def manifest(settings: Manifest) -> None:
    """Write the manifest and print what is in it.

    Raises InputError where the archive holds no record or a location cannot be used, and JobError where storage
    failed for some headers: the others are written, and `update` adds those.
    """
    archive = _absolute(settings.archive)
    before = _before(settings, archive)
    storage.check_writable(settings.out)
    summary, ids = Summary(), Ids.of(before)
    tables = _new_rows(settings, archive, summary, ids)
    first = next(tables, None)
    if first is not None:
        rows = chain([first], tables)
        made_with = _made_with(settings)
        write_manifest(settings.out, archive, settings.dataset, rows, made_with, before, lambda: len(ids.late) > 0)
        if len(ids.late):
            _drop_late_segments(settings.out, len(before.row_groups) if before else 0, summary, ids)
    elif before is None and not summary.failed:
        raise InputError(_nothing(settings))
    print(summary.text(open_manifest(settings.out) if first is not None or before else None))
    if summary.failed:
        reasons = ", ".join(f"{n:,} {why}" for why, n in summary.failed.most_common())
        raise JobError(
            f"{summary.failed.total():,} headers could not be fetched ({reasons}); --update tries them again"
        )


@dataclass
class Ids:
    """Which records were met. Segments that a master named are not to become records of their own."""

    seen: IdSet = field(default_factory=IdSet)
    claimed: IdSet = field(default_factory=IdSet)
    late: IdSet = field(default_factory=IdSet)
    """Segments whose rows may have been written before their master was read: their folder was split."""

    @classmethod
    def of(cls, before: ManifestFile | None) -> "Ids":
        """The ids of a manifest's records and of their segments."""
        ids = cls()
        if before is None:
            return ids
        for group in range(len(before.row_groups)):
            rows = read_rows(before.uri, group, columns=["record_id", "header"])
            ids.seen.add(hashes(pc.unique(rows["record_id"]).to_pylist()))
            if group in before.multi_segment:
                masters = rows.filter(pc.match_substring(rows["header"], "\f")).to_pylist()
                ids.seen.add(hashes({s for m in masters for s in segments(m["record_id"], m["header"])}))
        return ids

    def unseen(self, batches: Iterable[list[Found]]) -> Iterator[list[Found]]:
        """The records that were not met before, each once."""
        for batch in batches:
            once = {found.record_id: found for found in batch}
            asked = hashes(once)
            new = ~self.seen.contains(asked)
            self.seen.add(asked[new])
            if new.any():
                yield [found for found, is_new in zip(once.values(), new, strict=True) if is_new]

    def kept(self, indexed: Indexed) -> pa.Table:
        """The rows without those of segments that are known by now; marks the segments that these records name."""
        if indexed.claimed:
            claimed = hashes(indexed.claimed)
            self.late.add(claimed[self.seen.contains(claimed)])
            self.seen.add(claimed[~self.seen.contains(claimed)])
            self.claimed.add(claimed)
        if not len(self.claimed):
            return indexed.rows
        return indexed.rows.filter(pa.array(~self.claimed.contains(hashes(indexed.rows["record_id"].to_pylist()))))


def _absolute(archive: str) -> str:
    """The archive's location as the manifest keeps it: a back-fill may start in another folder."""
    if not archive.strip():
        raise InputError("setting archive: is empty; give a folder or s3://bucket/prefix")
    return storage.absolute(archive.rstrip("/") or "/")


def _made_with(settings: Manifest) -> dict[str, Any]:
    section = settings.dataset.replace("-", "_")
    return {"max_span": settings.max_span, **settings.model_dump(mode="json", include={section}).get(section, {})}


def _before(settings: Manifest, archive: str) -> ManifestFile | None:
    """The manifest to update, None to write a new one. Raises InputError where it is of something else."""
    if not settings.update or not storage.exists(settings.out):
        return None
    before = open_manifest(settings.out, unfinished=True)
    now = {"archive": archive, "dataset": settings.dataset, **_made_with(settings)}
    then = {"archive": before.archive, "dataset": before.dataset, **before.made_with}
    for name, value in now.items():
        if then.get(name) != value:
            raise InputError(
                f"{settings.out}: made with {name} {then.get(name)}, not {value}; give the same, or leave out --update"
            )
    return before if before.unfinished is None else _finished_part(before)


def _finished_part(before: ManifestFile) -> ManifestFile | None:
    """Of a manifest whose making was cut off what was there before: the rest is indexed anew."""
    n = before.unfinished or 0
    some = tuple(group for group in before.multi_segment if group < n)
    whole = replace(before, row_groups=before.row_groups[:n], digests=before.digests[:n], multi_segment=some)
    return replace(whole, unfinished=None) if n else None


def _found(settings: Manifest, archive: str, notes: list[str]) -> Iterator[list[Found]]:
    match settings.dataset:
        case "wfdb":
            return wfdb.records(archive, settings.wfdb)
        case "mc-med":
            return mc_med.records(archive, settings.mc_med, notes)
        case "mimic-iv-ecg":
            return mimic_iv_ecg.records(archive)
        case "ptb-xl":
            return ptb_xl.records(archive, settings.ptb_xl)


def _nothing(settings: Manifest) -> str:
    where = "RECORDS names no record" if settings.dataset == "wfdb" else "no record"
    return f"{settings.archive}: {where} and no header (.hea) lies below it; check the folder or prefix"


def _new_rows(settings: Manifest, archive: str, summary: Summary, ids: Ids) -> Iterator[pa.Table]:
    """The rows of records that were not met before, in the archive's order."""
    batches = ids.unseen(_batches(_found(settings, archive, summary.notes)))
    for indexed in _indexed(batches, (archive, settings.dataset, settings.max_span), settings.workers):
        if indexed.refused is not None:
            raise storage.RefusedError(f"{archive}/…: {indexed.refused}")
        rows = ids.kept(indexed)
        summary.add(rows, indexed.failed)
        summary.progress()
        if len(rows):
            yield rows


def _batches(folders: Iterable[list[Found]]) -> Iterator[list[Found]]:
    """Whole folders together until there is a batch's worth."""
    batch: list[Found] = []
    for folder in folders:
        batch += folder
        if len(batch) >= BATCH:
            yield batch
            batch = []
    if batch:
        yield batch


def _indexed(batches: Iterator[list[Found]], of: tuple[str, str, float], workers: int | None) -> Iterator[Indexed]:
    """`index` of every batch, in order: in this process where there are few, else in Ray tasks."""
    first: list[list[Found]] = []
    while workers is None and sum(map(len, first)) <= SMALL:
        batch = next(batches, None)
        if batch is None:
            workers = 0
        else:
            first.append(batch)
    batches = chain(first, batches)
    if workers == 0:
        yield from (index(*of, batch) for batch in batches)
    else:
        yield from _in_tasks(batches, of, workers)


def _in_tasks(batches: Iterator[list[Found]], of: tuple[str, str, float], workers: int | None) -> Iterator[Indexed]:
    import ray  # takes a second, which a small archive does not have

    from anyecg_ray import cluster

    with cluster.connected():
        task = ray.remote(num_cpus=1)(index)
        waiting: deque[Any] = deque()
        try:
            for batch in batches:
                waiting.append(task.remote(*of, batch))
                # asked anew each time: a cluster may grow
                if len(waiting) >= (workers or 2 * _cpus()):
                    yield ray.get(waiting.popleft())
            while waiting:
                yield ray.get(waiting.popleft())
        except ray.exceptions.RayError as error:
            raise cluster.explained(error) from None


def _cpus() -> int:
    import ray

    resources: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    return int(resources.get("CPU", 1))


def _drop_late_segments(uri: str, kept: int, summary: Summary, ids: Ids) -> None:
    """Write the manifest again without segments that were written before their master was read.

    It happens where a folder has more headers than are handled together. The first `kept` row groups stay.
    """
    written = open_manifest(uri, unfinished=True)

    def rest() -> Iterator[pa.Table]:
        for group in range(kept, len(written.row_groups)):
            rows = read_rows(uri, group)
            late = pa.array(ids.late.contains(hashes(rows["record_id"].to_pylist())))
            summary.take_back(rows.filter(late))
            yield rows.filter(pc.invert(late))

    first = replace(written, row_groups=written.row_groups[:kept])
    write_manifest(uri, written.archive, written.dataset, rest(), written.made_with, first if kept else None)
    if kept:
        told = "segments of new multi-segment records may be listed on their own, from before; make the manifest anew"
        summary.notes.append(told)
