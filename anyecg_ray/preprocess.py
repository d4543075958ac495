"""Turn one record into normalised 10-second windows, exactly as ECGFounder was fine-tuned.

Leads are found by name, cut into windows at the record's own rate, judged, and only then, those that are usable,
brought to 500 Hz, filtered and z-scored. So a window's numbers depend on its own ten seconds alone, wherever the
span around it begins, and saturation is looked for before a filter rounds it off. The z-score takes one mean and one
deviation over all leads together, not lead by lead: the published weights expect it.

A window is used only if every lead that the model reads is good. One bad lead among twelve changes the scale of the
other eleven, and no published figure says what a model makes of that.
"""

from collections import Counter
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anyecg_ray import filters, gaps, leads, quality
from anyecg_ray.leads import TWELVE_LEADS
from anyecg_ray.recipe import PRESETS, Recipe, recipe
from anyecg_ray.record import Record, RecordError
from anyecg_ray.resample import resample
from anyecg_ray.schema import Status

__all__ = ["PRESETS", "TWELVE_LEADS", "Recipe", "Windows", "preprocess", "recipe"]

Float = NDArray[np.float64]

SLOWEST, FASTEST = 80.0, 20_000.0
"""Hz. Below, what the filter passes up to 40 Hz is not in the record; above, the header is wrong."""

AT_ONCE = 16
"""Leads of windows that are filtered together: enough to hide what a call costs, few enough to stay in the cache."""

TINY = 1e-8
"""Added to the standard deviation, as ECGFounder does."""


@dataclass(frozen=True)
class Windows:
    """What became of one record or span: its windows in the order of time, and those of them that a model can read."""

    x: NDArray[np.float32]
    """(usable windows, leads, samples), normalised."""
    start: NDArray[np.float32]
    """(windows,): seconds from the record's first sample, for every window, usable or not."""
    flags: list[tuple[str, ...]]
    """(windows,): names of quality.FLAGS, and quality.UNCALIBRATED."""
    usable: NDArray[np.bool_]
    """(windows,)."""
    status: Status
    """ok where at least one window is usable."""
    detail: str
    """Why there is none."""

    @classmethod
    def none(cls, recipe: Recipe, status: Status, detail: str) -> "Windows":
        """No windows at all, for this reason."""
        x = np.empty((0, len(recipe.leads), recipe.samples), np.float32)
        return cls(x, np.empty(0, np.float32), [], np.empty(0, bool), status, detail)


