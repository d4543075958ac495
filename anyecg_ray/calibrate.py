"""Make probabilities mean what they say, and choose where "abnormal" begins: on validation data, never on test."""

import numpy as np
from scipy.optimize import minimize_scalar
from sklearn.isotonic import IsotonicRegression

from anyecg_ray.model import Calibration, calibrated

ENOUGH = 100
"""Positive, and negative, windows from which steps are fitted; fewer bear one number, the temperature."""

MOST_STEPS = 200


def fit(logits: np.ndarray, positive: np.ndarray) -> Calibration | None:
    """Calibration of one indicator from validation logits, (n,) float and (n,) bool; None where a class is missing.

    Isotonic where there is enough of both classes, else a temperature.
    """
    n_positive = int(positive.sum())
    n_negative = len(positive) - n_positive
    if not n_positive or not n_negative:
        return None
    return _isotonic(logits, positive) if min(n_positive, n_negative) >= ENOUGH else _temperature(logits, positive)


def _isotonic(logits: np.ndarray, positive: np.ndarray) -> Calibration:
    p = calibrated(logits, None)
    fitted = IsotonicRegression(y_min=0, y_max=1, out_of_bounds="clip").fit(p, positive.astype(float))
    x, y = fitted.X_thresholds_, fitted.y_thresholds_
    if len(x) > MOST_STEPS:
        keep = np.unique(np.linspace(0, len(x) - 1, MOST_STEPS).round().astype(int))
        x, y = x[keep], y[keep]
    # a tiny slope on every step keeps the ranking that the network made, which steps would turn into ties
    y = np.clip(0.999 * y + 0.001 * x, 0, 1)
    return Calibration(
        method="isotonic",
        x=[0.0, *x.tolist(), 1.0],
        y=[float(y[0] * 0.999), *y.tolist(), float(max(y[-1], 0.999 * y[-1] + 0.001))],
    )


def _temperature(logits: np.ndarray, positive: np.ndarray) -> Calibration:
    sign = np.where(positive, 1.0, -1.0)

    def loss(log_t: float) -> float:
        return float(np.logaddexp(0, -sign * logits / np.exp(log_t)).mean())

    return Calibration(
        method="temperature", temperature=float(np.exp(minimize_scalar(loss, bounds=(-3, 3), method="bounded").x))
    )


def threshold(probability: np.ndarray, positive: np.ndarray) -> float | None:
    """The probability at which sensitivity plus specificity is highest (Youden); None where a class is missing."""
    if not positive.any() or positive.all():
        return None
    order = np.argsort(-probability, kind="stable")
    p, y = probability[order], positive[order]
    gain = np.cumsum(y) / y.sum() - np.cumsum(~y) / (~y).sum()
    last = np.append(np.diff(p) != 0, True)  # a threshold takes all that are equal
    best = np.flatnonzero(last)[gain[last].argmax()]
    below = p[best + 1] if best + 1 < len(p) else 0.0
    return float((p[best] + below) / 2)
