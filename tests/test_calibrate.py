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


def each(n):
    """Windows of as many patients."""
    return np.arange(n)


@pytest.mark.parametrize(("n", "method"), [(250, "platt"), (6000, "isotonic")])
def test_it_mends_overconfidence_on_new_data(n, method):
    calibration = fit(*overconfident(n), each(n))
    assert calibration.method == method
    logits, positive = overconfident(20_000, seed=1)
    before = metrics.calibration_error(calibrated(logits, None), positive)
    after = metrics.calibration_error(calibrated(logits, calibration), positive)
    assert after < 0.5 * before
    assert metrics.brier(calibrated(logits, calibration), positive) < metrics.brier(calibrated(logits, None), positive)


def test_isotonic_keeps_the_ranking():
    calibration = fit(*overconfident(3000), each(3000))
    logits = np.linspace(-20, 20, 500)
    p = calibrated(logits, calibration)
    assert (np.diff(p) >= 0).all()
    assert (np.diff(p[np.abs(logits) < 8]) > 0).all()
    assert p.min() >= 0
    assert p.max() <= 1


@pytest.mark.parametrize("weight", [1, 5, 20])
def test_what_class_weights_shift_comes_back(weight):
    """A network whose positives weigh w times as much gives the logit plus log w: no temperature takes that back."""
    rng = np.random.default_rng(1)
    true = rng.normal(-3.5, 1.5, 21_200)
    positive = rng.random(len(true)) < 1 / (1 + np.exp(-true))
    logits = true + np.log(weight)
    calibration = fit(logits[:1200], positive[:1200], each(1200))
    p, y = calibrated(logits[1200:], calibration), positive[1200:]
    assert metrics.brier(p, y) < 1.03 * metrics.brier(calibrated(true[1200:], None), y)
    assert p.mean() == pytest.approx(y.mean(), abs=0.015)


@pytest.mark.parametrize("n", [250, 3000])
def test_patients_count_and_not_their_windows(n):
    logits, positive = overconfident(n)
    times = np.random.default_rng(2).integers(1, 30, n)
    once, often = fit(logits, positive, each(n)), fit(*(np.repeat(v, times) for v in (logits, positive, each(n))))
    assert once.method == often.method
    at = np.linspace(-6, 6, 50)
    np.testing.assert_allclose(calibrated(at, often), calibrated(at, once), atol=1e-4)


def test_many_windows_of_few_patients_bear_two_numbers():
    logits, positive = (np.repeat(v, 60) for v in overconfident(40))
    assert min(positive.sum(), (~positive).sum()) > 100
    assert fit(logits, positive, np.repeat(each(40), 60)).method == "platt"


def test_classes_that_part_cleanly_have_a_slope_and_worse_than_chance_is_not_turned_round():
    logits = np.linspace(-1, 1, 20)
    assert 1 < fit(logits, logits > 0, each(20)).slope < 100
    turned = calibrated(logits, fit(logits, logits < 0, each(20)))
    assert (np.diff(turned) > 0).all()
    assert turned == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize("positive", [np.zeros(10, bool), np.ones(10, bool)])
def test_one_class_alone_fits_nothing(positive):
    logits = np.linspace(-1, 1, 10)
    assert fit(logits, positive, each(10)) is None
    assert threshold(calibrated(logits, None), positive) is None


def test_threshold_is_where_sensitivity_and_specificity_are_highest():
    p = np.array([0.1, 0.2, 0.3, 0.4, 0.6, 0.7])
    y = np.array([False, False, False, True, True, True])
    assert 0.3 < threshold(p, y) < 0.4
    tied = np.array([0.1, 0.5, 0.5, 0.9])
    told = threshold(tied, np.array([False, False, True, True]))
    assert told is not None
    assert told not in tied
