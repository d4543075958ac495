"""Every figure against scikit-learn or a closed form, on arrays with and without ties."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.special import ndtr
from sklearn import metrics as sk

from anyecg_ray import metrics


@st.composite
def scored(draw, ties=True):
    n = draw(st.integers(2, 60))
    levels = st.integers(0, 8).map(lambda i: i / 8) if ties else st.floats(0, 1, width=32)
    score = draw(arrays(np.float32, n, elements=levels))
    positive = draw(arrays(bool, n))
    positive[0], positive[-1] = True, False
    return score, positive


@given(scored() | scored(ties=False))
@settings(deadline=None, max_examples=200)
def test_ranking_agrees_with_scikit_learn(case):
    score, positive = case
    assert metrics.auroc(score, positive) == pytest.approx(sk.roc_auc_score(positive, score), abs=1e-9)
    assert metrics.auprc(score, positive) == pytest.approx(sk.average_precision_score(positive, score), abs=1e-9)
    assert metrics.brier(score, positive) == pytest.approx(np.mean((score - positive) ** 2), abs=1e-6)


@given(scored())
@settings(deadline=None)
def test_auroc_is_of_ranks_alone_and_mirrors(case):
    score, positive = case
    value = metrics.auroc(score, positive)
    assert metrics.auroc(np.exp(3 * score), positive) == pytest.approx(value)
    assert metrics.auroc(-score, positive) == pytest.approx(1 - value)
    assert metrics.auroc(score, ~positive) == pytest.approx(1 - value)


def test_auroc_of_two_normals_is_the_closed_form():
    rng = np.random.default_rng(0)
    positive = np.arange(200_000) % 4 == 0
    score = rng.standard_normal(200_000) + 1.0 * positive
    assert metrics.auroc(score, positive) == pytest.approx(ndtr(1 / np.sqrt(2)), abs=0.005)


def test_one_class_alone_has_no_figure():
    score = np.array([0.1, 0.2], np.float32)
    none, every = np.zeros(2, bool), np.ones(2, bool)
    assert np.isnan(metrics.auroc(score, none))
    assert np.isnan(metrics.auroc(score, every))
    assert np.isnan(metrics.auprc(score, none))
    assert metrics.auprc(score, every) == 1
    assert np.isnan(metrics.decisions(score, none, 0.5).sensitivity)
    assert np.isnan(metrics.brier(score[:0], none[:0]))


@given(scored(), st.integers(0, 8))
@settings(deadline=None)
def test_decisions_agree_with_the_confusion_matrix(case, eighths):
    score, positive = case
    found = metrics.decisions(score, positive, eighths / 8)
    (tn, fp), (fn, tp) = sk.confusion_matrix(positive, score >= eighths / 8, labels=[False, True])
    expected = [(tp, tp + fn), (tn, tn + fp), (tp, tp + fp), (tn, tn + fn)]
    np.testing.assert_allclose(found, [a / b if b else np.nan for a, b in expected])


def test_a_probability_that_equals_the_threshold_is_flagged():
    # float32 estimates against the card's float64: 0.1 is not the same number in both
    found = metrics.decisions(np.float32([0.1]), np.array([True]), 0.1)
    assert found.sensitivity == 1


def test_no_threshold_no_decisions():
    assert np.isnan(metrics.decisions(np.ones(3), np.ones(3, bool), None)).all()


def test_calibration_error_of_a_calibrated_and_a_shifted_estimate():
    rng = np.random.default_rng(1)
    p = rng.uniform(0.1, 0.7, 100_000)
    positive = rng.random(100_000) < p
    assert metrics.calibration_error(p, positive) < 0.01
    assert metrics.calibration_error(p + 0.2, positive) == pytest.approx(0.2, abs=0.01)


@given(scored())
@settings(deadline=None)
def test_calibration_bins_hold_everything_once(case):
    score, positive = case
    bins = metrics.calibration_bins(score, positive)
    assert bins[:, 2].sum() == len(score)
    assert bins[:, 0] @ bins[:, 2] == pytest.approx(score.sum(), abs=1e-3)
    assert bins[:, 1] @ bins[:, 2] == pytest.approx(positive.sum())
    assert (np.diff(bins[:, 0]) > 0).all()


def test_errors_agree_with_scikit_learn():
    rng = np.random.default_rng(2)
    measured = rng.normal(4.2, 0.5, 500)
    estimate = (measured + rng.normal(0.1, 0.3, 500)).astype(np.float32)
    found = metrics.errors(estimate, measured)
    assert found.mae == pytest.approx(sk.mean_absolute_error(measured, estimate))
    assert found.rmse == pytest.approx(sk.root_mean_squared_error(measured, estimate))
    assert found.r2 == pytest.approx(sk.r2_score(measured, estimate))
    assert found.pearson == pytest.approx(np.corrcoef(measured, estimate)[0, 1])
    assert found.bias == pytest.approx(0.1, abs=0.05)
    assert found.limit_high - found.limit_low == pytest.approx(2 * 1.96 * 0.3, rel=0.1)


def test_errors_where_nothing_varies_or_little_is_there():
    assert np.isnan(metrics.errors(np.ones(1), np.ones(1))).all()
    flat = metrics.errors(np.ones(5), np.arange(5.0))
    assert np.isnan(flat.pearson)
    assert np.isnan(metrics.errors(np.arange(5.0), np.ones(5)).r2)


@given(scored())
@settings(deadline=None)
def test_the_roc_curve_encloses_the_auroc(case):
    score, positive = case
    curve = metrics.roc_points(score, positive)
    assert curve[0].tolist() == [0, 0]
    assert curve[-1].tolist() == [1, 1]
    assert np.trapezoid(curve[:, 1], curve[:, 0]) == pytest.approx(metrics.auroc(score, positive))


def test_a_thinned_roc_curve_keeps_its_shape():
    rng = np.random.default_rng(3)
    positive = rng.random(20_000) < 0.1
    score = rng.standard_normal(20_000) + positive
    curve = metrics.roc_points(score, positive)
    assert len(curve) <= metrics.CURVE_POINTS
    assert (np.diff(curve, axis=0) >= 0).all()
    assert np.trapezoid(curve[:, 1], curve[:, 0]) == pytest.approx(metrics.auroc(score, positive), abs=0.01)
