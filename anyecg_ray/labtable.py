"""From a source's columns to the long-form LABELS table: one row in, one row out, whatever is in it.

Where a component is a known analyte and its unit is one that we know, value and range come out in the
analyte's unit. Otherwise they stay as they are, and `unit` says what that is.
"""

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa

from anyecg_ray import tables
from anyecg_ray.analytes import Analyte, conversion, find, slug
from anyecg_ray.labvalue import SENTINELS, SIDES, Reason, Results, beyond, encode
from anyecg_ray.schema import LABELS, TIME
from anyecg_ray.units import ucum

Counts = Counter[tuple[str, str]]
"""(reason, what it was about) -> rows: reasons of `Reason` by component, and unknown spellings as they are."""

CLOCKS = ("order_time", "result_time", "chart_time", "store_time")

FLAGS = {
    "low": "low", "l": "low", "ll": "low", "abnormal low": "low", "critical low": "low", "low panic": "low",
    "high": "high", "h": "high", "hh": "high", "abnormal high": "high", "critical high": "high",
    "high panic": "high",
    "normal": "normal", "n": "normal",
    "abnormal": "abnormal", "critical": "abnormal", "a": "abnormal", "aa": "abnormal", "panic": "abnormal",
    "delta": "", "": "",
}  # fmt: skip
"""A laboratory's flags; `abnormal` is one without a side, which the row's own range may tell."""

_BIT = {reason: 1 << i for i, reason in enumerate(Reason)}


def label_batch(rows: Mapping[str, pa.Array], results: Results, dataset: str, counts: Counts) -> pa.RecordBatch:
    """LABELS of n rows.

    rows: `component` and, where the source has them, `patient_id, encounter_id`, the clocks (text or time),
    `lookup` (what the archive's analytes are found by; else the component), `unit, low, high, flag`, `reason`.
    """
    component = tables.texts(rows["component"])
    n = len(component)
    codes, components = encode(component)
    unit = _Units(rows.get("lookup", component), rows.get("unit", pa.nulls(n, pa.string())), dataset)
    bits = _bits(results.reason)
    value = unit.factor * results.value + unit.offset
    low, high = (unit.factor * limit + unit.offset for limit in _range(rows, n))
    implausible = unit.implausible(value) & (results.censored == "")
    value[implausible] = np.nan
    bits |= np.where(implausible, _BIT[Reason.IMPLAUSIBLE], 0)
    bits |= np.where(unit.unknown & ~np.isnan(value), _BIT[Reason.UNKNOWN_UNIT], 0)
    if "reason" in rows:
        bits |= _bits(np.asarray(rows["reason"].to_pylist(), dtype=object))
    clocks, bad = _clocks(rows, n)
    bits |= np.where(bad, _BIT[Reason.BAD_TIME], 0)

    slugs = np.array([slug(c or "") for c in components], dtype=object)
    columns: dict[str, pa.Array] = {
        "patient_id": rows.get("patient_id", pa.nulls(n, pa.string())),
        "encounter_id": rows.get("encounter_id", pa.nulls(n, pa.string())),
        **clocks,
        "component": component,
        "analyte": _text(np.where(unit.key == "", slugs[codes], unit.key)),
        "value": _nullable(value),
        "censored": _text(np.where(np.isnan(value), "", results.censored)),
        "unit": _text(unit.out),
        "low": _nullable(low),
        "high": _nullable(high),
    }
    columns["flag"] = _flags(rows.get("flag", pa.nulls(n, pa.string())), columns, counts)
    columns["reason"] = _reasons(bits, codes, components, counts)
    unit.count_unknown(counts)
    return pa.record_batch([columns[name] for name in LABELS.names], schema=LABELS)


def malformed(count: int, name: str, counts: Counts) -> list[pa.RecordBatch]:
    """Rows for the lines that were no rows, so that a table's lines and its labels add up."""
    if not count:
        return []
    counts[Reason.MALFORMED_ROW, name] += count
    columns = {f.name: pa.nulls(count, f.type) for f in LABELS}
    columns["reason"] = pa.repeat(pa.scalar(str(Reason.MALFORMED_ROW)), count)
    return [pa.record_batch([columns[name] for name in LABELS.names], schema=LABELS)]


