"""Which rows of ecg_lab_estimate hold an estimate, and why the others do not.

Every export leaves out, or marks, the same rows for the same reasons, so that the counts of one can be held against
another's. A status is not reason enough: in a table of windows an `ok` span has windows that were not used.
"""

from collections import Counter
from collections.abc import Mapping
from math import isfinite
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from anyecg_ray.schema import Status

NOT_USED, NOT_FINITE = "window not used", "number not finite"


def number(row: Mapping[str, Any]) -> float | None:
    """The estimated value where the indicator is one, else the probability."""
    found: float | None = row["probability"] if row["value"] is None else row["value"]
    return found


def reason(row: Mapping[str, Any]) -> str | None:
    """Why a row has no estimate; None where it has one."""
    if row["status"] != Status.OK:
        return str(row["status"])
    found = number(row)
    if found is None:
        return NOT_USED
    return None if isfinite(found) else NOT_FINITE


def numbers(rows: pa.Table) -> pa.ChunkedArray:
    """`number` of every row."""
    return pc.coalesce(rows.column("value"), rows.column("probability"))


def estimated(rows: pa.Table, counts: Counter[str]) -> pa.Table:
    """The rows that have an estimate; the others are counted by reason."""
    there = pc.and_(pc.equal(rows.column("status"), Status.OK), pc.fill_null(pc.is_finite(numbers(rows)), False))
    without = rows.filter(pc.invert(there)).select(["status", "value", "probability"])
    counts.update(left_out(str(reason(row))) for row in without.to_pylist())
    return rows.filter(there)


def left_out(why: str) -> str:
    """The name under which a row that is left out is counted."""
    return f"rows left out: {why}"
