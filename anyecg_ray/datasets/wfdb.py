"""A folder or bucket of WFDB records of one's own, with a table of labels of one's own.

The labels table is CSV (also gzipped) or Parquet, one result a row:

    patient    whose it is: the manifest's patient_id
    time       when it was drawn, ISO 8601; without a zone it is UTC
    name       what was measured: an analyte's key, name or LOINC code, or anything else
    value      number or text as a laboratory writes it ("5.1", ">10.0", "16,084", "Negative")
    unit, low, high, flag, encounter    each may be left out
"""

import io
import re
from collections.abc import Iterable, Iterator
from itertools import islice

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from anyecg_ray import labtable, storage, tables
from anyecg_ray.config import InputError, Settings
from anyecg_ray.datasets.found import FOLDER, Found, encounter_rows
from anyecg_ray.labtable import Counts
from anyecg_ray.labvalue import parse_column
from anyecg_ray.listing import by_folder, walk
from anyecg_ray.schema import DESCRIBING
from anyecg_ray.storage_errors import below

DATASET = "wfdb"
REQUIRED = ("patient", "time", "name", "value")
OPTIONAL = ("unit", "low", "high", "flag", "encounter")
PEOPLE = ("patient",)
MORE_OF_PEOPLE = ("encounter", "start", "end", "age", "sex", "split")
# DESCRIBING are read too, and not looked for under names like theirs: a column `rate` is no misspelt `race`
NUMBERS = ("low", "high")
RECORDS = "RECORDS"
MAX_DEPTH = 8
"""Levels of RECORDS files that name folders with RECORDS files."""


class Wfdb(Settings):
    """How records are found, and whose they are."""

    records_file: bool = True
    """Take the archive's RECORDS file, where it has one, as the list of its records; else look into every folder."""

    patient: str | None = None
    """Regular expression whose first group, searched in a record's path, is the patient: `p(\\d+)/`."""

    encounter: str | None = None
    """The same for the encounter."""


def records(archive: str, settings: Wfdb) -> Iterator[list[Found]]:
    """Every record that RECORDS names, or every header below the archive; those of a folder together."""
    patient, encounter = (_pattern(name, getattr(settings, name)) for name in ("patient", "encounter"))
    paths = _paths(archive, settings.records_file)
    for folder in by_folder(paths, FOLDER):
        yield [Found(path, _first(patient, path), _first(encounter, path)) for path in folder]


def _paths(archive: str, records_file: bool) -> Iterator[str]:
    if records_file:
        try:
            with storage.open_input(storage.join(archive, RECORDS)) as file:
                yield from _listed(archive, "", io.TextIOWrapper(file, "utf-8-sig", errors="replace"), 0)
                return
        except storage.MissingObject:
            pass
    yield from _headers(archive, "")


def _headers(archive: str, folder: str) -> Iterator[str]:
    try:
        for path in walk(storage.join(archive, folder), ".hea"):
            yield folder + path.removesuffix(".hea")
    except storage.StorageError as error:
        raise below(error, archive) if folder else error from None


def _listed(archive: str, folder: str, lines: Iterable[str], depth: int) -> Iterator[str]:
    """The records that `folder`/RECORDS names; a line that ends with "/" is a folder with a list of its own."""
    entries = (entry for line in lines if (entry := _entry(line, archive)))
    while block := list(islice(entries, 256)):
        folders = [entry for entry in block if entry.endswith("/")]
        lists = storage.read_ranges([storage.Range(storage.join(archive, folder + f, RECORDS)) for f in folders])
        inner = dict(zip(folders, lists, strict=True))
        for entry in block:
            if not entry.endswith("/"):
                yield folder + entry
            else:
                yield from _inner(archive, folder + entry, inner[entry], depth + 1)


def _inner(archive: str, folder: str, found: bytes | storage.StorageError, depth: int) -> Iterator[str]:
    if isinstance(found, bytes) and depth < MAX_DEPTH:
        yield from _listed(archive, folder, found.decode("utf-8-sig", errors="replace").splitlines(), depth)
    elif isinstance(found, bytes | storage.MissingObject):
        yield from _headers(archive, folder)
    else:
        raise below(found, archive)


