"""The ECG as a page draws it: every lead in millivolts at 250 Hz, unfiltered, null where samples are missing."""

import numpy as np

from anyecg_ray import gaps, leads
from anyecg_ray.header import RecordError
from anyecg_ray.leads import TWELVE_LEADS
from anyecg_ray.messages import Strip
from anyecg_ray.record import Record
from anyecg_ray.resample import resample
from anyecg_ray.schema import Status

FS = 250.0
"""Hz: ten samples to a millimetre of paper, more than a screen shows."""

LONGEST = 600.0
"""Seconds."""


def strip(record: Record) -> Strip:
    """The record's ECG leads, of the twelve and in their order; other signals are left out."""
    found = {leads.canonical(name) for name in record.leads}
    names = tuple(lead for lead in TWELVE_LEADS if lead in found)
    if not names:
        raise RecordError(Status.MISSING_LEAD, "none of the twelve ECG leads is there")
    how = leads.find(record.leads, record.units, record.calibrated, names)
    kept = record.signals[:, : int(LONGEST * record.fs)]
    millivolts = leads.mix(kept, how)
    samples = max(1, round(kept.shape[1] * FS / record.fs))
    absent = gaps.missing(millivolts)
    drawn = np.round(resample(gaps.bridge(millivolts, absent), record.fs, FS, samples), 3)
    at = np.minimum((np.arange(samples) * record.fs / FS).astype(np.int64), kept.shape[1] - 1)
    drawn[absent[:, at]] = np.nan
    # as Python's own numbers: 0.001 is then written as 0.001
    rows = [[None if v != v else v for v in row] for row in drawn.tolist()]
    return Strip.model_construct(fs=FS, start_time=record.start, leads=list(names), signals=rows)
