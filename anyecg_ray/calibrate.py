"""Make probabilities mean what they say, and choose where "abnormal" begins: on validation data, never on test.

A patient's windows are nearly alike, so fits weigh patients, not windows: all windows of one patient weigh as much as
those of another. What class weights and losses do to a network's outputs is mostly a shift, which a slope and an
intercept (Platt) take back, and a temperature alone cannot.
"""

import numpy as np
from scipy.optimize import minimize
from sklearn.isotonic import IsotonicRegression

from anyecg_ray.model import Calibration, calibrated

ENOUGH = 100
"""Positive, and negative, patients from which steps are fitted; fewer bear two numbers, slope and intercept."""

MOST_STEPS = 200

LEAST_SLOPE = 0.01
"""Estimates that rank worse than chance become nearly one and the same; a slope below 0 would turn them round."""


def fit(logits: np.ndarray, positive: np.ndarray, patient: np.ndarray) -> Calibration | None:
    """Calibration of one indicator from validation logits, (n,) float, bool and int; None where a class is missing.

    Isotonic where there are enough patients of both classes, else Platt's.
    """
    if not positive.any() or positive.all():
        return None
    weight = 1 / np.bincount(patient)[patient]
    few = min(len(np.unique(patient[side])) for side in (positive, ~positive)) < ENOUGH
    return _platt(logits, positive, weight) if few else _isotonic(logits, positive, weight)


def _isotonic(logits: np.ndarray, positive: np.ndarray, weight: np.ndarray) -> Calibration:
    p = calibrated(logits, None)
    fitted = IsotonicRegression(y_min=0, y_max=1, out_of_bounds="clip").fit(p, positive.astype(float), weight)
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


def _platt(logits: np.ndarray, positive: np.ndarray, weight: np.ndarray) -> Calibration:
    """Slope and intercept of the logit. Source: Platt 1999, his targets too: classes that part cleanly have no best
    slope, and few patients are no proof of a probability of 0 or 1."""
    z = np.asarray(logits, np.float64)
    ups, downs = weight[positive].sum(), weight[~positive].sum()
    target = np.where(positive, (ups + 1) / (ups + 2), 1 / (downs + 2))
    share = weight / weight.sum()

    def loss(line: np.ndarray) -> tuple[float, np.ndarray]:
        at = line[0] * z + line[1]
        off = share * (calibrated(at, None) - target)
        return float(share @ (np.logaddexp(0, at) - target * at)), np.array([off @ z, off.sum()])

    found = minimize(
        loss, [1.0, 0.0], jac=True, method="L-BFGS-B", bounds=[(LEAST_SLOPE, None), (None, None)],
        options={"ftol": 1e-14, "gtol": 1e-9},
    )  # fmt: skip
    return Calibration(method="platt", slope=float(found.x[0]), intercept=float(found.x[1]))


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
