"""Flags on real records: what must be caught is caught, and hardly anything else. And what each flag sees."""

from collections import Counter

import numpy as np
import pytest
from bad_records import beats

from anyecg_ray import quality
from anyecg_ray.preprocess import TWELVE_LEADS, preprocess, recipe
from anyecg_ray.quality import FLAGS
from anyecg_ray.record import decode, reads
from anyecg_ray.schema import Status


def judged(folder, leads):
    """Windows in all, windows by flag, and the records that have any, of an archive."""
    windows, flags, records = 0, Counter(), set()
    for header in sorted(folder.rglob("*.hea")):
        text = header.read_text()
        blobs = {f: (header.parent / f).read_bytes()[a:] for f, (a, _) in reads(text).items()}
        found = preprocess(decode(text, blobs), recipe("ecgfounder-finetune", leads))
        windows += len(found.flags)
        flags.update(f for window in found.flags for f in window if f in FLAGS)
        records |= {header.stem for window in found.flags if set(window) & set(FLAGS)}
    return windows, flags, records


def test_ptb_xl_is_hardly_flagged(data):
    windows, flags, records = judged(data / "ptbxl-500" / "records500", TWELVE_LEADS)
    assert windows == 500
    # a jump of the baseline, and the end of a calibration pulse: both higher than any QRS by far
    assert (flags, records) == ({"amplitude": 2}, {"00304_hr", "00473_hr"})


def test_cinc_2021_flags_what_was_seen_to_be_bad(data):
    windows, flags, records = judged(data / "cinc2021", TWELVE_LEADS)
    assert windows == 164
    assert flags == {"flat": 5, "noisy": 2, "amplitude": 1}
    # leads that were never connected; noise in aVL; a disconnection in the last second
    dead = {"JS20004", "JS20008", "JS45542", "JS45544", "JS45551"}
    assert records == dead | {"JS00001", "JS20019", "E00006"}


def test_holters_are_not_flagged_whatever_their_rhythm(data):
    windows, flags = 0, Counter()
    for header in sorted((data / "mitdb" / "records").glob("*.hea")):
        text = header.read_text()
        blobs = {f: (header.parent / f).read_bytes()[a:] for f, (a, _) in reads(text).items()}
        record = decode(text, blobs)
        for signal in record.signals:
            cut = signal[: len(signal) // 3600 * 3600].reshape(-1, 1, 3600)
            flags.update(
                Counter(np.array(FLAGS)[i] for i in np.argwhere(quality.judge(cut, 360, np.array([True])))[:, 2])
            )
            windows += len(cut)
    assert windows > 1000
    assert flags.total() <= 0.005 * windows


def flags_of(lead, fs=500, calibrated=True):
    found = quality.judge(np.asarray(lead, float)[None, None], fs, np.array([calibrated]))[0, 0]
    return {flag for flag, on in zip(FLAGS, found, strict=True) if on}


HEART = beats(leads=1)[0] / 1000


@pytest.mark.parametrize(
    ("lead", "flags"),
    [
        (HEART, set()),
        (np.zeros(5000), {Status.FLAT}),
        (np.where(np.arange(5000) < 4300, HEART, HEART[4300]), {Status.FLAT}),  # comes off in the ninth second
        (HEART * 0.01, {Status.AMPLITUDE}),
        (HEART * 30, {Status.AMPLITUDE}),
        (np.where(np.arange(5000) == 2500, 9.0, HEART), {Status.AMPLITUDE}),
        (np.clip(HEART, -1, 0.4), {Status.CLIPPED}),
        (np.random.default_rng(0).normal(0, 0.3, 5000), {Status.NOISY}),
        # mains hum and the amplifier's noise, with no patient
        (np.sin(np.arange(5000) * 0.6283) + np.random.default_rng(0).normal(0, 0.02, 5000), {Status.NOISY}),
        (HEART + 0.05 * np.sin(np.arange(5000) * 2 * np.pi * 50 / 500), set()),
        (HEART + 2 * np.sin(np.arange(5000) * 2 * np.pi * 0.3 / 500), set()),  # breathing
    ],
)
def test_what_each_flag_sees(lead, flags):
    assert flags_of(lead) == flags


def test_amplitude_is_not_judged_where_it_is_not_known():
    assert flags_of(HEART * 300, calibrated=False) == set()


@pytest.mark.parametrize("fs", [100, 250, 360, 1000])
def test_the_rate_does_not_matter(fs):
    assert flags_of(beats(fs, leads=1)[0] / 1000, fs) == set()


def test_windows_and_leads_are_judged_each_by_itself():
    x = np.stack([np.stack([HEART, np.zeros(5000)]), np.stack([HEART * 30, HEART])])
    found = quality.judge(x, 500, np.array([True, True]))
    assert found.shape == (2, 2, len(FLAGS))
    assert [[FLAGS[np.argmax(lead)] if lead.any() else None for lead in window] for window in found] == [
        [None, Status.FLAT],
        [Status.AMPLITUDE, None],
    ]
