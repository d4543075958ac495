"""Estimates as events of MEDS (Medical Event Data Standard): subject, time, code, number.

The codes are a namespace of their own, ANYECG//INDICATOR//MODEL_VERSION, without parents: a reader that rolls codes up
must not count an estimate among the results of a LOINC code, which stands in a column beside. All events of a subject
lie in one file, in order of time, as the standard asks: rows are scattered by subject into files on the local disk,
and each of these is then sorted.
Source: the standard's own package `meds`, whose schemas the tests hold these files to.
"""

import re
import tempfile
from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from anyecg_ray import __version__, absence, json_file, storage
from anyecg_ray.config import InputError
from anyecg_ray.model import Card

DATA = pa.schema(
    [
        pa.field("subject_id", pa.int64(), nullable=False),
        pa.field("time", pa.timestamp("us")),
        pa.field("code", pa.string(), nullable=False),
        pa.field("numeric_value", pa.float32()),
        pa.field("text_value", pa.large_string()),
    ]
)

CODES = pa.schema(
    [
        pa.field("code", pa.string(), nullable=False),
        pa.field("description", pa.string()),
        pa.field("parent_codes", pa.list_(pa.string())),
        # not of the standard, which allows more columns
        pa.field("indicator", pa.string()),
        pa.field("loinc", pa.string()),
        pa.field("unit", pa.string()),
    ]
)

ROWS = 2_000_000
"""Events of one file, about: it is sorted in memory."""

MOST_PARTS = 500
"""Files that are open at once while rows are scattered; systems allow 1,024."""

DATASET = ("metadata", "dataset.json")


def code(indicator: str, version: str) -> str:
    """The code of an indicator of one model version."""
    return f"ANYECG//{indicator}//{version}"


def whole(text: str | None) -> int | None:
    """The whole number that a text spells, None where it spells none of 64 bits.

    `007` is none: it and `7` are two identifiers, and may be two patients.
    """
    return int(text) if text and re.fullmatch(r"0|[1-9][0-9]{0,17}", text) else None


def events(rows: pa.Table, persons: Mapping[str, int] | None, counts: Counter[str]) -> pa.Table:
    """Rows of schema.ECG_LAB_ESTIMATE that have an estimate, a subject and a time, as DATA; others are counted.

    persons: subjects by patient. Where there is such a table nobody else has a subject: a patient's own number might
    be another's in it. Without a table (None), patients whose identifier is a whole number are their own subjects.
    """
    rows = absence.estimated(rows, counts)
    patients = rows.column("patient_id").to_pylist()
    subjects = pa.array([whole(p) if persons is None else persons.get(p) for p in patients], pa.int64())
    codes = [code(i, v) for i, v in zip(*(rows[c].to_pylist() for c in ("indicator", "model_version")), strict=True)]
    timed = pc.is_valid(rows.column("ecg_time"))
    known = pc.is_valid(subjects)
    counts[absence.left_out("no subject_id")] += pc.sum(pc.invert(known)).as_py() or 0
    counts[absence.left_out("no time")] += pc.sum(pc.and_not(known, timed)).as_py() or 0
    columns = [
        subjects,
        rows.column("ecg_time").cast(DATA.field("time").type),
        pa.array(codes, pa.string()),
        absence.numbers(rows).cast(pa.float32()),
        pa.nulls(len(rows), pa.large_string()),
    ]
    return pa.table(columns, names=DATA.names).filter(pc.and_(known, timed)).cast(DATA)


def parts(rows: int) -> int:
    """Into how many files at most so many rows go."""
    return min(max(1, -(-rows // ROWS)), MOST_PARTS)


def claim(dest: str, card: Card, job: str) -> None:
    """Describe the data set of a back-fill, before there are data.

    Raises InputError where another one lies at `dest`: the standard's names of files leave room for one.
    """
    told = {
        "dataset_name": f"ECG estimates of {card.model_id}, back-fill {job}",
        "dataset_version": card.model_version,
        "etl_name": "anyecg_ray",
        "etl_version": __version__,
        "meds_version": "0.4.1",
        "created_at": datetime.now(UTC).isoformat(),
    }
    try:
        there = json_file.read(storage.join(dest, *DATASET))
    except ValueError:
        there = {}
    if there is None:
        there = {} if storage.files(storage.join(dest, "data")) else told
    if not isinstance(there, dict) or any(there.get(k) != told[k] for k in list(told)[:3]):
        raise InputError(f"{dest}: holds another MEDS data set, which would be lost; give another --dest")
    json_file.write(storage.join(dest, *DATASET), told)
    values = [i.direction == "value" for i in card.indicators]
    columns = [
        [code(i.key, card.model_version) for i in card.indicators],
        [f"{i.name}: estimated from an ECG, not measured ({i.direction})" for i in card.indicators],
        [[] for _ in card.indicators],
        [i.key for i in card.indicators],
        [i.loinc for i in card.indicators],
        [i.unit if v else "1" for i, v in zip(card.indicators, values, strict=True)],
    ]
    with storage.atomic_output(storage.join(dest, "metadata", "codes.parquet")) as file:
        pq.write_table(pa.table(columns, schema=CODES), file)


def write(tables: Iterable[pa.Table], dest: str, parts: int) -> int:
    """Write tables of DATA as so many files, and remove those of a run that wrote more; returns how many events."""
    with tempfile.TemporaryDirectory(prefix="anyecg-meds-") as folder:
        total = _scatter(tables, folder, parts)
        for i in range(parts):
            with pa.ipc.open_stream(pa.memory_map(_part(folder, i))) as reader:
                rows = reader.read_all().sort_by([(c, "ascending") for c in ("subject_id", "time", "code")])
            with storage.atomic_output(storage.join(dest, "data", f"{i:04d}.parquet")) as file:
                pq.write_table(rows, file, compression="zstd")
    for name in storage.files(storage.join(dest, "data")):
        if re.fullmatch(r"\d{4}\.parquet", name) and int(name[:4]) >= parts:
            storage.remove(storage.join(dest, "data", name))
    return total


def _scatter(tables: Iterable[pa.Table], folder: str, parts: int) -> int:
    """Rows into files by subject. Streams, because Parquet keeps a footer in memory that grows with every table."""
    total = 0
    compressed = pa.ipc.IpcWriteOptions(compression="zstd")
    with ExitStack() as stack:
        files = [stack.enter_context(pa.OSFile(_part(folder, i), "wb")) for i in range(parts)]
        writers = [stack.enter_context(pa.ipc.new_stream(f, DATA, options=compressed)) for f in files]
        for table in tables:
            total += len(table)
            place = _places(table.column("subject_id").to_numpy(), parts)
            table = table.take(pa.array(np.argsort(place, kind="stable")))
            edges = np.concatenate([[0], np.cumsum(np.bincount(place, minlength=parts))])
            for i in np.flatnonzero(np.diff(edges)).tolist():
                writers[i].write_table(table.slice(edges[i], edges[i + 1] - edges[i]).combine_chunks())
    return total


def _places(subjects: np.ndarray, parts: int) -> np.ndarray:
    """(n,) int: the file of each subject. Mixed first, for identifiers are often multiples of something."""
    mixed = subjects.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) >> np.uint64(32)
    return (mixed % np.uint64(parts)).astype(np.int64)


def _part(folder: str, i: int) -> str:
    return str(Path(folder, f"{i}.arrow"))
