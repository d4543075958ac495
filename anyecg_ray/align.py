"""Which laboratory result a window of an ECG is labelled with: the draw that is near enough in time, or none.

What was not measured near a window is missing, never negative. Every window has one draw at most of each analyte.
The default clock and limits are ours (docs/datasets.md): no archive says when the blood was taken.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa

from anyecg_ray.analytes import BY_KEY, Indicator
from anyecg_ray.config import Settings
from anyecg_ray.labvalue import direction_label

Clock = Literal["order", "result", "chart", "store", "none"]

MINUTE = 60_000_000
"""Microseconds."""


class Align(Settings):
    """How results are matched to windows."""

    clock: Literal["auto", "order", "result", "chart", "store", "none"] = "auto"
    """When a result counts as drawn. none: it belongs to the whole encounter. auto: the data set's usual one."""

    offset: float = 0.0
    """Minutes that are added to the clock: the draw comes after its order and before its result."""

    before: float = 240.0
    """Minutes by which a window may precede the draw."""

    after: float = 240.0
    """Minutes by which a window may follow the draw."""

    pick: Literal["nearest", "first"] = "nearest"
    """Which draw, where several are within the limits."""


@dataclass(frozen=True)
class Draws:
    """Results of many owners (encounters, patients) in arrays that workers share: n results, sorted by owner."""

    analytes: tuple[str, ...]
    owners: np.ndarray
    """(owners,) str, sorted; an encounter as `e:ID`, a patient of whom no encounter is told as `p:ID`."""
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
        """Indices of the results of an encounter, and of its patient's results that belong to no encounter."""
        found = [self._slice(f"e:{encounter}") if encounter else None, self._slice(f"p:{patient}") if patient else None]
        return np.concatenate([np.empty(0, np.int64), *[f for f in found if f is not None]])

    def _slice(self, owner: str) -> np.ndarray | None:
        i = int(np.searchsorted(self.owners, owner))
        if i == len(self.owners) or self.owners[i] != owner:
            return None
        return np.arange(self.first[i], self.first[i + 1])


def collect(batches: Iterable[pa.RecordBatch], clock: Clock, sex: dict[str, str], wanted: set[str]) -> Draws:
    """The usable results of schema.LABELS batches.

    sex: by patient, for ranges that depend on it. wanted: owners to keep, as Draws names them.
    """
    parts: list[dict[str, np.ndarray]] = []
    for batch in batches:
        part = _columns(batch, clock, sex, wanted)
        if len(part["owner"]):
            parts.append(part)
    names = ("owner", "time", "analyte", "low", "high", "value")
    joined = {n: np.concatenate([p[n] for p in parts]) if parts else np.empty(0) for n in names}
    order = np.lexsort((joined["time"], joined["owner"]))
    owners, first = np.unique(joined["owner"][order].astype(str), return_index=True)
    keys, codes = np.unique(joined["analyte"][order].astype(str), return_inverse=True)
    return Draws(
        tuple(keys.tolist()),
        owners,
        np.append(first, len(order)),
        joined["time"][order].astype(np.int64),
        codes.astype(np.int16),
        *(joined[n][order].astype(np.float32) for n in ("low", "high", "value")),
    )


def _columns(batch: pa.RecordBatch, clock: Clock, sex: dict[str, str], wanted: set[str]) -> dict[str, np.ndarray]:
    owner = np.array(
        [
            f"e:{e}" if e else f"p:{p}"
            for e, p in zip(_list(batch, "encounter_id"), _list(batch, "patient_id"), strict=True)
        ],
        object,
    )
    if clock == "none":
        time = np.zeros(len(batch), np.int64)
        timed = np.ones(len(batch), bool)
    else:
        column = batch.column(f"{clock}_time")
        timed = column.is_valid().to_numpy(zero_copy_only=False)
        time = column.cast(pa.int64()).fill_null(0).to_numpy(zero_copy_only=False)
    keep = timed & np.array([o in wanted for o in owner], bool) & batch.column("analyte").is_valid().to_numpy(False)
    batch, owner, time = batch.filter(pa.array(keep)), owner[keep], time[keep]
    low, high = _range(batch, sex)
    result = {"value": batch.column("value"), "censored": batch.column("censored"), "low": low, "high": high}
    value = batch.column("value").cast(pa.float32()).to_numpy(zero_copy_only=False).copy()
    value[batch.column("censored").is_valid().to_numpy(zero_copy_only=False)] = np.nan
    flag = batch.column("flag")
    return {
        "owner": owner,
        "time": time,
        "analyte": np.array(_list(batch, "analyte"), object),
        "low": direction_label("low", flag, **result),
        "high": direction_label("high", flag, **result),
        "value": value,
    }


def _range(batch: pa.RecordBatch, sex: dict[str, str]) -> tuple[pa.Array, pa.Array]:
    """The result's own range; where it came without any limit, the analyte's for the patient's sex."""
    low, high = _list(batch, "low"), _list(batch, "high")
    for i, (key, patient) in enumerate(zip(_list(batch, "analyte"), _list(batch, "patient_id"), strict=True)):
        if low[i] is None and high[i] is None and key in BY_KEY:
            low[i], high[i] = BY_KEY[key].limits(sex.get(patient or ""))
    return pa.array(low, pa.float64()), pa.array(high, pa.float64())


def _list(batch: pa.RecordBatch, name: str) -> list:  # type: ignore[type-arg]
    return batch.column(name).to_pylist()


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
    place = {key: i for i, key in enumerate(draws.analytes)}
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
