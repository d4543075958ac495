"""What a network's numbers become: probabilities, calibrated ones, values with an interval."""

import numpy as np
import pytest

from anyecg_ray.model import Calibration, IndicatorCard, calibrated, decode, first_columns
from anyecg_ray.weights import untrained


def card(*indicators):
    bundle = untrained("tiny", ["potassium_high"], ["II"], "ecgfounder-finetune", 0)
    return bundle.card.model_copy(update={"indicators": list(indicators)})


def indicator(direction, **fields):
    return IndicatorCard(key="k", analyte="a", name="A", direction=direction, **fields)


def test_probability_is_the_sigmoid_without_overflow():
    p = calibrated(np.array([-1000.0, -2.0, 0.0, 2.0, 1000.0]), None)
    np.testing.assert_allclose(p, [0, 1 / (1 + np.exp(2)), 0.5, 1 / (1 + np.exp(-2)), 1], atol=1e-12)


def test_platt_and_isotonic():
    z = np.array([-2.0, 0.0, 2.0])
    np.testing.assert_allclose(
        calibrated(z, Calibration(method="platt", slope=0.5, intercept=1)), calibrated(z / 2 + 1, None)
    )
    steps = Calibration(method="isotonic", x=[0.0, 0.5, 1.0], y=[0.0, 0.1, 0.4])
    np.testing.assert_allclose(calibrated(np.array([0.0, 1000.0]), steps), [0.1, 0.4], atol=1e-9)


def test_values_are_unstandardised_and_have_a_deviation():
    c = card(indicator("high"), indicator("value", offset=4.0, scale=0.5))
    assert c.columns == 3
    assert first_columns(c.indicators) == [0, 1, 3]
    out = decode(c, np.array([[0.0, 2.0, np.log(4.0)]], np.float32))
    np.testing.assert_allclose(out, [[0.5, 5.0, 1.0]], atol=1e-6)


def test_what_has_no_estimate_stays_without():
    out = decode(card(indicator("high"), indicator("value")), np.full((1, 3), np.nan))
    assert np.isnan(out).all()


@pytest.mark.parametrize("bad", [{"threshold": float("nan")}, {"direction": "up"}, {"colour": 1}])
def test_a_card_says_nothing_else(bad):
    with pytest.raises(ValueError, match=r"threshold|direction|colour"):
        IndicatorCard(**({"key": "k", "analyte": "a", "name": "A", "direction": "high"} | bad))