def _entry(line: str, archive: str) -> str:
    """What a line of RECORDS names, "" where it names nothing."""
    name = line.strip().removeprefix("./").removesuffix(".hea")
    if name.startswith("/") or ".." in name.split("/"):
        raise InputError(f"{archive}: a path in RECORDS leads out of the archive; name paths below it")
    return "" if name.startswith("#") else name


def _pattern(name: str, text: str | None) -> re.Pattern[str] | None:
    try:
        pattern = re.compile(text) if text else None
    except re.error as error:
        raise InputError(f"setting wfdb.{name}: not a regular expression: {error} (got {text!r})") from None
    if pattern and not pattern.groups:
        raise InputError(f"setting wfdb.{name}: put what names the {name} in brackets, as in p(\\d+)/ (got {text!r})")
    return pattern


def _first(pattern: re.Pattern[str] | None, path: str) -> str | None:
    match = pattern.search(path) if pattern else None
    return match.group(1) if match else None


def labels(uri: str, counts: Counts | None = None) -> Iterator[pa.RecordBatch]:
    """LABELS of a user's table, a row a row.

    Raises InputError, naming file, column and mend, where a column is missing, seems misspelt, or holds
    something else throughout.
    """
    counts = Counts() if counts is None else counts
    tables.require(uri, tables.columns(uri), REQUIRED, OPTIONAL)
    odd: list[str] = []
    for batch in tables.batches(uri, REQUIRED, OPTIONAL, odd):
        _check(uri, batch)
        rows = {
            "patient_id": tables.identifiers(batch["patient"]),
            "encounter_id": tables.identifiers(batch["encounter"]),
            "chart_time": batch["time"],
            "component": batch["name"],
            **{name: batch[name] for name in ("unit", "low", "high", "flag")},
        }
        yield labtable.label_batch(rows, parse_column(tables.texts(batch["value"])), DATASET, counts)
    yield from labtable.malformed(len(odd), uri.rpartition("/")[2], counts)


def encounters(uri: str) -> Iterator[pa.RecordBatch]:
    """ENCOUNTERS of a user's table of people: `patient`, and what is known of MORE_OF_PEOPLE and DESCRIBING.

    Without encounters, the patient is the encounter. Raises InputError as `labels` does.
    """
    tables.require(uri, tables.columns(uri), PEOPLE, MORE_OF_PEOPLE)
    for batch in tables.batches(uri, PEOPLE, (*MORE_OF_PEOPLE, *DESCRIBING)):
        patient = tables.identifiers(batch["patient"])
        columns = {
            "patient_id": patient,
            "encounter_id": pc.coalesce(tables.identifiers(batch["encounter"]), patient),
            "start_time": tables.times(batch["start"])[0],
            "end_time": tables.times(batch["end"])[0],
            "age": pa.array(tables.numbers(batch["age"]), pa.float32(), from_pandas=True),
            "sex": tables.sex(batch["sex"]),
            "split_fold": _split(uri, tables.texts(batch["split"])),
            **{name: tables.texts(batch[name]) for name in DESCRIBING},
        }
        yield encounter_rows(DATASET, columns)


def _check(uri: str, batch: pa.RecordBatch) -> None:
    """A column that is wrong from end to end is the table's fault, not a row's."""
    if len(batch) and tables.times(batch["time"])[1].all():
        raise InputError(f"{uri}: column time: has no ISO time; write 2024-02-01T13:45:00Z")
    for name in NUMBERS:
        text = tables.texts(batch[name])
        written = text.filter(pc.greater(pc.utf8_length(text), 0))
        if len(written) and np.isnan(tables.numbers(written)).all():
            raise InputError(f"{uri}: column {name}: has no number; write the limit alone, e.g. 5.1")


def _split(uri: str, part: pa.Array) -> pa.Array:
    known = pc.is_in(part, pa.array(["train", "val", "test", "", None], pa.string()))
    if not pc.all(known).as_py():
        raise InputError(f"{uri}: column split: has other words; write train, val or test")
    return pc.if_else(pc.equal(part, ""), None, part)
