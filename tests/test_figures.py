"""Each draw's figures are those of the patients that it holds, as often as it holds them."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anyecg_ray import bootstrap, figures, metrics


def study(seed, patients=30, windows=4):
    """Probabilities and outcomes of windows that share their patient's level."""
    rng = np.random.default_rng(seed)
    patient = np.repeat(np.arange(patients), windows)
    level = np.repeat(rng.normal(-0.5, 1.2, patients), windows)
    p = (1 / (1 + np.exp(-level - 0.3 * rng.normal(size=len(level))))).astype(np.float32)
    return p, rng.random(len(p)) < p, patient


@given(st.integers(0, 10_000))
@settings(deadline=None, max_examples=60)
def test_figures_of_classes_in_one_draw(seed):
    p, positive, patient = study(seed)
    times = bootstrap.multiplicities(30, 1, seed)
    found = figures.of_classes(p, positive, 0.5, patient, times)
    at = np.repeat(np.arange(len(p)), times[patient, 0])
    expected = {
        "auprc": metrics.auprc(p[at], positive[at]),
        "brier": metrics.brier(p[at], positive[at]),
        **metrics.decisions(p[at], positive[at], 0.5)._asdict(),
    }
    bins = metrics.calibration_bin(p)[at]  # of all estimates
    gaps = [abs((p[at][bins == b].astype(float) - positive[at][bins == b]).sum()) for b in np.unique(bins)]
    expected["calibration_error"] = sum(gaps) / len(at)
    for name, figure in expected.items():
        assert found[f"{name}_low"] == pytest.approx(figure, abs=1e-6, nan_ok=True), name
        assert found[name] == pytest.approx(_whole(name, p, positive), nan_ok=True)


def _whole(name, p, positive):
    if name in metrics.Decisions._fields:
        return getattr(metrics.decisions(p, positive, 0.5), name)
    return getattr(metrics, name)(p, positive)


@given(st.integers(0, 10_000))
@settings(deadline=None, max_examples=60)
def test_figures_of_values_in_one_draw(seed):
    rng = np.random.default_rng(seed)
    patient = np.repeat(np.arange(20), 3)
    measured = np.repeat(rng.normal(140, 3, 20), 3)
    estimate = (0.6 * measured + 55 + rng.normal(size=60)).astype(np.float32)
    times = bootstrap.multiplicities(20, 1, seed)
    found = figures.of_values(estimate, measured, patient, times)
    at = np.repeat(np.arange(60), times[patient, 0])
    expected = metrics.errors(estimate[at], measured[at])._asdict()
    for name in figures.OF_VALUES:
        assert found[f"{name}_low"] == pytest.approx(expected[name], rel=1e-6, abs=1e-6), name
    assert "limit_low_low" not in found


def test_intervals_hold_the_figure_and_shrink_with_more_patients():
    widths = {}
    for patients in (50, 800):
        p, positive, patient = study(1, patients)
        found = figures.of_classes(p, positive, 0.5, patient, bootstrap.multiplicities(patients, 500, 0))
        for name in set(figures.OF_CLASSES) - {"calibration_error"}:
            assert found[f"{name}_low"] < found[name] < found[f"{name}_high"], name
        widths[patients] = found["sensitivity_high"] - found["sensitivity_low"]
        assert found["interval_note"] is None
    assert widths[800] < 0.5 * widths[50]


def test_draws_that_cannot_tell_are_noted():
    p = np.linspace(0, 1, 40).astype(np.float32)
    positive, patient, times = p > 0.5, np.arange(40), bootstrap.multiplicities(40, 400, 0)
    perfect = figures.of_classes(p, positive, 0.5, patient, times)
    assert perfect["sensitivity"] == perfect["sensitivity_low"] == perfect["sensitivity_high"] == 1
    assert "sensitivity: the same in nearly every draw" in perfect["interval_note"]
    few = figures.of_classes(p, positive, 0.99, patient, times)  # one estimate is flagged: a third of the draws lack it
    assert np.isnan(few["ppv_low"])
    assert "ppv: none in" in few["interval_note"]
    nothing = figures.of_classes(p, positive, None, patient, times)
    assert np.isnan(nothing["sensitivity"])
    assert nothing.get("sensitivity_low") is None
    flat = figures.of_values(np.ones(40, np.float32), p, patient, times)
    assert np.isnan(flat["pearson"])
    assert flat.get("pearson_low") is None
