"""The filters are scipy's, bit for bit, only faster."""

import numpy as np
import pytest
import scipy.signal
from hypothesis import given, settings
from hypothesis import strategies as st

from anyecg_ray.filters import band_pass, notch, without_median, zero_phase


def noise(rows, samples, seed=0):
    return np.random.default_rng(seed).standard_normal((rows, samples)).cumsum(axis=1)


@pytest.mark.parametrize("fs", [250.0, 500.0, 1000.0])
@pytest.mark.parametrize("kind", ["notch", "band"])
def test_zero_phase_is_filtfilt(fs, kind):
    x = noise(5, 3000)
    if kind == "notch":
        ours, (b, a) = notch(fs, 50, 30), scipy.signal.iirnotch(50, 30, fs)
    else:
        ours, (b, a) = band_pass(fs, 0.67, 40, 4), scipy.signal.butter(4, [0.67, 40], "bandpass", fs=fs)
    np.testing.assert_array_equal(zero_phase(x, ours), scipy.signal.filtfilt(b, a, x))


@given(st.integers(0, 2**32 - 1), st.integers(1, 30).map(lambda k: 2 * k + 1), st.integers(1, 600))
@settings(max_examples=60, deadline=None)
def test_without_median_takes_off_medfilt(seed, size, samples):
    rng = np.random.default_rng(seed)
    x = np.round(rng.standard_normal((2, samples)), rng.integers(0, 4))  # with ties
    expected = np.stack([row - scipy.signal.medfilt(row, size) for row in x])
    np.testing.assert_array_equal(without_median(x, size), expected)


def test_in_place_and_of_any_shape():
    x = noise(6, 1000)
    expected = zero_phase(x, notch(500, 50, 30))
    stacked = x.copy().reshape(2, 3, 1000)
    zero_phase(stacked, notch(500, 50, 30), out=stacked)
    np.testing.assert_array_equal(stacked.reshape(6, 1000), expected)


@pytest.mark.parametrize(
    "make", [lambda: band_pass(500, 0.67, 300, 4), lambda: notch(90, 50, 30), lambda: band_pass(500, 1, 2, 5)]
)
def test_filters_that_cannot_be(make):
    with pytest.raises(ValueError, match=r"order|frequenc|0 < |fs"):
        make()


def test_what_is_no_number_harms_no_other_row():
    """Windows are made finite before; were one not, a count beyond an array's end would end the process."""
    x = noise(3, 1000)
    expected = without_median(x, 101)
    x[1, 200:700] = np.nan
    np.testing.assert_array_equal(without_median(x, 101)[[0, 2]], expected[[0, 2]])
