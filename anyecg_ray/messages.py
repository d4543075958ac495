"""What goes in and out of the endpoint as JSON: the request's forms and the answer's fields, with their meaning.

These models are the contract with clients; openapi.json is made from them.
"""

from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, JsonValue

DISCLAIMER = "An estimate for research; not a measurement, not for diagnosis."

Number = Annotated[float, Field(allow_inf_nan=False)]

EARLIEST, LATEST = datetime(1, 1, 2, tzinfo=UTC), datetime(9999, 12, 30, tzinfo=UTC)
"""A start time between them has room for its offset from UTC, and for an ECG of a day."""


def _in_utc(time: datetime) -> datetime:
    """The time in UTC, which one without an offset is taken for. Raises ValueError at the ends of the calendar."""
    time = time if time.tzinfo else time.replace(tzinfo=UTC)
    if not EARLIEST <= time <= LATEST:
        raise ValueError(f"not between {EARLIEST.date()} and {LATEST.date()}")
    return time.astimezone(UTC)


class _Message(BaseModel):
    model_config = ConfigDict(
        extra="forbid", strict=True, frozen=True, protected_namespaces=(), use_attribute_docstrings=True
    )


class Signals(_Message):
    """An ECG as numbers."""

    signals: list[list[Number | None]] = Field(min_length=1, max_length=64)
    """One list of samples a lead, all of the same length; null for a sample that is missing."""
    leads: list[Annotated[str, Field(max_length=64)]] = Field(min_length=1, max_length=64)
    """Name of each: I, II, III, aVR, aVL, aVF, V1 to V6. Others are not read."""
    fs: Number = Field(gt=0)
    """Samples a second."""
    units: str = Field("mV", max_length=16)
    """Of the samples: V, mV, uV or nV."""
    start_time: Annotated[datetime, Field(strict=False), AfterValidator(_in_utc)] | None = None
    """Time of the first sample, ISO 8601, in UTC where it has no offset; passed on, never used."""


class Stored(_Message):
    """An ECG that the server reads itself."""

    record: str = Field(min_length=1, max_length=1024)
    """A WFDB record without suffix, in one of the places that this server allows: s3://bucket/prefix/name."""


class Batch(_Message):
    """Several ECGs at once."""

    ecgs: list[Signals | Stored] = Field(min_length=1)
    """Each is answered by itself, in this order."""


class ModelName(_Message):
    """Which model estimated."""

    name: str
    version: str
    weights_sha256: str


class Window(_Message):
    """Ten seconds of the ECG, as the model reads it."""

    start: float
    """Seconds from the first sample."""
    usable: bool
    """Whether it went into the estimates."""
    flags: list[str]
    """What is wrong with it: non_finite, flat, clipped, amplitude, noisy; `uncalibrated` only informs."""


class Estimate(_Message):
    """One indicator. A research output: neither a measurement nor a diagnosis."""

    indicator: str
    analyte: str | None
    """null for a diagnosis."""
    name: str
    direction: Literal["low", "high", "value", "present"]
    loinc: str | None
    unit: str | None
    """UCUM unit of the analyte."""
    probability: float | None
    """Of the indicator; null for a value, and where no window is usable."""
    calibrated: bool
    """Whether the probability was calibrated on validation data."""
    threshold: float | None
    abnormal: bool | None
    """Probability at or above the threshold; null where the model has none."""
    value: float | None
    """In `unit`; null for a probability."""
    lower: float | None
    upper: float | None
    """95% interval of the value."""
    tier: Literal["strong", "moderate", "limited"] | None
    """How well the model tells this indicator, on test data."""
    auroc: float | None
    """On test data, by encounter; null where the model was not evaluated."""
    auroc_low: float | None
    """95% interval of the AUROC; null where it has none."""
    auroc_high: float | None
    window_start: float | None = None
    """With granularity=window: seconds from the first sample."""


class Strip(_Message):
    """The ECG itself, for drawing."""

    fs: float
    start_time: datetime | None
    leads: list[str]
    signals: list[list[float | None]]
    """Millivolts to 0.001, one list a lead."""


class Answer(_Message):
    """What a model estimates from one ECG."""

    id: str
    """Of this request, as the server's log names it."""
    model: ModelName
    status: str
    """ok, or why no window of the ECG could be used: flat, clipped, noisy, amplitude, non_finite."""
    status_detail: str | None
    n_windows: int
    """Usable windows behind the estimates."""
    windows: list[Window]
    estimates: list[Estimate]
    strip: Strip | None = None
    disclaimer: str = DISCLAIMER


class Item(_Message):
    """One ECG of a batch."""

    status: int
    """The HTTP status that it would have had alone."""
    answer: Answer | None = None
    problem: dict[str, JsonValue] | None = None
    """Where status is not 200."""


class BatchAnswer(_Message):
    """A batch's answers, in the order of its ECGs."""

    items: list[Item]
    disclaimer: str = DISCLAIMER


class Model(_Message):
    """A model that this server has."""

    name: str
    version: str
    weights_sha256: str
    default: bool
    """Whether a request that names no model gets this one."""
    trained: bool
    """False: its weights are random and its estimates mean nothing."""
    leads: list[str]
    fs: float
    seconds: float
    """Length of a window."""
    indicators: list[str]


class Models(_Message):
    """The models that this server has."""

    models: list[Model]


class State(_Message):
    """Whether the server is up, and its models answer."""

    status: str
    detail: dict[str, Any] = {}
