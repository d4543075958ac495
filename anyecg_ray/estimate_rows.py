"""From staging to the published table: a row per span and indicator, or per window and indicator.

A span's estimate comes from the mean of its usable windows' logits, calibrated; a value's interval is that of one
window's typical deviation, because windows of one ECG err together. A span that could not be scored has the
same rows, with its status and no numbers.
"""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from anyecg_ray.config import InputError
from anyecg_ray.ledger import Ledger
from anyecg_ray.model import Z95, Card, decode, first_columns, load_card
from anyecg_ray.schema import ECG_LAB_ESTIMATE, PROVENANCE, Status

Granularity = Literal["span", "window"]


def opened_job(out: str, bundle: str) -> tuple[Ledger, Card]:
    """The ledger of a back-fill and the card of the model that scored it.

    Raises InputError where the bundle has other weights, indicators, calibration or thresholds than it had then: the
    rows of one model version must not differ in how they came to be, whatever name and version a card bears.
    """
    card = load_card(bundle)
    ledger = Ledger(out, card.model_id, card.model_version)
    ledger.open()
    if ledger.job.get("weights_sha256", card.weights_sha256) != card.weights_sha256:
        raise InputError(f"{bundle}: not the weights that {out} was scored with; give that bundle")
    if ledger.job.get("indicators_and_calibration", card.estimates_fingerprint) != card.estimates_fingerprint:
        raise InputError(
            f"{bundle}: other indicators, calibration or thresholds than {out} was scored with; give that bundle, or "
            "this one a model_version of its own"
        )
    return ledger, card


def publishable(staging: pa.Table, card: Card, granularity: Granularity = "span") -> pa.Table:
    """One model's staging rows as rows of schema.ECG_LAB_ESTIMATE, in their order, indicators in the card's order."""
    staging = staging.combine_chunks()
    units = (_spans if granularity == "span" else _windows)(staging, card)
    each = np.repeat(np.arange(len(units.span)), len(card.indicators))
    indicators = pa.array(np.tile(np.arange(len(card.indicators), dtype=np.int32), len(units.span)))
    columns = {
        **{name: staging.column(name).take(pa.array(units.span[each])) for name in _CARRIED},
        **{name: column.take(pa.array(each)) for name, column in _of_units(staging, units).items()},
        **{name: _card_column(card, field).take(indicators) for name, field in _FROM_CARD.items()},
        **_numbers(units.logits, card),
    }
    return pa.table([columns[f.name].cast(f.type) for f in ECG_LAB_ESTIMATE], schema=ECG_LAB_ESTIMATE)


_CARRIED = ("span_id", "record_id", "patient_id", "encounter_id", "status", *(f.name for f in PROVENANCE))
_FROM_CARD = {"indicator": "key", "analyte": "analyte", "loinc": "loinc", "unit": "unit"}


@dataclass(frozen=True)
class _Units:
    """What is published: spans or windows, n of them."""

    span: np.ndarray
    """(n,) int: the row of staging."""
    start: np.ndarray
    """(n,) float: seconds from the span's start; NaN for the span as a whole."""
    logits: np.ndarray
    """(n, columns) float: NaN where there is no estimate."""
    n_windows: np.ndarray
    """(n,) int: usable windows behind it."""
    flags: list[list[str]]
    """Quality flags, sorted."""


def _spans(staging: pa.Table, card: Card) -> _Units:
    """Every span, with the mean of its usable windows' logits."""
    span, used, logits = _outputs(staging, card)
    means, n = mean_logits(span[used], logits, len(staging))
    means[~_ok(staging)] = np.nan
    flags = [sorted({f for w in q or () for f in w.split("|") if f}) for q in staging.column("quality").to_pylist()]
    return _Units(np.arange(len(staging)), np.full(len(staging), np.nan), means, n, flags)


def mean_logits(span: np.ndarray, logits: np.ndarray, spans: int) -> tuple[np.ndarray, np.ndarray]:
    """Each span's mean over its usable windows, (spans, columns) float64, and their number, (spans,).

    span: (windows,) the span of each. logits: (windows, columns). A span without windows has NaN.
    """
    n = np.bincount(span, minlength=spans)
    sums = np.zeros((spans, logits.shape[1]))
    np.add.at(sums, span, logits)
    with np.errstate(invalid="ignore"):
        return sums / n[:, None], n


