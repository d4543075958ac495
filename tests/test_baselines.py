"""Simple models learn from what they may, and never from what they are to predict."""

import numpy as np

from anyecg_ray import baselines, leakage, metrics
from anyecg_ray.model import IndicatorCard


def indicator(key, direction):
    return IndicatorCard(key=key, analyte=None, name=key, direction=direction)


def test_age_and_sex_are_not_asked_for_age_and_sex():
    rng = np.random.default_rng(0)
    n, width = 400, len(baselines.intervals.NAMES)
    age, sex = rng.uniform(20, 89, n).astype(np.float32), np.where(rng.random(n) < 0.5, "M", "F")
    old = (age + rng.normal(0, 10, n) > 60).astype(np.float32)
    labels = np.column_stack([sex == "M", age, old]).astype(np.float32)
    cards = [indicator("sex_male", "present"), indicator("age_value", "value"), indicator("dx_mi", "present")]
    measured = rng.normal(size=(n, width)).astype(np.float32)
    rows = baselines.Rows(age, sex, measured, labels, np.arange(n), np.arange(n))
    found = baselines.fit(rows, cards, baselines.Baselines()).predict(age, sex, measured)
    assert np.isnan(found["age_sex"][:, :2]).all()
    assert metrics.auroc(found["age_sex"][:, 2], old > 0) > 0.85
    assert np.isfinite(found["features"]).all()


def test_the_report_says_for_whom_a_simple_model_is_missing():
    assert "against age_value, sex_male," in leakage.read_out(["age_value", "dx_mi", "sex_male"]).detail
    assert "against" not in leakage.read_out(["dx_mi"]).detail
