"""A cohort: who, and around which moments; it chooses the ECGs that are scored. cohort_table.py gathers what they say.

A table with `patient_id`, `encounter_id` or both, `index_time`, and columns of its user's own, which come out again.
A row, a member of the cohort, is found by what it has: by its encounter, else by its patient; where both the row and an
ECG name a patient, they must name the same one, because some archives number encounters anew for each patient. Where
one of them names none and the encounter is of several patients, the table is refused. An ECG belongs to an index time
where it began in the window around it; without index times every ECG of the member does.
"""

import hashlib
from itertools import groupby
from typing import NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
from pydantic import Field

from anyecg_ray import tables
from anyecg_ray.config import InputError, Settings
from anyecg_ray.manifest import ManifestFile, read_rows
from anyecg_ray.owners import Owners, Who
from anyecg_ray.predict import Shard

WHO = ("encounter_id", "patient_id")
"""What a row may be found by, the narrower one first."""

RESERVED = (
    "n_spans", "nearest_span_id", "nearest_minutes_before", "indicator", "nearest", "mean", "highest", "model_version",
)  # fmt: skip
"""Columns that cohort_table.py adds."""

LONGEST_MINUTES = 1e8
"""Two centuries: what is longer is a slip, and far longer would not fit into 64 bits of microseconds."""


class Window(Settings):
    """Which ECGs belong to an index time."""

    before: float = Field(1440, ge=0, le=LONGEST_MINUTES)
    """Minutes before it in which an ECG counts."""

    after: float = Field(0, ge=0, le=LONGEST_MINUTES)
    """Minutes after it; above 0 an estimate may know what the index time did not."""


class Ecgs(NamedTuple):
    """Whose ECGs, and when they began: n of each."""

    who: dict[str, np.ndarray]
    """By column of WHO, (n,) str, None where it is not known."""
    time: np.ndarray
    """(n,) datetime64[us], NaT where it is not known."""

    @classmethod
    def of(cls, rows: pa.Table, time: str) -> "Ecgs":
        """From the columns WHO and `time`."""
        return cls({k: _plain(rows.column(k)) for k in WHO}, moments(rows.column(time)))


class Pairs(NamedTuple):
    """Members, each with an ECG that belongs to it."""

    member: np.ndarray
    """(pairs,) int: row of the cohort."""
    ecg: np.ndarray
    """(pairs,) int: row of the ECGs."""
    apart: np.ndarray
    """(pairs,) timedelta64[us] from the ECG to the index time, NaT without one."""

    def only(self, mask: np.ndarray) -> "Pairs":
        """Those of the mask, bool (pairs,)."""
        return Pairs(*(column[mask] for column in self))


