"""Calibrated probabilities mean what they say, keep the ranking, and need both classes."""

import numpy as np
import pytest

from anyecg_ray import metrics
from anyecg_ray.calibrate import fit, threshold
from anyecg_ray.model import calibrated


def overconfident(n, seed=0):
    """Logits twice as large as they should be, and what came out."""
    rng = np.random.default_rng(seed)
    true = rng.normal(-1, 1.5, n)
    return 2.5 * true, rng.random(n) < 1 / (1 + np.exp(-true))


@pytest.mark.parametrize(("n", "method"), [(250, "temperature"), (6000, "isotonic")])
def test_it_mends_overconfidence_on_new_data(n, method):
    calibration = fit(*overconfident(n))
    assert calibration.method == method
    logits, positive = overconfident(20_000, seed=1)
    before = metrics.calibration_error(calibrated(logits, None), positive)
    after = metrics.calibration_error(calibrated(logits, calibration), positive)
    assert after < 0.5 * before
    assert metrics.brier(calibrated(logits, calibration), positive) < metrics.brier(calibrated(logits, None), positive)


def test_isotonic_keeps_the_ranking():
    calibration = fit(*overconfident(3000))
    logits = np.linspace(-20, 20, 500)
    p = calibrated(logits, calibration)
    assert (np.diff(p) >= 0).all()
    assert (np.diff(p[np.abs(logits) < 8]) > 0).all()
    assert p.min() >= 0
    assert p.max() <= 1


@pytest.mark.parametrize("positive", [np.zeros(10, bool), np.ones(10, bool)])
def test_one_class_alone_fits_nothing(positive):
    logits = np.linspace(-1, 1, 10)
    assert fit(logits, positive) is None
    assert threshold(calibrated(logits, None), positive) is None


def test_threshold_is_where_sensitivity_and_specificity_are_highest():
    p = np.array([0.1, 0.2, 0.3, 0.4, 0.6, 0.7])
    y = np.array([False, False, False, True, True, True])
    assert 0.3 < threshold(p, y) < 0.4
    tied = np.array([0.1, 0.5, 0.5, 0.9])
    told = threshold(tied, np.array([False, False, True, True]))
    assert told is not None
    assert told not in tied
