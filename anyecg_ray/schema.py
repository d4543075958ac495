"""The tables: every column that this program writes, with its type and the reason for its shape.

The pyarrow schemas below are the contract with whoever reads the files. Time stamps are
microseconds because MC-MED shifts its dates into the 2200s and nanoseconds end in 2262.
"""

from enum import StrEnum

import pyarrow as pa

SCHEMA_VERSION = 1
"""Raised when a column changes its meaning; a new column alone does not raise it."""

TIME = pa.timestamp("us", tz="UTC")


class Status(StrEnum):
    """What became of one span. Everything but `ok` is a row without estimates and with a reason."""

    @classmethod
    def _missing_(cls, value: object) -> "Status | None":
        """Accept the member's name too (`TRANSIENT`): --help prints names."""
        return cls.__members__.get(value) if isinstance(value, str) else None

    OK = "ok"
    UNREADABLE = "unreadable"
    """The header or the signal bytes do not follow the WFDB format."""
    MISSING_SIGNAL = "missing_signal"
    """The header names a signal file that is not in the archive."""
    TRUNCATED = "truncated"
    """A signal file ends before the header says so."""
    MISSING_LEAD = "missing_lead"
    """A lead that the model reads is neither there nor derivable."""
    TOO_SHORT = "too_short"
    """Fewer samples than one window of 10 seconds, or none at all."""
    SAMPLING_RATE = "sampling_rate"
    """Sampled too slowly to hold what the model reads, or faster than any ECG is."""
    NON_FINITE = "non_finite"
    """No window is free of long gaps (samples marked invalid)."""
    FLAT = "flat"
    """No window has a signal: lead off, or constant."""
    CLIPPED = "clipped"
    """No window is free of a rail: the amplifier was saturated."""
    NOISY = "noisy"
    """No window shows heart beats above its noise."""
    AMPLITUDE = "amplitude"
    """No window has an amplitude that a heart can make."""
    TRANSIENT = "transient"
    """Storage failed in a way that may pass; the next run tries again."""


MANIFEST = pa.schema(
    [
        # record_id#start_sample: unique, stable when the manifest grows
        pa.field("span_id", pa.string(), nullable=False),
        # path of the header in the archive, without its suffix
        pa.field("record_id", pa.string(), nullable=False),
        pa.field("dataset", pa.string(), nullable=False),
        pa.field("patient_id", pa.string()),
        pa.field("encounter_id", pa.string()),
        # of the span, not of the record; archives without time zones are taken as UTC
        pa.field("start_time", TIME),
        pa.field("fs", pa.float64()),
        pa.field("start_sample", pa.int64(), nullable=False),
        pa.field("n_samples", pa.int64()),
        pa.field("leads", pa.list_(pa.string())),
        pa.field("age", pa.float32()),
        pa.field("sex", pa.string()),  # F, M or null
        # signal objects of this span, as paths in the archive
        pa.field("files", pa.list_(pa.string())),
        # text of the .hea; a multi-segment record's segments follow, each after a form feed
        pa.field("header", pa.string()),
        pa.field("status", pa.string(), nullable=False),
        pa.field("status_detail", pa.string()),
    ]
)

PACKED = pa.field(
    "packed",
    pa.list_(
        pa.struct(
            [
                # path of the pack in the packed archive; null where the object could not be packed
                ("pack", pa.string()),
                # the object's bytes in it
                ("offset", pa.int64()),
                ("length", pa.int64()),
                # the status that its spans get where it could not: missing_signal or transient
                ("fault", pa.string()),
            ]
        )
    ),
)
"""Where each of a span's `files` lies, in their order."""

PACKED_MANIFEST = MANIFEST.append(PACKED)
"""What `anyecg pack` makes of a manifest; one that was never packed has no such column."""

PROVENANCE = [
    pa.field("model_id", pa.string(), nullable=False),
    pa.field("model_version", pa.string(), nullable=False),
    pa.field("weights_sha256", pa.string(), nullable=False),
    pa.field("preprocess_fingerprint", pa.string(), nullable=False),
    pa.field("code_version", pa.string(), nullable=False),
    pa.field("run_id", pa.string(), nullable=False),
    pa.field("estimated_at", TIME, nullable=False),
]

