"""A model's figures with their intervals, all from the same draws of patients.

Of most of them a draw's figure is a ratio of sums: one product of sums by patient with the draws gives them all.
"""

from collections.abc import Iterator, Mapping

import numpy as np

from anyecg_ray import metrics
from anyecg_ray.bootstrap import auprc_draws, interval, ratio, total_draws

OF_CLASSES = ("auprc", "sensitivity", "specificity", "ppv", "npv", "brier", "calibration_error")
OF_VALUES = ("mae", "rmse", "pearson", "r2", "bias")


def of_classes(
    p: np.ndarray, positive: np.ndarray, threshold: float | None, patient: np.ndarray, times: np.ndarray
) -> dict[str, float | str | None]:
    """OF_CLASSES, each with its interval, of probabilities (n,) and outcomes (n,) bool; see `with_intervals`.

    The bins of the calibration error are those of all estimates, in every draw.
    """
    told = {
        "auprc": metrics.auprc(p, positive),
        **metrics.decisions(p, positive, threshold)._asdict(),
        "brier": metrics.brier(p, positive),
        "calibration_error": metrics.calibration_error(p, positive),
    }
    off = np.asarray(p, np.float64) - positive
    bin_of = metrics.calibration_bin(p)
    flagged = metrics.is_flagged(p, np.nan if threshold is None else threshold)

    def columns() -> Iterator[np.ndarray]:
        yield from (positive, ~positive, flagged, ~flagged, flagged & positive, ~flagged & ~positive, np.square(off))
        yield from (np.where(bin_of == b, off, 0.0) for b in range(int(bin_of.max()) + 1))

    up, down, above, below, hit, spared, squared, *bins = total_draws(columns(), patient, times)
    draws = {"auprc": auprc_draws(p, positive, patient, times), "brier": ratio(squared, up + down)}
    draws["calibration_error"] = ratio(np.abs(bins).sum(axis=0), up + down)
    if threshold is not None:
        draws |= {"sensitivity": ratio(hit, up), "specificity": ratio(spared, down)}
        draws |= {"ppv": ratio(hit, above), "npv": ratio(spared, below)}
    return with_intervals(told, draws)


def of_values(
    estimate: np.ndarray, measured: np.ndarray, patient: np.ndarray, times: np.ndarray
) -> dict[str, float | str | None]:
    """`metrics.errors`, OF_VALUES with their intervals; see `with_intervals`."""
    told = metrics.errors(estimate, measured)._asdict()
    y = np.asarray(measured, np.float64) - np.mean(measured)  # or sums of squares would lose the differences
    off = np.asarray(estimate, np.float64) - measured
    columns = (np.ones(len(y)), off, np.abs(off), np.square(off), y, np.square(y), off * y)
    n, bias, distance, squared, level, square, product = total_draws(columns, patient, times)
    distance, bias, squared, level, square, product = (
        ratio(s, n) for s in (distance, bias, squared, level, square, product)
    )
    spread = square - level**2
    spread[spread < 1e-9 * np.square(y).mean()] = np.nan  # a draw of equal measurements, and what rounding left
    both = spread + product - bias * level  # covariance of estimate (measured + off) and measured
    of_estimate = spread + 2 * (product - bias * level) + squared - bias**2
    draws = {
        "mae": distance,
        "rmse": np.sqrt(squared),
        "bias": bias,
        "r2": 1 - ratio(squared, spread),
        "pearson": ratio(both, np.sqrt(np.maximum(spread * of_estimate, 0))),
    }
    return with_intervals(told, draws)


def with_intervals(told: Mapping[str, float], draws: Mapping[str, np.ndarray]) -> dict[str, float | str | None]:
    """The figures, of each that was drawn `…_low` and `…_high`, and `interval_note`: which intervals say less than they
    seem to, because every draw gave the same, or because many gave none."""
    out: dict[str, float | str | None] = dict(told)
    notes = []
    for name, drawn in draws.items():
        if told[name] != told[name]:
            continue
        out[f"{name}_low"], out[f"{name}_high"] = low, high = interval(drawn)
        missing = int(np.isnan(drawn).sum())
        if low == high:
            notes.append(f"{name.replace('_', ' ')}: the same in nearly every draw")
        elif missing:
            notes.append(f"{name.replace('_', ' ')}: none in {missing:,} of {len(drawn):,} draws")
    return out | {"interval_note": "; ".join(notes) or None}
