"""Read one laboratory result as it is written: a number, a bound on a number, or neither, with the reason.

A result such as `>10.0` is censored: the true value lies beyond the bound. It may label a direction where
the bound already decides it (`>10.0` against an upper limit of 5.1 is high, `<2` against a lower limit of 8
is low), and is never a number to regress on. `>=` and `<=` count as `>` and `<`: they differ only where the
value equals the bound.
"""

import math
import re
from enum import StrEnum
from functools import lru_cache
from typing import Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa

Direction = Literal["low", "high"]
SIDES: tuple[Direction, Direction] = ("low", "high")


class Reason(StrEnum):
    """Why a result has no value, or one that cannot be compared. The row is kept all the same."""

    EMPTY = "empty"
    """Nothing was written."""
    CATEGORICAL = "categorical"
    """Words or marks: Negative, 1+, SEE COMMENT."""
    INTERVAL = "interval"
    """Two numbers, as of cells per field: 0-2."""
    DEIDENTIFIED = "deidentified"
    """MIMIC's ___ without a number beside it."""
    SENTINEL = "sentinel"
    """A number that stands for none: -999, 999999."""
    IMPLAUSIBLE = "implausible"
    """Beyond what a patient can have: a wrong unit, or a slip of the pen."""
    UNKNOWN_UNIT = "unknown_unit"
    """Value and range are left in the source's unit: they may be compared with each other only."""
    BAD_TIME = "bad_time"
    """A time stamp that cannot be read."""
    UNKNOWN_ENCOUNTER = "unknown_encounter"
    """The visit is not in the table of visits, so that the patient is unknown."""
    HAEMOLYSED = "haemolysed"
    """The laboratory wrote that red cells had burst in the sample, and they hold what was measured."""
    UNCERTAIN = "uncertain"
    """A diagnosis neither stated with confidence nor left out."""
    MALFORMED_ROW = "malformed_row"
    """A line with too few or too many cells."""


SENTINELS = frozenset((-999.0, -9999.0, -99999.0, 999999.0, 9999999.0, 99999999.0))
"""Numbers that stand for "no result"; shorter runs of nines are left alone, because 9,999 U/L of CK is real."""

EMPTY = frozenset(("", "nan", "null", "none", "n/a", "na", "-", "--", "."))

_SIGN = {
    "<": "<", "<=": "<", "≤": "<", "less than": "<", "below": "<", "under": "<",
    ">": ">", ">=": ">", "≥": ">", "greater than": ">", "above": ">", "over": ">", "more than": ">",
}  # fmt: skip
_NUMBER = r"(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d*)?|\.\d+"
_RESULT = re.compile(
    rf"(?P<sign>{'|'.join(sorted(map(re.escape, _SIGN), key=len, reverse=True))})?\s*"
    rf"(?P<number>[+-]?(?:{_NUMBER})(?:e[+-]?\d+)?)\s*(?:\*|\(?(?:h|l|hh|ll)\)?)?",
    re.IGNORECASE,
)
_INTERVAL = re.compile(rf"(?:{_NUMBER})\s*(?:-|–|to)\s*(?:{_NUMBER})", re.IGNORECASE)


class Result(NamedTuple):
    """`value` is null where `reason` says why; `censored` is "<", ">" or null."""

    value: float | None
    censored: str | None
    reason: Reason | None


@lru_cache(65536)
def parse(text: str | None) -> Result:
    """A result as written, e.g. "16,084", ">10.0", "LESS THAN 0.01", "___", "Negative", "0-2"."""
    written = " ".join((text or "").split()).lower()
    if written in EMPTY:
        return Result(None, None, Reason.EMPTY)
    if set(written) == {"_"}:
        return Result(None, None, Reason.DEIDENTIFIED)
    match = _RESULT.fullmatch(written)
    if match is None:
        return Result(None, None, Reason.INTERVAL if _INTERVAL.fullmatch(written) else Reason.CATEGORICAL)
    value = float(match["number"].replace(",", ""))
    if value in SENTINELS or not math.isfinite(value):
        return Result(None, None, Reason.SENTINEL)
    return Result(value, _SIGN.get(match["sign"] or ""), None)


