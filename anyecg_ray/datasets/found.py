"""What an archive says about a record before its header is read."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from itertools import islice

import pyarrow as pa

from anyecg_ray.schema import ENCOUNTERS

WHOSE = ("patient_id", "encounter_id", "start_time", "age", "sex")
OLDEST = 89.0
"""Years of the highest age that archives tell, for privacy; PTB-XL and CinC write 300 for more, which becomes 90."""

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


def encounter_rows(dataset: str, columns: Mapping[str, pa.Array]) -> pa.RecordBatch:
    """The columns as rows of ENCOUNTERS; what the archive does not tell is null."""
    n = len(columns["encounter_id"])
    told = {"dataset": pa.repeat(dataset, n), **columns}
    return pa.record_batch([told.get(f.name, pa.nulls(n, f.type)) for f in ENCOUNTERS], schema=ENCOUNTERS)


def listed(paths: Iterable[str | None], encounters: Iterable[pa.RecordBatch]) -> Iterator[list[Found]]:
    """Records that a table lists, one per row of ENCOUNTERS, with their paths in the same order.

    A row without a path is left out.
    """
    rows = (row for batch in encounters for row in zip(*(batch[c].to_pylist() for c in WHOSE), strict=True))
    found = (Found(path.removesuffix(".hea"), *row) for path, row in zip(paths, rows, strict=True) if path)
    while some := list(islice(found, FOLDER)):
        yield some
