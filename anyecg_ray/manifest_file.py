"""The manifest as a file: Parquet in row groups of 10,000 spans, which are never rewritten once they are there.

A back-fill's shards are slices of row groups, so `manifest --update` copies those it finds and appends others.
What a reader must know beside the rows is in the file's metadata: where the archive lies, which kind it is, and a
digest of every row group, by which a back-fill tells that a grown manifest still begins with what it has scored.
"""

import contextlib
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import IO, Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from anyecg_ray import storage
from anyecg_ray.config import InputError, one_line
from anyecg_ray.schema import MANIFEST, PACKED_MANIFEST, SCHEMA_VERSION

T = TypeVar("T")

GROUP = 10_000
"""Rows of a row group: some megabytes, the unit that a reader has to fetch."""

STATISTICS = ["span_id", "record_id", "start_time", "status"]
"""Columns with minima and maxima in the footer; those of whole headers would make it larger than the rest."""


@dataclass(frozen=True)
class ManifestFile:
    """What is known of a manifest without reading its rows."""

    uri: str
    archive: str
    dataset: str
    row_groups: tuple[int, ...]
    """Rows of each row group."""
    digests: tuple[str, ...]
    """A name for each row group's content."""
    made_with: dict[str, Any] = field(default_factory=dict)
    """The settings that decide which rows a manifest has."""
    multi_segment: tuple[int, ...] = ()
    """Row groups that hold multi-segment records."""
    packed_from: str | None = None
    """The archive that `archive` was packed from; None where it was not."""
    unfinished: int | None = None
    """Row groups before those that are still to be written again; None where it is finished."""

    @property
    def rows(self) -> int:
        """Spans in the file."""
        return sum(self.row_groups)


def open_manifest(uri: str, unfinished: bool = False) -> ManifestFile:
    """Read a manifest's metadata. Raises InputError where the file is none, naming it and the mend.

    unfinished: take one, too, whose making was cut off before its second writing.
    """
    if not uri.strip():
        raise InputError("the manifest's name is empty; give what `anyecg manifest --out` wrote")
    found = _with_file(uri, lambda file: _opened(uri, file))
    if found.unfinished is not None and not unfinished:
        raise InputError(f"{uri}: its making was cut off; run the same `anyecg manifest` again, with --update")
    return found


def check_archive(uri: str) -> None:
    """Raise InputError where no archive is at `uri`: it may have moved since the manifest was made."""
    if not storage.exists(uri):
        raise InputError(f"{uri}: no such archive; give --archive where the records lie now")


def read_rows(
    uri: str,
    row_group: int,
    offset: int = 0,
    length: int | None = None,
    columns: list[str] | None = None,
    digest: str | None = None,
) -> pa.Table:
    """Rows of one row group, as schema.MANIFEST (or PACKED_MANIFEST) or some columns of it.

    digest: what the row group is to have. Raises InputError where it has another, or the rows cannot be read.
    """

    def read(file: pq.ParquetFile) -> pa.Table:
        if digest is not None and _opened(uri, file).digests[row_group : row_group + 1] != (digest,):
            raise storage.StorageError(f"{uri}: was made anew while it was being scored; run the same line again")
        return file.read_row_group(row_group, columns=columns).slice(offset, length)

    return _with_file(uri, read)


def span_seconds(uri: str) -> Iterator[np.ndarray]:
    """Seconds of each span, (rows,) float64, row group by row group; 0 where nobody knows."""
    with storage.open_input(uri, cache="none") as raw:
        file = pq.ParquetFile(raw, pre_buffer=True)
        for group in range(file.metadata.num_row_groups):
            yield seconds_of(file.read_row_group(group, columns=["n_samples", "fs"]))


def seconds_of(rows: pa.Table) -> np.ndarray:
    """Seconds of each span, (rows,) float64; 0 where nobody knows: a row that could not be read has no rate."""
    samples, fs = (rows.column(name).to_numpy().astype(np.float64) for name in ("n_samples", "fs"))
    with np.errstate(divide="ignore", invalid="ignore"):
        seconds: np.ndarray = np.nan_to_num(samples / fs, nan=0.0, posinf=0.0)
    return seconds


def _with_file(uri: str, action: Callable[[pq.ParquetFile], T]) -> T:
    def attempt() -> T:
        try:
            with storage.open_input(uri, cache="none") as raw:
                return action(pq.ParquetFile(raw, pre_buffer=True))
        except pa.ArrowInvalid as error:
            told = f"{uri}: not a manifest ({one_line(error, 120)}); make one with `anyecg manifest`"
            raise storage.StorageError(told) from None

    return storage.retried(attempt, uri)