class Results(NamedTuple):
    """A column of results: `value` float64 (n,) with NaN, the others texts as objects (n,), "" for none."""

    value: np.ndarray
    censored: np.ndarray
    reason: np.ndarray

    @classmethod
    def uncensored(cls, value: np.ndarray, reason: np.ndarray) -> "Results":
        """Results none of which is a bound."""
        return cls(value, np.full(len(value), "", dtype=object), reason)

    def prefer(self, number: np.ndarray) -> "Results":
        """The source's own number where it gives one, with the bound's sign from the text. number: (n,) with NaN."""
        sentinel = np.isin(number, list(SENTINELS))
        there = ~np.isnan(number) & ~sentinel
        value, reason = self.value.copy(), self.reason.copy()
        value[there], reason[there] = number[there], ""
        value[sentinel], reason[sentinel] = np.nan, Reason.SENTINEL
        return Results(value, self.censored, reason)

    def or_else(self, other: "Results") -> "Results":
        """`other` where this has no number, and where it says that this number is but a bound."""
        lacking = np.isnan(self.value) & (~np.isnan(other.value) | (self.reason == Reason.EMPTY))
        take = lacking | ((other.value == self.value) & (other.censored != ""))
        return Results(*(np.where(take, b, a) for a, b in zip(self, other, strict=True)))


def parse_column(texts: pa.Array) -> Results:
    """`parse` of a whole column; each distinct text once, which makes tables of 10⁸ results affordable."""
    codes, distinct = encode(texts)
    results = [parse(text) for text in distinct]
    value = np.array([np.nan if r.value is None else r.value for r in results], dtype=np.float64)
    censored = np.array([r.censored or "" for r in results], dtype=object)
    reason = np.array([r.reason or "" for r in results], dtype=object)
    return Results(value[codes], censored[codes], reason[codes])


def encode(column: pa.Array) -> tuple[np.ndarray, list[Any]]:
    """(codes (n,) int64, distinct values): null is a value like any other, and comes last."""
    encoded = column.dictionary_encode()
    distinct = encoded.dictionary.to_pylist()
    return encoded.indices.fill_null(len(distinct)).to_numpy(zero_copy_only=False).astype(np.int64), [*distinct, None]


def beyond(direction: Direction, value: pa.Array, censored: pa.Array, low: pa.Array, high: pa.Array) -> np.ndarray:
    """Whether each result lies beyond its range on one side: float32 1, 0, or NaN where that cannot be told.

    Without a limit on that side nothing can be told. A censored value decides only where its bound does.
    """
    x = _floats(value)
    limit = _floats(high if direction == "high" else low)
    if direction == "low":
        x, limit = -x, -limit
    open_side, closed_side = (">", "<") if direction == "high" else ("<", ">")
    sign = np.asarray(censored.to_pylist(), dtype=object)
    label = (x > limit).astype(np.float32)
    label[(sign == open_side) & (x >= limit)] = 1  # the true value lies further out than the bound
    label[(sign == open_side) & (x < limit)] = np.nan
    label[(sign == closed_side) & (x <= limit)] = 0
    label[(sign == closed_side) & (x > limit)] = np.nan
    label[np.isnan(x) | np.isnan(limit)] = np.nan
    return label


def direction_labels(flag: pa.Array, **result: pa.Array) -> dict[str, np.ndarray]:
    """The labels of both directions: by the laboratory's own flag, else by the range. float32 1, 0 or NaN.

    What is flagged `abnormal`, without a side, and lies beyond neither limit may be low or high: both are unknown.
    `result` are the arguments of `beyond`; put the analyte's own limits in where a draw came without any.
    """
    labels: dict[str, np.ndarray] = {side: beyond(side, **result) for side in SIDES}
    flags = np.asarray(flag.to_pylist(), dtype=object).astype(str)
    explained = (labels["low"] == 1) | (labels["high"] == 1)
    told = np.isin(flags, ("low", "high", "normal"))
    for side, label in labels.items():
        label[told] = flags[told] == side
        label[flags == "abnormal"] = np.where(explained, label == 1, np.nan)[flags == "abnormal"]
    return labels


def _floats(column: pa.Array) -> np.ndarray:
    values: np.ndarray = column.cast(pa.float64()).to_numpy(zero_copy_only=False)
    return values
