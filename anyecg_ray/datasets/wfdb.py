"""A folder or bucket of WFDB records of one's own, with a table of labels of one's own.

The labels table is CSV (also gzipped) or Parquet, one result a row:

    patient    whose it is: the manifest's patient_id
    time       when it was drawn, ISO 8601; without a zone it is UTC
    name       what was measured: an analyte's key, name or LOINC code, or anything else
    value      number or text as a laboratory writes it ("5.1", ">10.0", "16,084", "Negative")
    unit, low, high, flag, encounter    each may be left out
"""

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from anyecg_ray import labtable, tables
from anyecg_ray.config import InputError
from anyecg_ray.labtable import Counts
from anyecg_ray.labvalue import parse_column
from anyecg_ray.schema import ENCOUNTERS

DATASET = "wfdb"
REQUIRED = ("patient", "time", "name", "value")
OPTIONAL = ("unit", "low", "high", "flag", "encounter")
PEOPLE = ("patient",)
MORE_OF_PEOPLE = ("encounter", "start", "end", "age", "sex", "split")
NUMBERS = ("low", "high")


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
    """ENCOUNTERS of a user's table of people: `patient`, and what is known of `encounter, start, end, age, sex, split`.

    Without encounters, the patient is the encounter. Raises InputError as `labels` does.
    """
    tables.require(uri, tables.columns(uri), PEOPLE, MORE_OF_PEOPLE)
    for batch in tables.batches(uri, PEOPLE, MORE_OF_PEOPLE):
        patient = tables.identifiers(batch["patient"])
        sex = pc.utf8_upper(pc.utf8_slice_codeunits(tables.texts(batch["sex"]), 0, 1))
        columns = {
            "dataset": pa.repeat(DATASET, len(batch)),
            "patient_id": patient,
            "encounter_id": pc.coalesce(tables.identifiers(batch["encounter"]), patient),
            "start_time": tables.times(batch["start"])[0],
            "end_time": tables.times(batch["end"])[0],
            "age": pa.array(tables.numbers(batch["age"]), pa.float32(), from_pandas=True),
            "sex": pc.if_else(pc.is_in(sex, pa.array(["F", "M"])), sex, None),
            "split_fold": _split(uri, tables.texts(batch["split"])),
        }
        filled = [columns.get(f.name, pa.nulls(len(batch), f.type)) for f in ENCOUNTERS]
        yield pa.record_batch(filled, schema=ENCOUNTERS)


def _check(uri: str, batch: pa.RecordBatch) -> None:
    """A column that is wrong from end to end is the table's fault, not a row's."""
    time = tables.texts(batch["time"])
    if len(batch) and tables.times(batch["time"])[1].all():
        raise InputError(f"{uri}: column time: {time[0].as_py()!r} is no ISO time; write 2024-02-01T13:45:00Z")
    for name in NUMBERS:
        text = tables.texts(batch[name])
        written = text.filter(pc.greater(pc.utf8_length(text), 0))
        if len(written) and np.isnan(tables.numbers(written)).all():
            first = written[0].as_py()
            raise InputError(f"{uri}: column {name}: {first!r} is no number; write the limit alone, e.g. 5.1")


def _split(uri: str, part: pa.Array) -> pa.Array:
    known = pc.is_in(part, pa.array(["train", "val", "test", "", None], pa.string()))
    if not pc.all(known).as_py():
        odd = part.filter(pc.invert(known))[0].as_py()
        raise InputError(f"{uri}: column split: {odd!r}; write train, val or test")
    return pc.if_else(pc.equal(part, ""), None, part)
