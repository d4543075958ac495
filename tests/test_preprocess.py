"""From a record to the windows that the published weights expect, number by number; and every reason for none."""

import dataclasses

import numpy as np
import pytest
import scipy.signal
from bad_records import beats
from golden_rule import Z_SCORES

from anyecg_ray.preprocess import TWELVE_LEADS, cut, normalised, preprocess, recipe, window_starts
from anyecg_ray.record import Record
from anyecg_ray.schema import Status

FINETUNE = recipe("ecgfounder-finetune", TWELVE_LEADS)


def record(signals, fs=500.0, leads=TWELVE_LEADS, units="mV", calibrated=True):
    n = len(signals)
    return Record(np.asarray(signals, float), tuple(leads[:n]), (units,) * n, (calibrated,) * n, fs, None)


def ecg(fs=500.0, seconds=10.0, leads=12):
    """(leads, samples) millivolts that pass the quality measures."""
    return beats(fs, seconds, leads) / 1000


@pytest.fixture(scope="module")
def arrays(golden):
    return np.load(golden / "preprocess.npz")


def test_golden_finetuning_of_twelve_leads(arrays):
    windows = preprocess(record(arrays["raw_mv"]), FINETUNE)
    assert windows.x.dtype == np.float32
    np.testing.assert_allclose(windows.x[0], arrays["finetune_12"], atol=Z_SCORES)


def test_golden_finetuning_of_lead_ii(arrays):
    windows = preprocess(record(arrays["raw_mv"]), recipe("ecgfounder-finetune", ("II",)))
    np.testing.assert_allclose(windows.x[0], arrays["finetune_lead_ii"].reshape(1, -1), atol=Z_SCORES)


def test_golden_zscore_alone(arrays):
    windows = preprocess(record(arrays["raw_mv"]), recipe("ecgfounder-zscore", TWELVE_LEADS))
    np.testing.assert_allclose(windows.x[0], arrays["ptbxl_eval_12"], atol=1e-6)


def test_golden_filter_before_the_zscore(arrays):
    from anyecg_ray.preprocess import filtered

    np.testing.assert_allclose(filtered(arrays["raw_mv"][None], FINETUNE)[0], arrays["filtered"], atol=1e-6)


def test_many_windows_at_once_are_each_by_itself(arrays):
    raw = np.concatenate([arrays["raw_mv"], arrays["raw_mv"][:, ::-1] * 1.5, arrays["raw_mv"] + 0.3], axis=1)
    together = preprocess(record(raw), FINETUNE)
    assert together.x.shape == (3, 12, 5000)
    np.testing.assert_allclose(together.start, [0, 10, 20])
    for i in range(3):
        alone = preprocess(record(raw[:, i * 5000 : (i + 1) * 5000]), FINETUNE)
        np.testing.assert_array_equal(together.x[i], alone.x[0])


def test_order_units_and_case_of_the_leads_do_not_matter(arrays):
    order = np.random.default_rng(1).permutation(12)
    names = [TWELVE_LEADS[i].upper() for i in order]
    shuffled = preprocess(record(arrays["raw_mv"][order] * 1000, leads=names, units="uV"), FINETUNE)
    np.testing.assert_allclose(shuffled.x, preprocess(record(arrays["raw_mv"]), FINETUNE).x, atol=1e-5)


def test_zscore_whole_and_by_lead():
    x = np.random.default_rng(0).standard_normal((2, 12, 5000)) * np.arange(1, 13)[:, None] + 3
    whole = normalised(x, FINETUNE)
    assert abs(whole.mean()) < 1e-6
    assert whole[0, 11].std() > 5 * whole[0, 0].std()
    by_lead = normalised(x, dataclasses.replace(FINETUNE, zscore="lead"))
    np.testing.assert_allclose(by_lead.std(axis=-1), 1, atol=1e-5)


@pytest.mark.parametrize("fs", [100.0, 250.0, 257.0, 333.33, 360.0, 1000.0])
def test_other_rates_are_brought_to_500_hz(fs):
    smooth = scipy.signal.butter(4, 35, fs=5000, output="sos")
    fine = scipy.signal.sosfiltfilt(smooth, beats(5000, 12, 1) / 1000)  # 35 Hz and less: all rates can hold it
    t = np.arange(0, 10, 1 / fs)
    coarse = np.interp(t, np.arange(60_000) / 5000, fine[0])[None]
    truth = preprocess(record(fine[:, :50_000:10], leads=("II",)), recipe("ecgfounder-finetune", ("II",)))
    windows = preprocess(record(coarse, fs=fs, leads=("II",)), recipe("ecgfounder-finetune", ("II",)))
    assert windows.x.shape == (1, 1, 5000)
    apart = (windows.x - truth.x)[..., 250:-250]
    assert np.abs(apart).max() < 0.25  # of a standard deviation, at the QRS
    assert apart.std() < 0.03


