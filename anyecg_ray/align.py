"""Which laboratory result a window of an ECG is labelled with: the draw that is near enough in time, or none.

What was not measured near a window is missing, never negative. Every window has one draw at most of each analyte.
The default clock and limits are ours (docs/datasets.md): no archive says when the blood was taken.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from anyecg_ray.analytes import BY_KEY, Indicator
from anyecg_ray.config import Settings
from anyecg_ray.labvalue import Reason, direction_labels, encode
from anyecg_ray.owners import Owners, Who, key
from anyecg_ray.schema import TIME

Clock = Literal["order", "result", "chart", "store", "none"]

MINUTE = 60_000_000
"""Microseconds."""


class Align(Settings):
    """How results are matched to windows."""

    clock: Literal["auto", "order", "result", "chart", "store", "none"] = "auto"
    """When a result counts as drawn. none: it belongs to the whole encounter. auto: the data set's usual one."""

    offset: float = 0.0
    """Minutes that are added to the clock: the draw comes after its order and before its result."""

    before: float = Field(240.0, ge=0)
    """Minutes by which a window may precede the draw."""

    after: float = Field(240.0, ge=0)
    """Minutes by which a window may follow the draw."""

    pick: Literal["nearest", "first"] = "nearest"
    """Which draw, where several are within the limits."""


@dataclass(frozen=True)
class Draws:
    """Results of many owners (encounters, patients) in arrays that workers share: n results, sorted by owner."""

    analytes: tuple[str, ...]
    owners: np.ndarray
    """(owners,) str, sorted, as owners.key names them: a recorded encounter, or a patient without one."""
    first: np.ndarray
    """(owners + 1,): where each owner's results begin."""
    time: np.ndarray
    """(n,) int64 microseconds."""
    analyte: np.ndarray
    """(n,) int16."""
    low: np.ndarray
    """(n,) float32: 1 below the range, 0 not, NaN where that cannot be told."""
    high: np.ndarray
    value: np.ndarray
    """(n,) float32, NaN where missing or censored."""

    def of(self, encounter: str | None, patient: str | None) -> np.ndarray:
        """Indices of the results of an encounter, and of its patient's results that belong to no encounter.

        Both as the manifest names them.
        """
        found = [self._slice(owner) for owner in {key(encounter, patient): None, key(None, patient): None}]
        return np.concatenate([np.empty(0, np.int64), *[f for f in found if f is not None]])

    def _slice(self, owner: str) -> np.ndarray | None:
        i = int(np.searchsorted(self.owners, owner))
        if i == len(self.owners) or self.owners[i] != owner:
            return None
        return np.arange(self.first[i], self.first[i + 1])


def collect(
    batches: Iterable[pa.RecordBatch], clock: Clock, sex: dict[str, str], recorded: Iterable[Who], table: str
) -> Draws:
    """The usable results of schema.LABELS batches.

    sex: by patient, for ranges that depend on it. recorded: whose results to keep, as the manifest names them.
    Raises InputError, naming the table, where it cannot be told whose a result is.
    """
    who = list(recorded)
    wanted = Owners([*who, *((None, patient) for _, patient in who)], table)
    owners = np.array(wanted.keys, str)
    parts = [_columns(batch, clock, sex, wanted) for batch in batches]
    analytes = sorted({name for part in parts for name in part[1]})
    codes = [np.array([analytes.index(n) for n in names], np.int16)[part["analyte"]] for part, names in parts]
    columns = {n: np.concatenate([p[n] for p, _ in parts]) if parts else np.empty(0) for n in _KINDS}
    order = np.lexsort((columns["time"], columns["owner"]))
    time, low, high, value = (columns[n][order].astype(_KINDS[n]) for n in ("time", "low", "high", "value"))
    analyte = np.concatenate(codes)[order] if codes else np.empty(0, np.int16)
    first = np.searchsorted(columns["owner"][order], np.arange(len(owners) + 1))
    return Draws(tuple(analytes), owners, first, time, analyte, low, high, value)


_KINDS = {"owner": np.int32, "time": np.int64, "low": np.float32, "high": np.float32, "value": np.float32}
"""30 bytes a result in all: those of MIMIC-IV's patients with an ECG are some 3 GB, MC-MED's 0.2."""