def _opened(uri: str, file: pq.ParquetFile) -> ManifestFile:
    told = {k.decode(): v.decode() for k, v in (file.metadata.metadata or {}).items() if k.startswith(b"anyecg.")}
    version = int(told.get("anyecg.schema_version", 0))
    if version > SCHEMA_VERSION:
        raise storage.StorageError(f"{uri}: written by a newer anyecg (tables of version {version}); update this one")
    missing = [name for name in MANIFEST.names if name not in file.schema_arrow.names]
    if missing or "anyecg.file" not in told:
        why = f"no column {missing[0]}" if missing else "it does not say which archive it is of"
        raise storage.StorageError(f"{uri}: not a manifest ({why}); make one with `anyecg manifest`")
    about = json.loads(told["anyecg.file"])
    rows = tuple(file.metadata.row_group(i).num_rows for i in range(file.metadata.num_row_groups))
    return ManifestFile(
        uri=uri,
        archive=told["anyecg.archive"],
        dataset=told["anyecg.dataset"],
        row_groups=rows,
        digests=tuple(about["digests"]),
        made_with=about["made_with"],
        multi_segment=tuple(about["multi_segment"]),
        packed_from=about.get("packed_from"),
        unfinished=about.get("unfinished"),
    )


def write_manifest(
    uri: str,
    archive: str,
    dataset: str,
    tables: Iterable[pa.Table],
    made_with: dict[str, Any] | None = None,
    before: ManifestFile | None = None,
    again: Callable[[], bool] = lambda: False,
) -> None:
    """Write tables of schema.MANIFEST, of any size, as a manifest that appears once it is whole.

    before: the manifest whose row groups come first, as they are; it may be the one at `uri`.
    again: whether the rows after those will be written a second time, asked when all of them are there.
    Raises StorageError where it cannot be written.
    """
    with storage.atomic_output(uri) as file, _Writer(file, archive, dataset) as writer:
        if before is not None:
            for group in range(len(before.row_groups)):
                writer.group(read_rows(before.uri, group))
        for table in _in_groups(tables):
            writer.group(table)
        writer.close(made_with or {}, unfinished=(len(before.row_groups) if before else 0) if again() else None)


def write_packed(uri: str, archive: str, of: ManifestFile, groups: Iterable[pa.Table]) -> None:
    """Write the manifest `of` again, now that its records are packed into `archive`.

    groups: its row groups as schema.PACKED_MANIFEST. They stay as they were, so that a back-fill that began on the
    one goes on with the other. Raises StorageError where it cannot be written.
    """
    with storage.atomic_output(uri) as file, _Writer(file, archive, of.dataset, PACKED_MANIFEST) as writer:
        for rows in groups:
            writer.group(rows)
        writer.close(of.made_with, of.archive)


class _Writer:
    def __init__(self, file: IO[bytes], archive: str, dataset: str, schema: pa.Schema = MANIFEST) -> None:
        about = {"archive": archive, "dataset": dataset, "schema_version": str(SCHEMA_VERSION)}
        self._schema = schema.with_metadata({f"anyecg.{k}": v for k, v in about.items()})
        self._parquet = pq.ParquetWriter(file, self._schema, compression="zstd", write_statistics=STATISTICS)
        self._digests: list[str] = []
        self._multi_segment: list[int] = []

    def __enter__(self) -> "_Writer":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:  # else Parquet would write its end later, into a file that is closed, and say so
            with contextlib.suppress(Exception):
                self._parquet.close()

    def group(self, rows: pa.Table) -> None:
        """Write the rows as one row group."""
        if pc.any(pc.match_substring(rows["header"], "\f")).as_py():
            self._multi_segment.append(len(self._digests))
        self._digests.append(digest(rows))
        self._parquet.write_table(rows.cast(self._schema), row_group_size=max(1, len(rows)))

    def close(self, made_with: dict[str, Any], packed_from: str | None = None, unfinished: int | None = None) -> None:
        """Write down what belongs to the whole, where there is something to say."""
        about: dict[str, Any] = {"digests": self._digests, "multi_segment": self._multi_segment, "made_with": made_with}
        more = {"packed_from": packed_from, "unfinished": unfinished}
        about |= {name: value for name, value in more.items() if value is not None}
        self._parquet.add_key_value_metadata({"anyecg.file": json.dumps(about)})
        self._parquet.close()


def digest(rows: pa.Table) -> str:
    """First 16 hex digits of the SHA-256 of what is scored: which samples of which records, with their headers. Whose
    they are and when is in it too: a cohort chooses by that, and it goes into the estimates."""
    state = hashlib.sha256()
    for name in ("span_id", "n_samples", "status", "header", "patient_id", "encounter_id", "start_time"):
        for value in rows.column(name).to_pylist():
            state.update(f"{value}\0".encode())
    return state.hexdigest()[:16]


def _in_groups(tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """The same rows in tables of GROUP rows, the last one shorter, with their headers as plain text."""
    waiting: list[pa.Table] = []
    count = 0
    for table in tables:
        waiting.append(table)
        count += len(table)
        while count >= GROUP:
            whole = pa.concat_tables(waiting, promote_options="permissive")
            yield _plain(whole.slice(0, GROUP))
            waiting, count = [whole.slice(GROUP)], count - GROUP
    if count:
        yield _plain(pa.concat_tables(waiting, promote_options="permissive"))


def _plain(rows: pa.Table) -> pa.Table:
    # in flight a header that many spans share is there once; written out, Parquet sees to that
    return rows.cast(MANIFEST)