def test_resampling_does_not_alias():
    t = np.arange(20_000) / 2000
    hum = np.sin(2 * np.pi * 490 * t)[None]  # would fold to 10 Hz, in the middle of the band
    clean = beats(2000, 10, 1) / 1000
    plain = recipe("ecgfounder-zscore", ("II",))
    with_hum = preprocess(record(clean + hum, fs=2000, leads=("II",)), plain)
    without = preprocess(record(clean, fs=2000, leads=("II",)), plain)
    assert np.abs(with_hum.x - without.x)[..., 50:-50].max() < 0.02


def test_windows_of_a_long_record():
    windows = preprocess(record(ecg(seconds=34.9)), FINETUNE)
    assert windows.x.shape == (3, 12, 5000)  # what does not fill a window is left out
    overlapping = preprocess(record(ecg(seconds=30)), dataclasses.replace(FINETUNE, stride=5.0))
    np.testing.assert_allclose(overlapping.start, [0, 5, 10, 15, 20])


def hole(x, at, seconds, leads=slice(None)):
    out = x.copy()
    out[leads, round(at * 500) : round((at + seconds) * 500)] = np.nan
    return out


@pytest.mark.parametrize("fs", [500.0, 333.33, 128.0])
@pytest.mark.parametrize("stride", [10.0, 2.5, 0.37])
@pytest.mark.parametrize("seconds", [10, 12, 65])
def test_windows_are_the_signal_from_their_starts_on(fs, stride, seconds):
    signals = np.random.default_rng(0).standard_normal((2, int(seconds * fs) + 1))
    starts, length = window_starts(signals.shape[1], fs, dataclasses.replace(FINETUNE, stride=stride))
    expected = np.stack([signals[:, start : start + length] for start in starts])
    np.testing.assert_array_equal(cut(signals, starts, length), expected)


def test_short_gaps_are_bridged_and_long_ones_cost_their_window():
    x = ecg(seconds=30)
    bridged = preprocess(record(hole(x, 15, 0.2)), FINETUNE)
    assert bridged.usable.tolist() == [True, True, True]
    assert np.isfinite(bridged.x).all()
    lost = preprocess(record(hole(x, 15, 0.3)), FINETUNE)
    assert lost.usable.tolist() == [True, False, True]
    assert lost.flags[1] == ("non_finite",)
    assert lost.x.shape[0] == 2
    np.testing.assert_array_equal(lost.x[0], preprocess(record(x), FINETUNE).x[0])


def test_many_short_gaps_are_too_many():
    x = ecg()
    for at in range(1, 8):
        x = hole(x, at, 0.19)
    assert preprocess(record(x), FINETUNE).status is Status.NON_FINITE


def test_one_bad_lead_costs_a_window_that_needs_it_and_no_other():
    x = hole(ecg(), 0, 10, leads=5)
    assert preprocess(record(x), FINETUNE).status is Status.NON_FINITE
    assert preprocess(record(x), recipe("ecgfounder-finetune", ("II",))).status is Status.OK


def noise():
    return np.random.default_rng(0).normal(0, 0.4, (12, 5000))


@pytest.mark.parametrize(
    ("made", "status", "detail"),
    [
        (lambda: record(ecg(seconds=5)), Status.TOO_SHORT, "5 s"),
        (lambda: record(np.empty((12, 0))), Status.TOO_SHORT, "0 s"),
        (lambda: record(np.full((12, 5000), np.nan)), Status.NON_FINITE, "non_finite in 1 of 1 windows"),
        (lambda: record(np.full((12, 5000), np.inf)), Status.NON_FINITE, "non_finite"),
        (lambda: record(np.zeros((12, 5000))), Status.FLAT, "flat in 1 of 1 windows"),
        (lambda: record(np.clip(ecg() * 3, -0.15, 0.25)), Status.CLIPPED, "clipped"),
        (lambda: record(ecg() * 30), Status.AMPLITUDE, "amplitude"),
        (lambda: record(noise()), Status.NOISY, "noisy"),
        (lambda: record(ecg(), leads=[f"X{i}" for i in range(12)]), Status.MISSING_LEAD, "no lead I"),
        (lambda: record(ecg()[:, ::100], fs=5.0), Status.SAMPLING_RATE, "5 Hz"),
        (lambda: record(ecg(), fs=1e9), Status.SAMPLING_RATE, "1e+09 Hz"),
    ],
)
def test_every_reason_for_no_window(made, status, detail):
    windows = preprocess(made(), FINETUNE)
    assert windows.status is status
    assert detail in windows.detail
    assert windows.x.shape == (0, 12, 5000)
    assert not windows.usable.any()


def test_an_uncalibrated_record_is_scored_and_flagged():
    windows = preprocess(record(ecg() * 3000, calibrated=False), FINETUNE)
    assert windows.status is Status.OK
    assert windows.flags == [("uncalibrated",)]
    np.testing.assert_allclose(windows.x, preprocess(record(ecg()), FINETUNE).x, atol=1e-5)


def test_the_record_is_left_as_it_was(arrays):
    raw = arrays["raw_mv"].copy()
    preprocess(record(raw), FINETUNE)
    np.testing.assert_array_equal(raw, arrays["raw_mv"])
