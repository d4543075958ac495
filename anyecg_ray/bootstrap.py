"""Intervals that know that one patient's windows resemble each other: patients are drawn, not windows.

A draw gives every patient a multiplicity, 0, 1, 2 …; a patient's windows and encounters all come as often. The
same draws serve every indicator, slice, level and model, so differences between models are paired for free.

AUROC of all draws at once: sorting is done once, and only boundaries between runs of positives and runs of
negatives matter. The counts of each run by patient are a sparse matrix; times the multiplicities it gives the
weight of each run in each draw, and a cumulative sum over runs gives the negatives below each positive.
"""

from collections.abc import Callable, Iterable

import numpy as np
from scipy.sparse import csr_matrix

CHUNK = 1 << 22
"""Numbers in one block of runs × draws: bounds memory to some 100 MB, whatever the number of windows."""

MIN_DRAWS = 0.9
"""Share of the draws that must give a figure; a draw without any positive has none."""


def multiplicities(patients: int, draws: int, seed: int) -> np.ndarray:
    """How often each draw holds each patient: (patients, draws) uint8, every column sums to `patients`."""
    rng = np.random.default_rng(seed)
    out = np.zeros((patients, draws), np.uint8)
    for draw in range(draws if patients else 0):
        # no count comes near 255: more than 20 has a probability below 1e-18
        out[:, draw] = np.bincount(rng.integers(patients, size=patients), minlength=patients)
    return out


def auroc_draws(score: np.ndarray, positive: np.ndarray, patient: np.ndarray, times: np.ndarray) -> np.ndarray:
    """AUROC in each draw, ties counting half.

    score (n,) float; positive (n,) bool; patient (n,) int, a row of `times` (patients, draws).
    Returns (draws,) float64, NaN for a draw that lacks one of the classes.
    """
    return _drawn(_auroc, runs(score, positive), positive, patient, times)


def runs(score: np.ndarray, positive: np.ndarray) -> np.ndarray:
    """The run that each estimate lies in, (n,) int, numbered by rising score.

    A run is what one can count together: neighbours of one class, or one score that both classes share.
    """
    order, tie = _ranked(score)
    n = np.bincount(tie)
    ups = np.bincount(tie, positive[order])
    kind = np.where(ups == 0, 0, np.where(ups == n, 1, 2))
    starts = (np.diff(kind, prepend=kind[:1]) != 0) | (kind == 2)
    out = np.empty(len(score), np.int64)
    out[order] = np.cumsum(starts)[tie]
    return out


def _ranked(score: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The order of rising scores, and the place of each score among the distinct ones, in that order: (n,) int each."""
    order = np.argsort(score, kind="stable")
    return order, np.cumsum(np.diff(score[order], prepend=score[order[:1]]) != 0)


def auprc_draws(score: np.ndarray, positive: np.ndarray, patient: np.ndarray, times: np.ndarray) -> np.ndarray:
    """Average precision in each draw, as `metrics.auprc` and `auroc_draws`: (draws,) float64, NaN without positives."""
    return _drawn(_auprc, _steps(score, positive), positive, patient, times)


def _steps(score: np.ndarray, positive: np.ndarray) -> np.ndarray:
    """The step of recall that each estimate counts for, (n,) int, from the highest score down: negatives alone make
    none, and count for the next one."""
    order, tie = _ranked(-score)
    gains = np.bincount(tie, positive[order]) > 0
    out = np.empty(len(score), np.int64)
    out[order] = (np.cumsum(gains) - gains)[tie]
    return out


def total_draws(columns: Iterable[np.ndarray], patient: np.ndarray, times: np.ndarray) -> np.ndarray:
    """Sum of each column, (n,) of numbers or bool, in each draw: (columns, draws) float64."""
    rows, column = np.unique(patient, return_inverse=True)
    sums = np.stack([np.bincount(column, values, minlength=len(rows)) for values in columns])
    step = max(1, CHUNK // max(1, len(rows)))
    parts = [sums @ times[rows, i : i + step].astype(np.float64) for i in range(0, times.shape[1], step)]
    return np.concatenate(parts, axis=1)


def ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """part / whole, NaN where the whole is nothing."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(whole != 0, part / whole, np.nan)


def mean_draws(value: np.ndarray, patient: np.ndarray, times: np.ndarray) -> np.ndarray:
    """Mean of `value` (n,) in each draw: (draws,) float64, NaN where a draw has none of the patients."""
    total, count = total_draws([value, np.ones(len(value))], patient, times)
    return ratio(total, count)


def interval(draws: np.ndarray) -> tuple[float, float]:
    """95% percentile interval; NaN where too many draws have no figure."""
    told = draws[np.isfinite(draws)]
    if len(told) < max(1, MIN_DRAWS * len(draws)):
        return np.nan, np.nan
    low, high = np.quantile(told, [0.025, 0.975])
    return float(low), float(high)


def _drawn(
    figure: Callable[[csr_matrix, csr_matrix, np.ndarray], np.ndarray],
    run: np.ndarray, positive: np.ndarray, patient: np.ndarray, times: np.ndarray,
) -> np.ndarray:  # fmt: skip
    """A figure of the positives and negatives in each run, (n,) int each, in each draw: (draws,)."""
    if not len(run):
        return np.full(times.shape[1], np.nan)
    rows, column = np.unique(patient, return_inverse=True)
    ups, downs = (_by_patient(run, column, among, len(rows)) for among in (positive, ~positive))
    step = max(1, CHUNK // (ups.shape[0] + len(rows)))
    return np.concatenate([figure(ups, downs, times[rows, i : i + step]) for i in range(0, times.shape[1], step)])


def _by_patient(run: np.ndarray, column: np.ndarray, among: np.ndarray, patients: int) -> csr_matrix:
    ones = np.ones(int(among.sum()), np.float32)
    # float32 counts exactly to 16 million, more than a run of one draw can hold
    return csr_matrix((ones, (run[among], column[among])), shape=(int(run.max()) + 1, patients))


def _auroc(ups: csr_matrix, downs: csr_matrix, times: np.ndarray) -> np.ndarray:
    weights = times.astype(np.float32)
    up, down = ups @ weights, downs @ weights
    below = np.cumsum(down.astype(np.float64), axis=0)
    n_negative = below[-1].copy()
    below -= 0.5 * down
    above = np.einsum("rd,rd->d", up, below)
    with np.errstate(invalid="ignore"):
        return np.asarray(above / (up.sum(axis=0, dtype=np.float64) * n_negative))


def _auprc(ups: csr_matrix, downs: csr_matrix, times: np.ndarray) -> np.ndarray:
    weights = times.astype(np.float32)
    up, down = (ups @ weights).astype(np.float64), (downs @ weights).astype(np.float64)
    true = np.cumsum(up, axis=0)
    found = true + np.cumsum(down, axis=0)
    np.divide(true, found, out=true, where=found > 0)  # the precision at each step
    return ratio(np.einsum("rd,rd->d", up, true), up.sum(axis=0))
