"""What an archive says about a record before its header is read."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from itertools import islice

import pyarrow as pa

WHOSE = ("patient_id", "encounter_id", "start_time", "age", "sex")
FOLDER = 2000
"""Headers of one folder that are handed on together; they may be segments of one another."""


@dataclass(frozen=True, slots=True)
class Found:
    """One record: the path of its header in the archive without its suffix, and what is known of it elsewhere."""

    record_id: str
    patient_id: str | None = None
    encounter_id: str | None = None
    start_time: datetime | None = None
    """Of the record's first sample, UTC; None to take it from the header."""
    age: float | None = None
    sex: str | None = None


def listed(paths: Iterable[str | None], encounters: Iterable[pa.RecordBatch]) -> Iterator[list[Found]]:
    """Records that a table lists, one per row of ENCOUNTERS, with their paths in the same order.

    A row without a path is left out.
    """
    rows = (row for batch in encounters for row in zip(*(batch[c].to_pylist() for c in WHOSE), strict=True))
    found = (Found(path.removesuffix(".hea"), *row) for path, row in zip(paths, rows, strict=True) if path)
    while some := list(islice(found, FOLDER)):
        yield some
