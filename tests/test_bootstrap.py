"""The clustered bootstrap: each draw against scikit-learn's weighted AUROC, the intervals against what they promise."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.metrics import average_precision_score, roc_auc_score

from anyecg_ray import bootstrap


@st.composite
def clustered(draw):
    n, patients = draw(st.integers(1, 50)), draw(st.integers(1, 12))
    score = draw(arrays(np.float32, n, elements=st.integers(0, 6).map(lambda i: i / 6)))
    positive = draw(arrays(bool, n))
    patient = draw(arrays(np.int64, n, elements=st.integers(0, patients - 1)))
    return score, positive, patient, patients


@given(clustered(), st.integers(0, 5))
@settings(deadline=None, max_examples=150)
def test_each_draw_is_the_weighted_auroc(case, seed):
    score, positive, patient, patients = case
    times = bootstrap.multiplicities(patients, 5, seed)
    found = bootstrap.auroc_draws(score, positive, patient, times)
    for draw in range(5):
        weight = times[patient, draw]
        if len(np.unique(positive[weight > 0])) < 2:
            assert np.isnan(found[draw])
        else:
            assert found[draw] == pytest.approx(roc_auc_score(positive, score, sample_weight=weight), abs=1e-9)


@given(clustered(), st.integers(0, 5))
@settings(deadline=None, max_examples=150)
def test_each_draw_is_the_weighted_average_precision(case, seed):
    score, positive, patient, patients = case
    times = bootstrap.multiplicities(patients, 5, seed)
    found = bootstrap.auprc_draws(score, positive, patient, times)
    for draw in range(5):
        weight = times[patient, draw]
        if not weight[positive].any():
            assert np.isnan(found[draw])
        else:
            expected = average_precision_score(positive, score, sample_weight=weight)
            assert found[draw] == pytest.approx(expected, abs=1e-9)


@given(clustered())
@settings(deadline=None)
def test_every_draw_holds_as_many_patients_as_there_are(case):
    times = bootstrap.multiplicities(case[3], 20, 0)
    assert (times.sum(axis=0) == case[3]).all()


@given(clustered())
@settings(deadline=None)
def test_a_run_is_of_one_class_or_of_one_score(case):
    score, positive, _, _ = case
    run = bootstrap.runs(score, positive)
    for r in np.unique(run):
        inside = run == r
        assert len(np.unique(positive[inside])) == 1 or len(np.unique(score[inside])) == 1
    order = np.argsort(score, kind="stable")
    assert (np.diff(run[order]) >= 0).all()
    assert all(len(np.unique(run[score == s])) == 1 for s in np.unique(score))


def test_chunks_do_not_change_the_draws(monkeypatch):
    rng = np.random.default_rng(0)
    score, positive, patient = rng.random(500), rng.random(500) < 0.3, rng.integers(40, size=500)
    times = bootstrap.multiplicities(40, 33, 0)
    whole = bootstrap.auroc_draws(score, positive, patient, times)
    precision, totals = (f(score, positive, patient, times) for f in (bootstrap.auprc_draws, _totals))
    monkeypatch.setattr(bootstrap, "CHUNK", 1)
    np.testing.assert_array_equal(bootstrap.auroc_draws(score, positive, patient, times), whole)
    np.testing.assert_allclose(bootstrap.auprc_draws(score, positive, patient, times), precision)
    np.testing.assert_allclose(_totals(score, positive, patient, times), totals)


def _totals(score, positive, patient, times):
    return bootstrap.total_draws([score, positive], patient, times)


def test_means_are_weighted_and_empty_draws_have_none():
    times = np.array([[2, 0], [1, 0], [0, 3]], np.uint8)
    found = bootstrap.mean_draws(np.array([1.0, 3.0, 4.0]), np.array([0, 0, 1]), times)
    np.testing.assert_allclose(found, [(2 * 4 + 4) / 5, np.nan])


def test_intervals_need_most_of_the_draws():
    draws = np.r_[np.linspace(0, 1, 95), [np.nan] * 5]
    low, high = bootstrap.interval(draws)
    assert low == pytest.approx(0.025)
    assert high == pytest.approx(0.975)
    assert np.isnan(bootstrap.interval(np.r_[0.5, [np.nan] * 5])).all()
    assert np.isnan(bootstrap.interval(np.full(3, np.nan))).all()


def test_intervals_of_repeated_windows_do_not_shrink():
    rng = np.random.default_rng(4)
    positive = rng.random(200) < 0.4
    score = rng.standard_normal(200) + positive
    patient = np.arange(200)
    times = bootstrap.multiplicities(200, 400, 0)
    once = bootstrap.auroc_draws(score, positive, patient, times)
    thirty = bootstrap.auroc_draws(*(np.repeat(x, 30) for x in (score, positive, patient)), times)
    np.testing.assert_allclose(thirty, once)


def test_intervals_cover_the_truth_as_often_as_they_say():
    """90 studies of 80 patients with 5 windows each that share the patient's level: 95% of intervals hold the truth."""
    rng = np.random.default_rng(5)
    truth, hits = 0.5, 0
    for _ in range(90):
        positive = np.repeat(rng.random(80) < 0.4, 5)
        score = np.repeat(rng.standard_normal(80), 5) + 0.2 * rng.standard_normal(400)
        times = bootstrap.multiplicities(80, 200, 0)
        low, high = bootstrap.interval(bootstrap.auroc_draws(score, positive, np.repeat(np.arange(80), 5), times))
        hits += low <= truth <= high
    assert 78 <= hits <= 90  # 95% is 85.5; windows drawn one by one would give about 60


def test_nothing_in_nothing_out():
    empty = np.empty(0)
    times = bootstrap.multiplicities(0, 3, 0)
    for draws in (bootstrap.auroc_draws, bootstrap.auprc_draws):
        assert np.isnan(draws(empty, empty.astype(bool), empty.astype(int), times)).all()