def preprocess(record: Record, recipe: Recipe) -> Windows:
    """All windows of a record or span. Never raises for what is in the record: a status says what was wrong."""
    if not SLOWEST <= record.fs <= FASTEST:
        detail = f"{record.fs:g} Hz; {SLOWEST:g} to {FASTEST:g} can be read"
        return Windows.none(recipe, Status.SAMPLING_RATE, detail)
    try:
        how = leads.find(record.leads, record.units, record.calibrated, recipe.leads)
    except RecordError as error:
        return Windows.none(recipe, error.status, error.detail)
    starts, length = window_starts(record.signals.shape[1], record.fs, recipe)
    if not len(starts):
        seconds = record.signals.shape[1] / record.fs
        return Windows.none(recipe, Status.TOO_SHORT, f"{seconds:.3g} s; a window has {recipe.seconds:g} s")
    raw = cut(leads.mix(record.signals, how), starts, length)
    bad, raw = judged(raw, record.fs, np.array(how.calibrated), recipe)
    usable = ~bad.any(axis=(1, 2))
    told: dict[str, Any] = {
        "start": (starts / record.fs).astype(np.float32),
        "flags": [_names(window, how.calibrated) for window in np.any(bad, axis=1)],
        "usable": usable,
    }
    if not usable.any():
        return replace(Windows.none(recipe, *_verdict(bad, recipe)), **told)
    x = np.empty((np.count_nonzero(usable), len(recipe.leads), recipe.samples), np.float32)
    each = max(1, AT_ONCE // len(recipe.leads))
    for i in range(0, len(x), each):
        good = raw[np.flatnonzero(usable)[i : i + each]]
        x[i : i + each] = normalised(filtered(resample(good, record.fs, recipe.fs, recipe.samples), recipe), recipe)
    return Windows(x, **told, status=Status.OK, detail="")


def window_starts(samples: int, fs: float, recipe: Recipe) -> tuple[NDArray[np.int64], int]:
    """(first sample of each whole window, samples of a window) at the record's own rate.

    A window of a rate that does not divide it into samples ends with the last that is within: 3,333 at 333.33 Hz.
    """
    length = int(recipe.seconds * fs + 1e-6)
    last = int(np.ceil(((samples + 1) / fs - recipe.seconds) / recipe.stride - 1e-9)) - 1
    return (np.arange(last + 1) * recipe.stride * fs + 1e-6).astype(np.int64), length


def cut(signals: Float, starts: NDArray[np.int64], length: int) -> Float:
    """(leads, samples) -> (windows, leads, length); a view of the signals where the windows are evenly apart."""
    # said to be writable, where the signals are: numba compiles anew for arrays that are not
    everywhere = np.lib.stride_tricks.sliding_window_view(signals, length, axis=1, writeable=True)
    apart = starts[1] - starts[0] if len(starts) > 1 else 1
    even = slice(starts[0], starts[-1] + 1, apart)
    return everywhere[:, even if (np.diff(starts) == apart).all() else starts].swapaxes(0, 1)


def judged(raw: Float, fs: float, calibrated: NDArray[np.bool_], recipe: Recipe) -> tuple[NDArray[np.bool_], Float]:
    """Which of quality.FLAGS each lead of each window has, and the windows with their gaps bridged.

    raw: (windows, leads, samples) as read. Returns (windows, leads, len(FLAGS)) and the shape of raw, finite.
    """
    absent = gaps.missing(raw)
    if not absent.any():
        return quality.judge(raw, fs, calibrated), raw
    holes = gaps.too_many(absent, fs, recipe.max_gap, recipe.max_missing)
    bridged = gaps.bridge(raw, absent)
    bad = quality.judge(bridged, fs, calibrated)
    bad[holes] = [flag == Status.NON_FINITE for flag in quality.FLAGS]  # of a bridge nothing else can be said
    return bad, bridged


def filtered(windows: Float, recipe: Recipe) -> Float:
    """Notch, band-pass, minus baseline; what the recipe leaves out is left out, and is it all, they are as they were.

    windows: (..., samples) at recipe.fs, finite. Returns the same shape.
    """
    out, before = np.empty(windows.shape), windows
    for coefficients in recipe.coefficients():
        before = filters.zero_phase(before, coefficients, out=out)
    return before if recipe.median is None else filters.without_median(before, recipe.median_samples, out=out)


def normalised(windows: Float, recipe: Recipe) -> NDArray[np.float32]:
    """Z-scores of (windows, leads, samples), over each window as a whole or lead by lead."""
    rows = windows.reshape(len(windows), *((-1,) if recipe.zscore == "whole" else windows.shape[1:]))
    centred = rows - rows.mean(axis=-1, keepdims=True)
    # einsum, not a dot product: BLAS would start threads of its own in every worker
    std = np.sqrt(np.einsum("...i,...i->...", centred, centred)[..., None] / rows.shape[-1])
    out = np.empty(rows.shape, np.float32)
    np.divide(centred, std + TINY, out=out, casting="same_kind")
    return out.reshape(windows.shape)


def _names(bad: NDArray[np.bool_], calibrated: tuple[bool, ...]) -> tuple[str, ...]:
    """Flags of one window. bad: (len(FLAGS),)."""
    found = tuple(str(flag) for flag, on in zip(quality.FLAGS, bad, strict=True) if on)
    return found if all(calibrated) else (*found, quality.UNCALIBRATED)


def _verdict(bad: NDArray[np.bool_], recipe: Recipe) -> tuple[Status, str]:
    """The flag that most windows have, where every window has one, and the leads that have it."""
    windows = Counter({flag: int(n) for flag, n in zip(quality.FLAGS, bad.any(axis=1).sum(axis=0), strict=True)})
    flag, n = windows.most_common(1)[0]
    having = np.any(bad[:, :, quality.FLAGS.index(flag)], axis=0)
    names = ", ".join(lead for lead, on in zip(recipe.leads, having, strict=True) if on)
    return flag, f"{names}: {flag} in {n} of {len(bad)} windows"