class _Units:
    """What becomes of each row's unit, worked out once per distinct pair of component and unit."""

    def __init__(self, lookup: pa.Array, unit: pa.Array, dataset: str) -> None:
        names, self.names = encode(tables.texts(lookup))
        spelt, units = encode(tables.texts(unit))
        analytes = [find(dataset, name) if name else None for name in self.names]
        pairs, self._pair = np.unique(names * len(units) + spelt, return_inverse=True)
        self._pairs = [(int(p) // len(units), units[int(p) % len(units)]) for p in pairs]
        rules = [_rule(analytes[a], u) for a, u in self._pairs]
        self.factor = np.array([r[0] for r in rules], dtype=np.float64)[self._pair]
        self.offset = np.array([r[1] for r in rules], dtype=np.float64)[self._pair]
        self.out = np.array([r[2] for r in rules], dtype=object)[self._pair]
        self._unknown = np.array([r[3] for r in rules], dtype=bool)
        self.unknown = self._unknown[self._pair]
        self.key = np.array([a.key if a else "" for a in analytes], dtype=object)[names]
        bounds = [a.plausible if a else (None, None) for a in analytes]
        self._low = np.array([-np.inf if b[0] is None else b[0] for b in bounds])[names]
        self._high = np.array([np.inf if b[1] is None else b[1] for b in bounds])[names]

    def implausible(self, value: np.ndarray) -> np.ndarray:
        """Where a value in the analyte's unit is none that a patient can have."""
        outside: np.ndarray = ((value < self._low) | (value > self._high)) & ~self.unknown
        return outside

    def count_unknown(self, counts: Counts) -> None:
        for i in np.flatnonzero(self._unknown):
            name, unit = self._pairs[i]
            counts["unknown_unit_spelling", f"{self.names[name]} [{unit}]"] += int((self._pair == i).sum())


def _rule(analyte: Analyte | None, unit: str | None) -> tuple[float, float, str, bool]:
    """(factor, offset, unit that comes out, whether the unit is one we do not know for this analyte)."""
    if analyte is None:
        return 1.0, 0.0, ucum(unit) or unit or "", False
    rule = conversion(analyte, unit)
    return (1.0, 0.0, unit or "", True) if rule is None else (*rule, analyte.unit, False)


def _range(rows: Mapping[str, pa.Array], n: int) -> tuple[np.ndarray, np.ndarray]:
    """The draw's range, NaN where there is none: 0 to 0, an upper limit of 0 above which all lies, or upside down."""
    nothing = pa.nulls(n, pa.string())
    low, high = (tables.numbers(rows.get(name, nothing)).copy() for name in ("low", "high"))
    for limit in (low, high):
        limit[np.isin(limit, list(SENTINELS))] = np.nan
    high[(high == 0) & ~(low < 0)] = np.nan
    low[(low == 0) & np.isnan(high)] = np.nan
    upside_down = low > high
    low[upside_down] = high[upside_down] = np.nan
    return low, high


def _clocks(rows: Mapping[str, pa.Array], n: int) -> tuple[dict[str, pa.Array], np.ndarray]:
    bad = np.zeros(n, dtype=bool)
    clocks = {name: pa.nulls(n, TIME) for name in CLOCKS}
    for name in CLOCKS:
        if name in rows:
            clocks[name], unread = tables.times(rows[name])
            bad |= unread
    return clocks, bad


def _flags(flag: pa.Array, columns: Mapping[str, pa.Array], counts: Counts) -> pa.Array:
    codes, distinct = encode(tables.texts(flag))
    told = [FLAGS.get(" ".join((f or "").lower().split()), "unknown") for f in distinct]
    for i, text in enumerate(distinct):
        if told[i] == "unknown":
            counts["unknown_flag", str(text)] += int((codes == i).sum())
            told[i] = ""
    flags = np.array(told, dtype=object)[codes]
    if (flags == "abnormal").any():
        result = {name: columns[name] for name in ("value", "censored", "low", "high")}
        for side in SIDES:
            flags[(flags == "abnormal") & (beyond(side, **result) == 1)] = side
        if undirected := int((flags == "abnormal").sum()):
            counts["undirected_flag", ""] += undirected
    return _text(flags)


def _bits(reasons: np.ndarray) -> np.ndarray:
    bits = np.zeros(len(reasons), dtype=np.int64)
    for reason, bit in _BIT.items():
        bits[reasons == reason] |= bit
    return bits


def _reasons(bits: np.ndarray, codes: np.ndarray, components: Sequence[str | None], counts: Counts) -> pa.Array:
    sets, inverse = np.unique(bits, return_inverse=True)
    for reason, bit in _BIT.items():
        if not (sets & bit).any():
            continue
        for code, rows in enumerate(np.bincount(codes[(bits & bit) > 0], minlength=len(components))):
            if rows:
                counts[reason, components[code] or ""] += int(rows)
    joined = ["|".join(r for r, bit in _BIT.items() if s & bit) for s in sets]
    return _text(np.array(joined, dtype=object)[inverse])


def _text(values: np.ndarray) -> pa.Array:
    return pa.array(values, pa.string(), mask=values == "")


def _nullable(values: np.ndarray) -> pa.Array:
    return pa.array(values, pa.float64(), from_pandas=True)  # NaN becomes null
