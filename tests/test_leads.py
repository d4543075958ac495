"""Leads go by name, whatever their case, order and decoration; and six limb leads are two."""

import numpy as np
import pytest

from anyecg_ray.header import RecordError
from anyecg_ray.leads import TWELVE_LEADS, canonical, find, known, millivolts, mix, sufficient
from anyecg_ray.schema import Status

LIMB = TWELVE_LEADS[:6]


def limbs(samples=50):
    """Six limb leads from two, (6, samples) millivolts."""
    one, two = np.random.default_rng(0).standard_normal((2, samples))
    return np.stack([one, two, two - one, -(one + two) / 2, one - two / 2, two - one / 2])


def made(signals, names, wanted, units=None):
    units = units or ("mV",) * len(names)
    return mix(signals, find(tuple(names), units, (True,) * len(names), tuple(wanted)))


@pytest.mark.parametrize(
    ("name", "lead"),
    [
        *((n, n) for n in TWELVE_LEADS),
        ("avr", "aVR"), ("AVF", "aVF"), ("ii", "II"), (" V1 ", "V1"), ("MLII", "II"), ("Lead II", "II"),
        ("ECG II", "II"), ("MDC_ECG_LEAD_aVL", "aVL"), ("ecg_v6", "V6"), ("DI", "I"),
        ("-aVR", None), ("V", None), ("ECG", None), ("MCL1", None), ("RESP", None), ("V7", None), ("C3", None),
        ("", None),
    ],
)  # fmt: skip
def test_names(name, lead):
    assert canonical(name) == lead


@pytest.mark.parametrize(
    ("units", "factor"),
    [("mV", 1), ("uV", 1e-3), ("µV", 1e-3), ("μV", 1e-3), ("V", 1e3), ("nV", 1e-6), ("millivolts", 1), ("MV", 1),
     ("mmHg", None), ("NU", None), ("", None)],
)  # fmt: skip
def test_units(units, factor):
    assert millivolts(units) == factor


def test_order_in_the_record_does_not_matter():
    x = limbs()
    order = [0, 1, 2, 3, 5, 4]  # MIMIC-IV-ECG has aVF before aVL
    np.testing.assert_array_equal(made(x[order], [LIMB[i] for i in order], LIMB), x)


@pytest.mark.parametrize("have", [(0, 1), (0, 2), (1, 2), (3, 4), (4, 5), (1, 5), (0, 3)])
def test_any_two_limb_leads_give_all_six(have):
    x = limbs()
    np.testing.assert_allclose(made(x[list(have)], [LIMB[i] for i in have], LIMB), x, atol=1e-12)


def test_units_are_brought_to_millivolts_before_leads_are_mixed():
    x = limbs()
    signals = np.stack([x[0] * 1000, x[1] / 1000])
    np.testing.assert_allclose(made(signals, ("I", "II"), LIMB, units=("uV", "V")), x, atol=1e-12)


def test_a_lead_of_its_own_is_taken_rather_than_derived():
    x = limbs()
    x[2] += 7
    np.testing.assert_array_equal(made(x, LIMB, ("III",))[0], x[2])


def test_the_very_name_comes_before_an_alias():
    x = limbs()
    np.testing.assert_array_equal(made(x[:2], ("MLII", "II"), ("II",))[0], x[1])


@pytest.mark.parametrize(
    ("names", "wanted"),
    [(("I", "II"), "V1"), (("V1", "V2"), "II"), (("X", "Y"), "II"), ((), "II"), (("II",), "I"), (("I", "RESP"), "II")],
)
def test_what_cannot_be_derived(names, wanted):
    with pytest.raises(RecordError) as error:
        find(names, ("mV",) * len(names), (True,) * len(names), (wanted,))
    assert error.value.status is Status.MISSING_LEAD
    assert f"no lead {wanted}" in error.value.detail


def test_nothing_is_derived_from_uncalibrated_leads():
    with pytest.raises(RecordError, match="no lead III"):
        find(("I", "II"), ("mV", "mV"), (True, False), ("III",))
    assert find(("I", "II"), ("mV", "mV"), (True, False), ("II",)).calibrated == (False,)


def test_sufficient_names_only_what_need_be_decoded():
    assert sufficient(TWELVE_LEADS, ("II",)) == (1,)
    assert sufficient(("V5", "MLII"), ("II",)) == (1,)
    assert sufficient(("I", "II"), ("III",)) is None


@pytest.mark.parametrize("leads", [(), ("II", "ii"), ("X",)])
def test_leads_that_no_model_can_read(leads):
    with pytest.raises(ValueError, match="lead"):
        known(leads)


def test_leads_that_lie_there_as_they_are_wanted_are_not_copied():
    signals = limbs()
    assert np.shares_memory(made(signals, LIMB, LIMB[1:4]), signals)
    for names, wanted, units in ((LIMB, ("I", "III"), None), (LIMB, ("II", "I"), None), (LIMB, ("I",), ("uV",) * 6)):
        assert not np.shares_memory(made(signals, names, wanted, units), signals)