STAGING = pa.schema(
    [
        pa.field("span_id", pa.string(), nullable=False),
        pa.field("record_id", pa.string(), nullable=False),
        pa.field("dataset", pa.string(), nullable=False),
        pa.field("patient_id", pa.string()),
        pa.field("encounter_id", pa.string()),
        pa.field("start_time", TIME),
        pa.field("status", pa.string(), nullable=False),
        pa.field("status_detail", pa.string()),
        # one entry a window, usable or not: seconds from the span's first sample ...
        pa.field("window_start", pa.list_(pa.float32())),
        # ... its flags joined with "|", "" where there are none ...
        pa.field("quality", pa.list_(pa.string())),
        # ... and the network's outputs, one a column of the card, null where the window was not used
        pa.field("values", pa.list_(pa.list_(pa.float32()))),
        *PROVENANCE,
    ]
)

ECG_LAB_ESTIMATE = pa.schema(
    [
        pa.field("span_id", pa.string(), nullable=False),
        pa.field("record_id", pa.string(), nullable=False),
        pa.field("patient_id", pa.string()),
        pa.field("encounter_id", pa.string()),
        pa.field("ecg_time", TIME),  # of the span's first sample; of the window's in a table of windows
        pa.field("window_start", pa.float32()),  # seconds from the span's start; null for the span as a whole
        pa.field("analyte", pa.string()),  # null where the indicator is a diagnosis
        pa.field("indicator", pa.string(), nullable=False),
        pa.field("loinc", pa.string()),
        pa.field("unit", pa.string()),
        pa.field("value", pa.float32()),  # null for an indicator that is a probability
        pa.field("lower", pa.float32()),
        pa.field("upper", pa.float32()),
        pa.field("probability", pa.float32()),  # of the mean logit over the usable windows; null unless status is ok
        pa.field("abnormal", pa.bool_()),  # null where the bundle has no threshold
        pa.field("n_windows", pa.int32(), nullable=False),
        pa.field("quality_flags", pa.list_(pa.string())),
        pa.field("status", pa.string(), nullable=False),
        *PROVENANCE,
    ]
)
"""The published table, one row per (span_id, indicator, model_version), whatever the status; in a table of windows
one per window besides."""

DESCRIBING = ("acuity", "disposition", "race", "ethnicity")
"""What an evaluation may be sliced by besides age and sex: null where the archive does not tell."""

ENCOUNTERS = pa.schema(
    [
        pa.field("dataset", pa.string(), nullable=False),
        pa.field("patient_id", pa.string()),
        # an ED visit, or one ECG where the archive knows no visits
        pa.field("encounter_id", pa.string(), nullable=False),
        pa.field("start_time", TIME),
        pa.field("end_time", TIME),
        pa.field("age", pa.float32()),  # years; capped where the archive caps it
        pa.field("sex", pa.string()),  # F, M or null
        # the archive's own splits: train, val, test or null
        pa.field("split_random", pa.string()),
        pa.field("split_chrono", pa.string()),
        pa.field("split_fold", pa.string()),
        *(pa.field(name, pa.string()) for name in DESCRIBING),
    ]
)
"""Who was recorded and when: one row per encounter, whether or not it has a waveform."""

LABELS = pa.schema(
    [
        pa.field("patient_id", pa.string()),
        # null where the source ties a result to a patient and a time only
        pa.field("encounter_id", pa.string()),
        # the four clocks of a result; a source has one or two of them, the rest is null
        pa.field("order_time", TIME),
        pa.field("result_time", TIME),
        pa.field("chart_time", TIME),
        pa.field("store_time", TIME),
        pa.field("component", pa.string()),  # as the source names it
        pa.field("analyte", pa.string()),  # key of analytes.py, else the component's own name as a key
        pa.field("value", pa.float64()),  # the bound itself where censored
        pa.field("censored", pa.string()),  # "<" or ">": the true value lies beyond `value`; else null
        pa.field("unit", pa.string()),  # of value, low and high alike
        # the reference range that came with this very result
        pa.field("low", pa.float64()),
        pa.field("high", pa.float64()),
        # the laboratory's own verdict: low, high, normal, abnormal (it does not tell the side) or null
        pa.field("flag", pa.string()),
        # why the value is missing or cannot be compared, joined with "|"; null where nothing is wrong
        pa.field("reason", pa.string()),
    ]
)
"""What is known about a patient apart from the ECG, one row per result, however unusable the result."""
