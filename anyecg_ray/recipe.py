"""The preprocessing that a model was trained with, as a value: every number of it, and a fingerprint of them all."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal

from anyecg_ray import filters, leads
from anyecg_ray.config import fingerprint

VERSION = 1
"""Raised when the same settings would give other numbers; part of every fingerprint."""


@dataclass(frozen=True)
class Recipe:
    """How a record becomes windows. Raises ValueError, naming the field, where a setting cannot be followed."""

    leads: tuple[str, ...]
    """In the order that the model reads them; names of leads.TWELVE_LEADS."""

    fs: float = 500.0
    """Hz that every record is brought to."""

    seconds: float = 10.0
    """Length of a window."""

    stride: float = 10.0
    """Seconds from one window's start to the next one's."""

    notch: tuple[float, float] | None = (50.0, 30.0)
    """Hz and Q of the zero-phase notch against mains hum; None: no notch."""

    band: tuple[float, float] | None = (0.67, 40.0)
    """Hz: edges of the zero-phase Butterworth band-pass; None: none."""

    band_order: int = 4
    """Order of the band-pass, which has twice as many poles."""

    median: float | None = 0.4
    """Seconds of the running median that is taken off as baseline (made an odd number of samples); None: none."""

    zscore: Literal["whole", "lead"] = "whole"
    """One mean and standard deviation for all leads of a window together, or one for each lead."""

    max_gap: float = 0.2
    """Seconds without samples that a straight line may bridge; see gaps.py for the reason."""

    max_missing: float = 1.0
    """Seconds of a window that may be bridged in all."""

    def __post_init__(self) -> None:
        for field in fields(self):
            object.__setattr__(self, field.name, _checked(field.name, getattr(self, field.name)))
        if not 80 <= self.fs <= 10_000:
            raise ValueError(f"fs: {self.fs} Hz; 80 to 10000 can be had")
        if not (1 <= self.seconds <= 3600 and 0.1 <= self.stride <= 3600):
            raise ValueError(
                f"seconds, stride: {self.seconds} and {self.stride}; a window has 1 s or more, a stride 0.1"
            )
        if not (0 <= self.max_gap <= self.max_missing < self.seconds):
            raise ValueError(
                f"max_gap, max_missing: {self.max_gap} and {self.max_missing}; want 0 ≤ gap ≤ missing < window"
            )
        if self.zscore not in ("whole", "lead"):
            raise ValueError(f"zscore: {self.zscore!r}; there are whole and lead")
        if self.median is not None and not 0 < self.median < self.seconds:
            raise ValueError(f"median: {self.median} s; want more than 0 and less than a window")
        # checked by themselves: to design a filter takes scipy.signal, which loads for half a second
        if self.notch and not (0.01 <= self.notch[0] < self.fs / 2 and 0.1 <= self.notch[1] <= 1000):
            raise ValueError(f"notch: {self.notch}; want 0.01 to below {self.fs / 2} Hz, and a Q of 0.1 to 1000")
        if self.band and not 0.01 <= self.band[0] < self.band[1] < self.fs / 2:
            raise ValueError(f"band: {self.band}; want two edges, rising, of 0.01 to below {self.fs / 2} Hz")
        if self.band and not 1 <= self.band_order <= filters.POLES // 2:
            raise ValueError(f"band_order: {self.band_order}; 1 to {filters.POLES // 2} can be had")

    @property
    def samples(self) -> int:
        """Samples of a window."""
        return round(self.seconds * self.fs)

    @property
    def median_samples(self) -> int:
        """Samples of the running median, odd; 1 where there is none."""
        return 1 if self.median is None else int(self.median * self.fs) + 1 | 1

    def coefficients(self) -> list[filters.Coefficients]:
        """The filters to run forwards and backwards, in this order."""
        found = []
        if self.notch:
            found.append(filters.notch(self.fs, *self.notch))
        if self.band:
            found.append(filters.band_pass(self.fs, *self.band, self.band_order))
        return found

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as JSON has them."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}

    @classmethod
    def from_dict(cls, settings: Mapping[str, Any]) -> "Recipe":
        """What to_dict gave. Raises ValueError where a setting is unknown, missing or no recipe's."""
        names = {field.name for field in fields(cls)}
        for what, keys in (("unknown", settings.keys() - names), ("missing", names - settings.keys())):
            if keys:
                raise ValueError(f"{what} setting of the recipe: {', '.join(sorted(map(str, keys)))}")
        return cls(**settings)

    def fingerprint(self) -> str:
        """16 hex digits that are the same for the same windows only."""
        return fingerprint({**self.to_dict(), "version": VERSION})

    def differences(self, other: "Recipe") -> list[str]:
        """Names of the settings in which two recipes differ."""
        return [field.name for field in fields(self) if getattr(self, field.name) != getattr(other, field.name)]


def _checked(name: str, value: Any) -> Any:
    """A setting in the one form that its type has, so that 500 and 500.0 have one fingerprint."""
    if name == "leads":
        if isinstance(value, str) or not isinstance(value, Sequence):
            raise ValueError(f"leads: {value!r} is not a list of names")
        return leads.known(value)
    if name == "zscore" or (value is None and name in ("notch", "band", "median")):
        return value
    if name in ("notch", "band"):
        if not isinstance(value, Sequence) or len(value) != 2:
            raise ValueError(f"{name}: {value!r} is not two numbers")
        return tuple(_number(name, v) for v in value)
    number = _number(name, value)
    if name == "band_order":
        if number != int(number) or number < 1:
            raise ValueError(f"band_order: {value!r} is not a whole number from 1")
        return int(number)
    return number


def _number(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) < 1e9:
        raise ValueError(f"{name}: {value!r} is not a number that can be followed")
    return float(value)


PRESETS = {
    "ecgfounder-finetune": Recipe(("II",)),
    "ecgfounder-zscore": Recipe(("II",), notch=None, band=None, median=None),
}
"""ECGFounder's fine-tuning filter and z-score (its dataset.py and util.py of August 2025, the README's "strictly"),
and the z-score alone (its 150-class evaluation, and all of its code before that). Leads stand for themselves."""


def recipe(preset: str, leads: Sequence[str]) -> Recipe:
    """A preset with leads of one's own, in any case, aliases allowed. Raises ValueError where one is unknown."""
    if preset not in PRESETS:
        raise ValueError(f"no preprocessing is called {preset!r}; there are {', '.join(PRESETS)}")
    return replace(PRESETS[preset], leads=tuple(leads))
