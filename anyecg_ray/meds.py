"""Estimates as events of MEDS (Medical Event Data Standard): subject, time, code, number.

The codes are a namespace of their own, ANYECG//INDICATOR//MODEL_VERSION, so that nobody takes an estimate for a
result. All events of a subject lie in one file, in order of time, as the standard asks: rows are parted by subject on
the way.
Source: the standard's own package `meds`, whose schemas the tests hold these files to.
"""

import json
import tempfile
from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from anyecg_ray import __version__, storage
from anyecg_ray.model import Card

DATA = pa.schema(
    [
        ("subject_id", pa.int64()),
        ("time", pa.timestamp("us")),
        ("code", pa.string()),
        ("numeric_value", pa.float32()),
        ("text_value", pa.large_string()),
    ]
)

CODES = pa.schema([("code", pa.string()), ("description", pa.string()), ("parent_codes", pa.list_(pa.string()))])


def code(indicator: str, version: str) -> str:
    """The code of an indicator of one model version."""
    return f"ANYECG//{indicator}//{version}"


def events(rows: pa.Table, persons: Mapping[str, int], left_out: Counter[str]) -> pa.Table:
    """Rows of schema.ECG_LAB_ESTIMATE that have an estimate, as DATA. left_out: counts the others by reason."""
    subjects = [_subject(p, persons) for p in rows.column("patient_id").to_pylist()]
    number = pc.coalesce(rows.column("value"), rows.column("probability"))
    made = pa.table(
        [
            pa.array(subjects, pa.int64()),
            rows.column("ecg_time").cast(DATA.field("time").type),
            pa.array(
                [
                    code(i, v)
                    for i, v in zip(*(rows.column(c).to_pylist() for c in ("indicator", "model_version")), strict=True)
                ]
            ),
            number.cast(pa.float32()),
            pa.nulls(len(rows), pa.large_string()),
        ],
        schema=DATA,
    )
    for column, reason in (("numeric_value", "no estimate"), ("subject_id", "no subject_id"), ("time", "no time")):
        there = pc.is_valid(made.column(column))
        left_out[reason] += len(made) - (pc.sum(there).as_py() or 0)
        made = made.filter(there)
    return made


def _subject(patient: str | None, persons: Mapping[str, int]) -> int | None:
    """The standard wants integers: from the table of persons, else a patient's own number."""
    if patient is None or patient in persons:
        return persons.get(patient or "")
    return int(patient) if patient.isdecimal() and len(patient) < 19 else None


def write(tables: Iterable[pa.Table], dest: str, card: Card, parts: int) -> int:
    """Write data, codes and dataset.json; returns how many events. parts: files of data."""
    total = 0
    with tempfile.TemporaryDirectory() as folder:
        with ExitStack() as stack:
            writers = [stack.enter_context(pq.ParquetWriter(Path(folder, f"{i}.parquet"), DATA)) for i in range(parts)]
            for table in tables:
                total += len(table)
                place = pc.subtract(
                    table.column("subject_id"), pc.multiply(pc.divide(table.column("subject_id"), parts), parts)
                )
                for i, writer in enumerate(writers):
                    writer.write_table(table.filter(pc.equal(pc.abs(place), i)))
        for i in range(parts):
            rows = pq.read_table(Path(folder, f"{i}.parquet")).sort_by(
                [("subject_id", "ascending"), ("time", "ascending")]
            )
            with storage.atomic_output(storage.join(dest, "data", f"{i:04d}.parquet")) as file:
                pq.write_table(rows, file, compression="zstd")
    _describe(dest, card)
    return total


def _describe(dest: str, card: Card) -> None:
    codes = pa.table(
        [
            [code(i.key, card.model_version) for i in card.indicators],
            [f"{i.name}: estimated from an ECG, not measured ({i.direction})" for i in card.indicators],
            [[f"LOINC/{i.loinc}"] if i.loinc else [] for i in card.indicators],
        ],
        schema=CODES,
    )
    with storage.atomic_output(storage.join(dest, "metadata", "codes.parquet")) as file:
        pq.write_table(codes, file)
    told = {
        "dataset_name": f"ECG estimates of {card.model_id}",
        "dataset_version": card.model_version,
        "etl_name": "anyecg_ray",
        "etl_version": __version__,
        "meds_version": "0.4.1",
        "created_at": datetime.now(UTC).isoformat(),
    }
    storage.write_atomic(storage.join(dest, "metadata", "dataset.json"), (json.dumps(told, indent=2) + "\n").encode())