def _columns(
    batch: pa.RecordBatch, clock: Clock, sex: dict[str, str], wanted: Owners
) -> tuple[dict[str, np.ndarray], list[str]]:
    """The results of a batch that tell something, `owner` as places in `wanted`, `analyte` in the names beside."""
    place = wanted.places(batch["encounter_id"], batch["patient_id"])
    time = pa.nulls(len(batch), TIME).fill_null(0) if clock == "none" else batch[f"{clock}_time"]
    keep = pc.and_(pc.and_(pc.is_valid(place), pc.is_valid(time)), pc.is_valid(batch["analyte"]))
    batch, place, time = (c.filter(keep) for c in (batch, place, time))
    told = _label_columns(batch, sex) | {
        "owner": place.to_numpy(zero_copy_only=False),
        "time": time.cast(pa.int64()).to_numpy(zero_copy_only=False),
    }
    codes, names = encode(batch["analyte"])
    # a draw that tells nothing (haemolysed, "see comment") must not hide the one beside it that does
    tells = ~(np.isnan(told["low"]) & np.isnan(told["high"]) & np.isnan(told["value"]))
    columns = {n: told[n][tells].astype(kind) for n, kind in _KINDS.items()}
    return {**columns, "analyte": codes[tells]}, names[:-1]


def _label_columns(batch: pa.RecordBatch, sex: dict[str, str]) -> dict[str, np.ndarray]:
    """Whether each result is `low`, `high`, and its `value`: float32 with NaN where that cannot be told."""
    # what stayed in a unit that we do not know can be compared with its own range, and with nothing else
    foreign = pc.match_substring(batch["reason"].fill_null(""), Reason.UNKNOWN_UNIT)
    low, high = _range(batch, sex, foreign.to_numpy(zero_copy_only=False))
    result = {"value": batch["value"], "censored": batch["censored"], "low": low, "high": high}
    no_number = pc.or_(foreign, pc.is_valid(batch["censored"]))
    value = pc.if_else(no_number, None, batch["value"]).to_numpy(zero_copy_only=False)
    return {**direction_labels(batch["flag"], **result), "value": value.astype(np.float32)}


def _range(batch: pa.RecordBatch, sex: dict[str, str], foreign: np.ndarray) -> tuple[pa.Array, pa.Array]:
    """The result's own range; where it came without any limit, the analyte's for the patient's sex.

    foreign: (n,) bool, results in a unit that is not the analyte's.
    """
    low, high = (batch[n].to_numpy(zero_copy_only=False).copy() for n in ("low", "high"))
    codes, names = encode(batch["analyte"])
    known = np.array([k in BY_KEY for k in names])
    for i in np.flatnonzero(np.isnan(low) & np.isnan(high) & known[codes] & ~foreign):
        limits = BY_KEY[names[codes[i]]].limits(sex.get(batch["patient_id"][i].as_py() or ""))
        low[i], high[i] = (np.nan if x is None else x for x in limits)
    return pa.array(low, pa.float64(), from_pandas=True), pa.array(high, pa.float64(), from_pandas=True)


def match(times: np.ndarray, draws: Draws, rows: np.ndarray, rule: Align, clock: Clock) -> np.ndarray:
    """The draw of each analyte that each window is labelled with: (windows, analytes) int64, −1 where there is none.

    times: (windows,) int64 microseconds of the windows' middles. rows: what Draws.of gave.
    """
    out = np.full((len(times), len(draws.analytes)), -1)
    if not len(rows):
        return out
    ahead = np.zeros((len(times), len(rows)))
    if clock != "none":  # how long after the window the draw was
        ahead = (draws.time[rows] + rule.offset * MINUTE) - times[:, None].astype(np.float64)
    near = (ahead <= rule.before * MINUTE) & (ahead >= -rule.after * MINUTE)
    cost = np.where(near, np.abs(ahead) if rule.pick == "nearest" else ahead, np.inf)
    for analyte in np.unique(draws.analyte[rows]):
        mine = np.flatnonzero(draws.analyte[rows] == analyte)
        best = cost[:, mine].argmin(axis=1)
        found = np.isfinite(cost[np.arange(len(times)), mine[best]])
        out[found, analyte] = rows[mine[best[found]]]
    return out


def labels(matched: np.ndarray, draws: Draws, indicators: Sequence[Indicator]) -> np.ndarray:
    """(windows, indicators) float32: 1, 0 or the value; NaN, for not measured, masks the loss."""
    out = np.full((len(matched), len(indicators)), np.nan, np.float32)
    place = {analyte: i for i, analyte in enumerate(draws.analytes)}
    for i, indicator in enumerate(indicators):
        if indicator.analyte not in place:
            continue
        row = matched[:, place[indicator.analyte]]
        told = np.flatnonzero(row >= 0)
        column = {"low": draws.low, "high": draws.high, "present": draws.high, "value": draws.value}[
            indicator.direction
        ]
        out[told, i] = column[row[told]]
    return out