def _windows(staging: pa.Table, card: Card) -> _Units:
    """Every window, usable or not; a span that has none stands for itself."""
    span, used, logits = _outputs(staging, card)
    bare = np.setdiff1d(np.arange(len(staging)), span)
    each = np.full((len(span), card.columns), np.nan)
    each[used] = logits
    each[~_ok(staging)[span]] = np.nan
    starts = staging.column("window_start").combine_chunks().flatten().to_numpy(zero_copy_only=False)
    flags = [[f for f in w.split("|") if f] for w in staging.column("quality").combine_chunks().flatten().to_pylist()]
    every = _Units(
        np.concatenate([span, bare]),
        np.concatenate([starts, np.full(len(bare), np.nan)]),
        np.concatenate([each, np.full((len(bare), card.columns), np.nan)]),
        np.concatenate([used.astype(int), np.zeros(len(bare), int)]),
        flags + [[] for _ in bare],
    )
    order = np.argsort(every.span, kind="stable")
    return _Units(
        every.span[order], every.start[order], every.logits[order], every.n_windows[order],
        [every.flags[i] for i in order],
    )  # fmt: skip


def _outputs(staging: pa.Table, card: Card) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The span of each window and whether it was used, (windows,) each; logits of the used ones, (used, columns)."""
    windows = staging.column("values").combine_chunks()
    used = windows.flatten().is_valid().to_numpy(zero_copy_only=False)
    logits = windows.flatten().drop_null().flatten().to_numpy().reshape(-1, card.columns).astype(np.float64)
    return pc.list_parent_indices(windows).to_numpy(), used, logits


def _ok(staging: pa.Table) -> np.ndarray:
    return np.array([s == Status.OK for s in staging.column("status").to_pylist()], bool)


def _of_units(staging: pa.Table, units: _Units) -> dict[str, pa.Array]:
    """Columns that belong to the span or window, before they are repeated for each indicator."""
    start = pa.array(units.start, pa.float32(), from_pandas=True)
    into = pa.array(np.nan_to_num(units.start * 1e6).astype("timedelta64[us]"))
    return {
        "ecg_time": pc.add(staging.column("start_time").take(pa.array(units.span)).combine_chunks(), into),
        "window_start": start,
        "n_windows": pa.array(units.n_windows, pa.int32()),
        "quality_flags": pa.array(units.flags, pa.list_(pa.string())),
    }


def _card_column(card: Card, field: str) -> pa.Array:
    return pa.array([getattr(i, field) for i in card.indicators], pa.string())


def _numbers(logits: np.ndarray, card: Card) -> dict[str, Any]:
    """The columns of `numbers`, each flattened unit by unit."""
    out = {name: v.ravel() for name, v in numbers(logits, card).items()}
    abnormal = out.pop("abnormal")
    arrays = {name: pa.array(v, pa.float64(), from_pandas=True) for name, v in out.items()}
    return arrays | {"abnormal": pa.array(abnormal > 0, mask=np.isnan(abnormal))}


def numbers(logits: np.ndarray, card: Card) -> dict[str, np.ndarray]:
    """probability, abnormal, value, lower and upper of (n, columns) logits: (n, indicators) each, NaN for none.

    abnormal: 1, 0, or NaN where the bundle has no threshold.
    """
    decoded = decode(card, logits)
    shape = (len(logits), len(card.indicators))
    out = {name: np.full(shape, np.nan) for name in ("probability", "abnormal", "value", "lower", "upper")}
    first = first_columns(card.indicators)
    for i, indicator in enumerate(card.indicators):
        column = first[i]
        if indicator.direction == "value":
            value, half = decoded[:, column], Z95 * decoded[:, column + 1]
            out["value"][:, i], out["lower"][:, i], out["upper"][:, i] = value, value - half, value + half
            continue
        out["probability"][:, i] = p = decoded[:, column]
        if indicator.threshold is not None:
            out["abnormal"][:, i] = np.where(np.isnan(p), np.nan, p >= indicator.threshold)
    return out
