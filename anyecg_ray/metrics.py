"""How good estimates are, in numbers: ranking, decisions at a threshold, calibration, errors of values.

Plain functions of arrays; what cannot be told (no positives, nothing above the threshold) is NaN, never 0. None of
them fits anything: thresholds and calibration come from the bundle's card. Intervals are made in bootstrap.py.
"""

from typing import NamedTuple

import numpy as np
from scipy.stats import rankdata

from anyecg_ray.model import Z95

CALIBRATION_BINS = 10
CURVE_POINTS = 80
"""Corners of a drawn curve; more could not be seen."""


class Decisions(NamedTuple):
    """What a threshold makes of the estimates."""

    sensitivity: float
    specificity: float
    ppv: float
    npv: float


class Errors(NamedTuple):
    """How far estimated values lie from measured ones, in the analyte's unit."""

    mae: float
    rmse: float
    pearson: float
    r2: float
    bias: float
    """Mean of estimate minus measurement."""
    limit_low: float
    limit_high: float
    """Bland–Altman: 95% of the differences lie between them if they are normally distributed."""


def auroc(score: np.ndarray, positive: np.ndarray) -> float:
    """Probability that a positive scores above a negative, ties counting half.

    score: (n,) float; positive: (n,) bool. NaN unless both classes are there.
    """
    n_positive = int(positive.sum())
    n_negative = len(positive) - n_positive
    if not n_positive or not n_negative:
        return np.nan
    ranks = rankdata(score)[positive].sum()  # mid-ranks
    return float((ranks - n_positive * (n_positive + 1) / 2) / (n_positive * n_negative))


def auprc(score: np.ndarray, positive: np.ndarray) -> float:
    """Average precision: the area under precision against recall, in steps (no optimistic straight lines)."""
    if not positive.any():
        return np.nan
    true, false = _counts_above(score, positive)
    gained = np.diff(true, prepend=0) / true[-1]
    return float((gained * true / (true + false)).sum())


def brier(probability: np.ndarray, positive: np.ndarray) -> float:
    """Mean squared distance between probability and outcome: 0 is perfect, a fair coin's is 0.25."""
    return float(np.square(probability - positive, dtype=np.float64).mean()) if len(positive) else np.nan


def calibration_bins(probability: np.ndarray, positive: np.ndarray) -> np.ndarray:
    """Predicted against observed: (bins, 3) float, mean probability, fraction positive, number of estimates.

    The bins hold about equal numbers; equal probabilities stay together, so there may be fewer than ten of them.
    """
    if not len(positive):
        return np.empty((0, 3))
    p, bin_of = np.asarray(probability, np.float64), calibration_bin(probability)
    n = np.bincount(bin_of)
    used = n > 0
    total = np.bincount(bin_of, p), np.bincount(bin_of, positive)
    return np.column_stack([t[used] / n[used] for t in total] + [n[used]])


def calibration_bin(probability: np.ndarray) -> np.ndarray:
    """The bin of `calibration_bins` that each estimate is in, (n,) int from 0."""
    p = np.asarray(probability, np.float64)
    edges = np.unique(np.quantile(p, np.linspace(0, 1, CALIBRATION_BINS + 1)[1:-1]))
    return np.searchsorted(edges, p, side="right")


def calibration_error(probability: np.ndarray, positive: np.ndarray) -> float:
    """Expected calibration error: mean distance between predicted and observed over `calibration_bins`."""
    bins = calibration_bins(probability, positive)
    return float(np.average(np.abs(bins[:, 0] - bins[:, 1]), weights=bins[:, 2])) if len(bins) else np.nan


def decisions(probability: np.ndarray, positive: np.ndarray, threshold: float | None) -> Decisions:
    """Sensitivity, specificity and predictive values where `probability >= threshold` means abnormal."""
    if threshold is None:
        return Decisions(np.nan, np.nan, np.nan, np.nan)
    flagged = is_flagged(probability, threshold)
    hit, false_alarm = int((flagged & positive).sum()), int((flagged & ~positive).sum())
    missed, spared = int((~flagged & positive).sum()), int((~flagged & ~positive).sum())
    return Decisions(
        _ratio(hit, hit + missed),
        _ratio(spared, spared + false_alarm),
        _ratio(hit, hit + false_alarm),
        _ratio(spared, spared + missed),
    )


def is_flagged(probability: np.ndarray, threshold: float) -> np.ndarray:
    """Whether the probability means abnormal, (n,) bool."""
    return np.asarray(probability >= np.float32(threshold))  # estimates are float32, and the card's number is not


def errors(estimate: np.ndarray, measured: np.ndarray) -> Errors:
    """Errors of values: (n,) each, finite, in one unit. R² is against the mean of `measured`."""
    estimate, measured = np.asarray(estimate, np.float64), np.asarray(measured, np.float64)
    if len(measured) < 2:
        return Errors(*[np.nan] * 7)
    off = estimate - measured
    spread = np.square(measured - measured.mean()).sum()
    half = Z95 * off.std(ddof=1)
    return Errors(
        mae=float(np.abs(off).mean()),
        rmse=float(np.sqrt(np.square(off).mean())),
        pearson=_pearson(estimate, measured),
        r2=float(1 - np.square(off).sum() / spread) if spread > 0 else np.nan,
        bias=float(off.mean()),
        limit_low=float(off.mean() - half),
        limit_high=float(off.mean() + half),
    )


def roc_points(score: np.ndarray, positive: np.ndarray) -> np.ndarray:
    """Corners of the ROC curve, thinned: (points, 2) float, 1 − specificity and sensitivity, from (0, 0) to (1, 1)."""
    true, false = _counts_above(score, positive)
    curve = np.column_stack([np.r_[0, false] / max(false[-1], 1), np.r_[0, true] / max(true[-1], 1)])
    if len(curve) <= CURVE_POINTS:
        return curve
    # evenly along the curve's length, so that steep and flat parts keep their shape
    length = np.abs(np.diff(curve, axis=0)).sum(axis=1).cumsum()
    keep = np.searchsorted(np.r_[0, length], np.linspace(0, length[-1], CURVE_POINTS))
    return np.asarray(curve[np.unique(np.minimum(keep, len(curve) - 1))])


def _counts_above(score: np.ndarray, positive: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Positives and negatives at or above each distinct score, highest score first."""
    order = np.argsort(-score, kind="stable")
    last_of_tie = np.flatnonzero(np.diff(score[order], append=np.nan) != 0)
    true = np.cumsum(positive[order])[last_of_tie]
    return true, 1 + last_of_tie - true


def _pearson(a: np.ndarray, b: np.ndarray) -> float:
    a, b = a - a.mean(), b - b.mean()
    scale = np.sqrt(np.square(a).sum() * np.square(b).sum())
    return float((a * b).sum() / scale) if scale > 0 else np.nan


def _ratio(part: int, whole: int) -> float:
    return part / whole if whole else np.nan