class Lookup:
    """From an id to its rows, of which it may have several: built once, asked often."""

    def __init__(self, ids: np.ndarray) -> None:
        """ids: (n,) str, None where there is none."""
        codes, known = pd.factorize(ids)
        self._known = pd.Index(known, dtype=object)
        self._order = np.argsort(codes, kind="stable")
        self._first = np.searchsorted(codes[self._order], np.arange(len(known) + 1))

    def pairs(self, asked: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(row, place in `asked`) of all that have the same id: (pairs,) int each."""
        codes = self._known.get_indexer(asked)
        place = np.flatnonzero(codes >= 0)
        first, end = self._first[codes[place]], self._first[codes[place] + 1]
        each = np.repeat(np.arange(len(place)), end - first)
        nth = np.arange(len(each)) - np.searchsorted(each, each)
        return self._order[first[each] + nth], place[each]


class IndexTimes:
    """The cohort of one table."""

    def __init__(self, uri: str, window: Window) -> None:
        """Raises InputError where the table cannot be used."""
        self._uri = uri
        rows = _read(uri)
        ids = {k: tables.identifiers(rows.column(k).combine_chunks()) for k in WHO if k in rows.column_names}
        self.timed = "index_time" in rows.column_names
        times = {"index_time": _times(uri, rows)} if self.timed else {}
        own = {n: rows.column(n) for n in rows.column_names if n not in (*WHO, "index_time")}
        self.rows = pa.table({**ids, **times, **own})
        nobody = np.full(len(rows), None, object)
        self._who = {k: _plain(ids[k]) if k in ids else nobody for k in WHO}
        encounter, patient = (self._who[k] for k in WHO)
        self._sought = {"encounter_id": encounter, "patient_id": np.where(_known(encounter), nobody, patient)}
        if (lost := ~_known(encounter) & ~_known(patient)).any():
            raise InputError(
                f"{uri}: line {int(lost.argmax()) + 2} has no {' and no '.join(ids)}; every row names who it is about"
            )
        self._time = moments(self.rows.column("index_time")) if self.timed else np.full(len(rows), "NaT", "M8[us]")
        self._before, self._after = (np.timedelta64(round(m * 60e6), "us") for m in (window.before, window.after))
        # what a resume must find the same: columns of the user's own decide nothing
        told = [*(a.tolist() for a in self._who.values()), self._time.astype(np.int64).tolist(), window.model_dump()]
        self.fingerprint = hashlib.sha256(repr(told).encode()).hexdigest()[:16]

    def choose(self, manifest: ManifestFile, shards: list[Shard]) -> list[Shard]:
        """The shards with the ECGs that belong to the cohort, less those that have none; prints who has any.

        Raises InputError where it cannot be told to which patient of an encounter a row belongs.
        """
        lookups = {k: Lookup(ids) for k, ids in self._sought.items()}
        known, inside = (np.zeros(len(self.rows), bool) for _ in range(2))
        recorded: set[Who] = set()
        chosen = []
        for group, slices in groupby(shards, key=lambda shard: shard.row_group):
            ecgs = Ecgs.of(read_rows(manifest.uri, group, columns=[*WHO, "start_time"]), "start_time")
            theirs = self._theirs([lookups[k].pairs(ecgs.who[k]) for k in WHO], ecgs)
            known[theirs.member] = True
            recorded |= set(zip(*(ecgs.who[k][theirs.ecg].tolist() for k in WHO), strict=True))
            belonging = theirs.only(self._in_window(theirs))
            inside[belonging.member] = True
            mask = np.zeros(len(ecgs.time), bool)
            mask[belonging.ecg] = True
            parts = [(shard, mask[shard.offset : shard.offset + shard.rows]) for shard in slices]
            chosen += [shard.only(mine) for shard, mine in parts if mine.any()]
        Owners(recorded, self._uri).places(*(pa.array(self._who[k], pa.string()) for k in WHO))
        self._tell(known, inside)
        return chosen

    def belonging(self, ecgs: Ecgs, lookups: dict[str, Lookup], start: int, stop: int) -> Pairs:
        """The members from `start` to before `stop` with the ECGs that belong to them. lookups: of the ECGs."""
        found = [lookups[k].pairs(self._sought[k][start:stop]) for k in WHO]
        theirs = self._theirs([(member + start, ecg) for ecg, member in found], ecgs)
        return theirs.only(self._in_window(theirs))

    def _theirs(self, found: list[tuple[np.ndarray, np.ndarray]], ecgs: Ecgs) -> Pairs:
        """(member, ECG) found by each of WHO as pairs, without those that name different patients."""
        member, ecg = (np.concatenate(side) for side in zip(*found, strict=True))
        one, other = self._who["patient_id"][member], ecgs.who["patient_id"][ecg]
        agree = ~_known(one) | ~_known(other) | (one == other)
        return Pairs(member, ecg, self._time[member] - ecgs.time[ecg]).only(agree)

    def _in_window(self, pairs: Pairs) -> np.ndarray:
        """bool (pairs,)."""
        if not self.timed:
            return np.ones(len(pairs.member), bool)
        inside: np.ndarray = (pairs.apart <= self._before) & (pairs.apart >= -self._after)
        return inside

    def _tell(self, known: np.ndarray, inside: np.ndarray) -> None:
        n = len(known)
        outside = f", {(known & ~inside).sum():,} with ECGs outside of it only" if self.timed else ""
        print(
            f"cohort: {n:,} rows, {inside.sum():,} with an ECG{' in the window' if self.timed else ''}{outside}, "
            f"{n - known.sum():,} without any in the manifest"
            + ("" if known.any() else ": are the ids those of the manifest's columns?"),
            flush=True,
        )


def moments(column: pa.ChunkedArray | pa.Array) -> np.ndarray:
    """datetime64[us] (n,), UTC, NaT where there is no time: archives reach into years that nanoseconds do not."""
    out: np.ndarray = column.cast(pa.timestamp("us")).to_numpy(zero_copy_only=False)
    return out


def _plain(column: pa.ChunkedArray | pa.Array) -> np.ndarray:
    out: np.ndarray = column.to_numpy(zero_copy_only=False).astype(object)
    out[out == ""] = None
    return out


def _known(ids: np.ndarray) -> np.ndarray:
    """bool (n,): whether there is one."""
    known: np.ndarray = ids != None  # noqa: E711 (elementwise)
    return known


def _read(uri: str) -> pa.Table:
    """The table as it is. Raises InputError for columns that are missing, misspelt, or none of its own."""
    rows = tables.whole(uri, (*WHO, "index_time"))
    present = rows.column_names
    found = [k for k in WHO if k in present]
    # beside an id, what resembles the other one (encounter_type) is a column of the user's own
    tables.require(uri, present, [], ["index_time"] if found else [*WHO, "index_time"])
    if not found:
        raise InputError(f"{uri}: no column patient_id or encounter_id; name who is in the cohort")
    if taken := [name for name in RESERVED if name in present]:
        raise InputError(f"{uri}: the output has a column {taken[0]} already; rename yours, such as my_{taken[0]}")
    return rows


def _times(uri: str, rows: pa.Table) -> pa.Array:
    read, odd = tables.times(rows.column("index_time").combine_chunks())
    missing = odd | read.is_null().to_numpy(zero_copy_only=False)
    if missing.any():
        raise InputError(f"{uri}: index_time of line {int(missing.argmax()) + 2} is no time; write 2026-11-20 08:30:00")
    return read
