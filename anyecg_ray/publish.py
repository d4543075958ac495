"""From staging to the published table: one row per span, indicator and model version.

A probability is the mean over the span's usable windows; a value is the mean of the windows' means, its
interval that of one window's typical deviation, because windows of one ECG err together. A span that could
not be scored has the same rows, with its status and no numbers.
"""

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from anyecg_ray.model import Z95, Card
from anyecg_ray.schema import ECG_LAB_ESTIMATE, PROVENANCE, Status


def publishable(staging: pa.Table, card: Card) -> pa.Table:
    """One model's staging rows as rows of schema.ECG_LAB_ESTIMATE, span by span, indicators in the card's order."""
    staging = staging.combine_chunks()
    means, squares, n_windows = _over_windows(staging, card)
    spans = np.repeat(np.arange(len(staging)), len(card.indicators))
    indicators = pa.array(np.tile(np.arange(len(card.indicators), dtype=np.int32), len(staging)))
    carried = {name: staging.column(name).take(pa.array(spans)) for name in _CARRIED}
    columns = carried | {
        "ecg_time": staging.column("start_time").take(pa.array(spans)),
        "quality_flags": _flags(staging).take(pa.array(spans)),
        "n_windows": pa.array(n_windows[spans].astype(np.int32)),
        **{name: _told(card, field).take(indicators) for name, field in _FROM_CARD.items()},
        **_numbers(means, squares, card),
    }
    return pa.table([columns[f.name].cast(f.type) for f in ECG_LAB_ESTIMATE], schema=ECG_LAB_ESTIMATE)


_CARRIED = ("span_id", "record_id", "patient_id", "encounter_id", "status", *(f.name for f in PROVENANCE))
_FROM_CARD = {"indicator": "key", "analyte": "analyte", "loinc": "loinc", "unit": "unit"}


def _told(card: Card, field: str) -> pa.Array:
    return pa.array([getattr(i, field) for i in card.indicators], pa.string())


def _over_windows(staging: pa.Table, card: Card) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean of each column and of its square over the usable windows, (spans, columns), NaN where there are
    none; and the number of usable windows, (spans,)."""
    windows = staging.column("values").combine_chunks()
    span_of = pc.list_parent_indices(windows).to_numpy()
    used = windows.flatten().is_valid().to_numpy(zero_copy_only=False)
    x = windows.flatten().drop_null().flatten().to_numpy().reshape(-1, card.columns).astype(np.float64)
    n = np.bincount(span_of[used], minlength=len(staging))
    sums = np.zeros((2, len(staging), card.columns))
    np.add.at(sums[0], span_of[used], x)
    np.add.at(sums[1], span_of[used], x**2)
    with np.errstate(invalid="ignore"):
        means, squares = sums / n[:, None]
    ok = np.array([s == Status.OK for s in staging.column("status").to_pylist()], bool)
    means[~ok] = squares[~ok] = np.nan
    return means, squares, n


def _flags(staging: pa.Table) -> pa.Array:
    """Every flag that any window of the span bears, sorted."""
    flags = [sorted({f for w in q or () for f in w.split("|") if f}) for q in staging.column("quality").to_pylist()]
    return pa.array(flags, pa.list_(pa.string()))


def _numbers(means: np.ndarray, squares: np.ndarray, card: Card) -> dict[str, Any]:
    """probability, abnormal, value, lower and upper, each flattened span by span."""
    shape = (len(means), len(card.indicators))
    out = {name: np.full(shape, np.nan) for name in ("probability", "value", "lower", "upper")}
    abnormal = np.full(shape, np.nan)
    column = 0
    for i, indicator in enumerate(card.indicators):
        if indicator.direction == "value":
            half = Z95 * np.sqrt(squares[:, column + 1])
            out["value"][:, i] = means[:, column]
            out["lower"][:, i], out["upper"][:, i] = means[:, column] - half, means[:, column] + half
            column += 2
            continue
        out["probability"][:, i] = p = means[:, column]
        if indicator.threshold is not None:
            abnormal[:, i] = np.where(np.isnan(p), np.nan, p >= indicator.threshold)
        column += 1
    arrays = {name: pa.array(v.ravel(), pa.float64(), from_pandas=True) for name, v in out.items()}
    return arrays | {"abnormal": pa.array(abnormal.ravel() > 0, mask=np.isnan(abnormal.ravel()))}
