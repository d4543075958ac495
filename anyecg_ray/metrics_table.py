"""The table of figures: one row per indicator, level and slice, with the numbers of patients behind it.

Levels: `window` takes every 10-second window by itself; `encounter` takes the mean over an encounter's labelled
windows, positive if any of them is. Where a class has too few patients the row has its counts and a note, and no
figure.
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from anyecg_ray import figures, metrics
from anyecg_ray.bootstrap import auroc_draws, interval, mean_draws
from anyecg_ray.machine import cores
from anyecg_ray.model import IndicatorCard
from anyecg_ray.split_scores import Predictions

LEVELS = ("window", "encounter")
RIVALS = ("prevalence", "age_sex", "features", "compare", "first_window")
"""What the bundle is set against. first_window: an encounter judged by its earliest window alone."""

FIGURES = (
    *(f"{name}{end}" for name in ("auroc", *figures.OF_CLASSES, *figures.OF_VALUES) for end in ("", "_low", "_high")),
    *("limit_low", "limit_high"),
)
RIVAL_FIGURES = ("auroc", "auroc_low", "auroc_high", "auprc", "brier", "mae")

METRICS = pa.schema(
    [
        *(pa.field(n, pa.string(), nullable=False) for n in ("indicator", "level", "slice")),
        *(pa.field(n, pa.string()) for n in ("name", "analyte", "direction", "unit")),
        # windows or encounters, whichever the level says; for a value `n` alone
        *(pa.field(n, pa.int64()) for n in ("n", "n_patients", "n_positive", "n_negative")),
        *(pa.field(n, pa.int64()) for n in ("n_patients_positive", "n_patients_negative")),
        pa.field("prevalence", pa.float64()),
        pa.field("threshold", pa.float64()),
        *(pa.field(n, pa.float64()) for n in FIGURES),
        *(pa.field(f"{r}_{f}", pa.float64()) for r in RIVALS for f in RIVAL_FIGURES),
        # the bundle's AUROC less the rival's, of values the rival's MAE less the bundle's: above 0 the bundle is better
        *(pa.field(f"over_{r}{end}", pa.float64()) for r in RIVALS for end in ("", "_low", "_high")),
        pa.field("note", pa.string()),  # why there are no figures
        pa.field("interval_note", pa.string()),  # which intervals of the bundle's figures say less than they seem to
    ]
)


@dataclass(frozen=True)
class Level:
    """One indicator at one level: what is compared, (n,) each."""

    name: str
    y: np.ndarray
    """float64: 1, 0 or the value."""
    estimates: dict[str, np.ndarray]
    """By model; those that have none for this indicator are left out."""
    patient: np.ndarray
    row: np.ndarray
    """A row of the predictions that stands for it: says which slices it is in."""


def rows(
    found: Predictions, slices: Mapping[str, np.ndarray], times: np.ndarray, min_patients: int
) -> list[dict[str, Any]]:
    """Every row of the table. slices: by name, (windows,) bool; times: multiplicities of the patients."""

    def one(k: int) -> list[dict[str, Any]]:
        levels = (window_level(found, k), encounter_level(found, k))
        return [
            row(level, found.indicators[k], name, inside[level.row], times, min_patients)
            for level in levels
            for name, inside in slices.items()
        ]

    with ThreadPoolExecutor(cores()) as pool:
        return [r for part in pool.map(one, range(len(found.indicators))) for r in part]


def window_level(found: Predictions, k: int) -> Level:
    """Every labelled window of indicator `k`."""
    known = np.flatnonzero(np.isfinite(found.labels[:, k]))
    estimates = {name: p[known, k] for name, p in found.estimates.items()}
    return _level("window", found.labels[known, k].astype(np.float64), estimates, found.patient[known], known)


def encounter_level(found: Predictions, k: int) -> Level:
    """Encounters that have a labelled window of indicator `k`: mean estimate, highest label, of values the mean."""
    known = np.flatnonzero(np.isfinite(found.labels[:, k]))
    _, first, group = np.unique(found.encounter[known], return_index=True, return_inverse=True)
    n = np.bincount(group)
    label = found.labels[known, k].astype(np.float64)
    y = np.bincount(group, label) / n
    if found.indicators[k].direction != "value":
        y = (y > 0).astype(np.float64)
    estimates = {name: np.bincount(group, p[known, k]) / n for name, p in found.estimates.items()}
    earliest = np.lexsort((found.time[known], group))[np.r_[0, np.cumsum(n)[:-1]]] if len(n) else first
    estimates["first_window"] = found.estimates["model"][known[earliest], k].astype(np.float64)
    return _level("encounter", y, estimates, found.patient[known[first]], known[first])


def _level(name: str, y: np.ndarray, estimates: dict[str, np.ndarray], patient: np.ndarray, at: np.ndarray) -> Level:
    return Level(name, y, {m: p for m, p in estimates.items() if np.isfinite(p).all()}, patient, at)


def row(
    level: Level, indicator: IndicatorCard, slice_name: str, inside: np.ndarray, times: np.ndarray, min_patients: int
) -> dict[str, Any]:
    """One row of the table: `level` where `inside`, (n,) bool."""
    y, patient = level.y[inside], level.patient[inside]
    estimates = {name: p[inside] for name, p in level.estimates.items()}
    out: dict[str, Any] = {
        "indicator": indicator.key,
        "level": level.name,
        "slice": slice_name,
        **{name: getattr(indicator, name) for name in ("name", "analyte", "direction", "unit")},
        "n": len(y),
        "n_patients": len(np.unique(patient)),
    }
    if indicator.direction == "value":
        return _of_values(out, y, estimates, patient, times, min_patients)
    return _of_classes({**out, "threshold": indicator.threshold}, y > 0.5, estimates, patient, times, min_patients)


def _of_classes(
    out: dict[str, Any],
    positive: np.ndarray,
    estimates: Mapping[str, np.ndarray],
    patient: np.ndarray,
    times: np.ndarray,
    min_patients: int,
) -> dict[str, Any]:
    sides = [len(np.unique(patient[side])) for side in (positive, ~positive)]
    out |= {"n_positive": int(positive.sum()), "n_negative": int((~positive).sum())}
    out |= {"n_patients_positive": sides[0], "n_patients_negative": sides[1]}
    out["prevalence"] = float(positive.mean()) if len(positive) else None
    if min(sides) < min_patients:
        return {**out, "note": _too_few(sides, min_patients)}
    draws = {}
    for name, p in estimates.items():
        draws[name] = auroc_draws(p, positive, patient, times)
        low, high = interval(draws[name])
        told = {"auroc": metrics.auroc(p, positive), "auroc_low": low, "auroc_high": high}
        if name != "model":
            told |= {"auprc": metrics.auprc(p, positive), "brier": metrics.brier(p, positive)}
        out |= _named(name, told)
    out |= figures.of_classes(estimates["model"], positive, out["threshold"], patient, times)
    return out | _differences(out, draws, "auroc", 1.0)


def _of_values(
    out: dict[str, Any],
    measured: np.ndarray,
    estimates: Mapping[str, np.ndarray],
    patient: np.ndarray,
    times: np.ndarray,
    min_patients: int,
) -> dict[str, Any]:
    if out["n_patients"] < 2 * min_patients:
        return {**out, "note": f"{out['n_patients']} patients; figures need {2 * min_patients}"}
    draws = {}
    for name, value in estimates.items():
        off = np.abs(value - measured)
        draws[name] = mean_draws(off, patient, times)
        out |= _named(name, {"mae": float(off.mean())})
    out |= figures.of_values(estimates["model"], measured, patient, times)
    return out | _differences(out, draws, "mae", -1.0)


def _named(name: str, told: Mapping[str, float]) -> dict[str, float]:
    return {(k if name == "model" else f"{name}_{k}"): v for k, v in told.items()}


def _differences(out: Mapping[str, Any], draws: Mapping[str, np.ndarray], figure: str, sign: float) -> dict[str, float]:
    """Paired differences: both models in the same draws of the same patients."""
    found = {}
    for rival in draws.keys() - {"model"}:
        low, high = interval(sign * (draws["model"] - draws[rival]))
        found[f"over_{rival}"] = sign * (out[figure] - out[f"{rival}_{figure}"])
        found |= {f"over_{rival}_low": low, f"over_{rival}_high": high}
    return found


def _too_few(sides: Sequence[int], least: int) -> str:
    told = [f"{n} {what} patients" for n, what in zip(sides, ("positive", "negative"), strict=True) if n < least]
    return f"{' and '.join(told)}; figures need {least}"


MAX_GROUPS = 20
"""Distinct values of a column above which it makes no slices."""


def slices(groups: Mapping[str, np.ndarray], age_bands: Sequence[int]) -> dict[str, np.ndarray]:
    """By name (`all`, `sex=F`, `age=40-64`, `race=…`), which windows are in it: (n,) bool.

    Raises ValueError where a column has more than MAX_GROUPS values.
    """
    n = len(groups["sex"])
    found = {"all": np.ones(n, bool)}
    for column, values in groups.items():
        named = _bands(values, age_bands) if column == "age" else np.array([_text(v) for v in values], object)
        distinct = sorted(set(named) - {""}, key=_in_order)
        if len(distinct) > MAX_GROUPS:
            raise ValueError(f"column {column} has {len(distinct)} values; slices need at most {MAX_GROUPS}")
        found |= {f"{column}={value}": named == value for value in distinct}
        if (named == "").any():
            found[f"{column}=unknown"] = named == ""
    return found


def _bands(age: np.ndarray, edges: Sequence[int]) -> np.ndarray:
    names = [f"<{edges[0]}", *(f"{a}-{b - 1}" for a, b in itertools.pairwise(edges)), f"{edges[-1]}+"]
    known = np.isfinite(age)
    band = np.searchsorted(np.asarray(edges), np.where(known, age, 0), side="right")
    return np.where(known, np.array(names, object)[band], "")


def _in_order(name: str) -> tuple[int, str]:
    return (-1 if name.startswith("<") else 0, name)


def _text(value: Any) -> str:
    return "" if value is None or value != value else str(value)


def table(found: Sequence[Mapping[str, Any]]) -> pa.Table:
    """The rows as a table of schema METRICS; NaN becomes null."""
    return pa.Table.from_pylist([dict(clean(r)) for r in found], METRICS)


def clean(values: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """The items, with None for NaN and plain Python numbers for numpy's."""
    for key, value in values.items():
        plain = value.item() if isinstance(value, np.generic) else value
        yield key, (None if isinstance(plain, float) and plain != plain else plain)
