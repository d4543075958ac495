"""What is wrong with a window, told from its millivolts before anything is filtered.

A flag says that a lead shows no heart (lead off, saturated, buried in noise) rather than that it is not pretty: the
filter takes care of drift and mains hum, and a sick heart is not noise. Ventricular tachycardia has no steep QRS
above quiet baselines, like noise, but it repeats itself, unlike noise. Fibrillation does neither and is flagged as a
rule; where it is regular for a while it passes.

The limits were set on the 633 twelve-lead records and 3 hours of Holter in the test data (tests/test_quality.py):
what the flags catch there was looked at lead by lead, and what they leave alone keeps the distances given below.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from anyecg_ray.numba_jit import compiled
from anyecg_ray.schema import Status

Float = NDArray[np.float64]
Bool = NDArray[np.bool_]

FLAGS = (Status.NON_FINITE, Status.FLAT, Status.CLIPPED, Status.AMPLITUDE, Status.NOISY)
"""Flags that disqualify a window, the plainest reason first."""

UNCALIBRATED = "uncalibrated"
"""Flag that only informs: the amplitude could not be judged; the model sees z-scores and does not care."""


@dataclass(frozen=True)
class Limits:
    """Where a window's flags begin; times in seconds, amplitudes in millivolts."""

    same: float = 1e-3
    """Samples within this share of the window's range count as equal: below the step of any converter in use."""

    flat: float = 1.0
    """Longest stretch of one value. Real leads: at most 0.46, beside an artefact; even a pause of the heart drifts."""

    rail: float = 0.25
    """Longest stretch at the very top or bottom. Real leads: at most 0.13 (PTB-XL pads its ends), QRS peaks 0.06."""

    rail_touch: float = 0.01
    """Shortest stretch at the top or bottom that counts as touching a rail (and 3 samples at least) ..."""

    rail_touches: int = 3
    """... so many times. Real leads do it twice at most; of QRS complexes that are cut off each one does."""

    lowest: float = 0.05
    """Typical peak-to-peak of a lead. Real leads: 0.18 and more; amplifiers without a patient: 0.01 to 0.03."""

    highest: float = 15.0
    """Typical peak-to-peak of a lead. Real leads: up to 13.9 (V4, ventricular hypertrophy)."""

    spike: float = 5.0
    """Highest against typical peak-to-peak, if it is at least that many millivolts too. Ectopic beats: below 4.5."""

    contrast: float = 4.5
    """98th percentile of the slope against its median. Noise: 2.9 to 4.2; narrow beats that one can see: from 4.5."""

    periodicity: float = 0.45
    """Autocorrelation. Noise: up to 0.38; tachycardia, flutter and weak leads with so little contrast: from 0.65."""


LIMITS = Limits()


def judge(windows: Float, fs: float, calibrated: Bool) -> Bool:
    """Which of FLAGS each lead of each window has; non_finite is left to whoever filled the gaps.

    windows: (windows, leads, samples), finite, in millivolts where calibrated (leads,), 80 Hz or more; a second or
    longer. Returns (windows, leads, len(FLAGS)) bool. Of a lead that is not calibrated the amplitude is not judged.
    """
    rows = np.ascontiguousarray(windows).reshape(-1, windows.shape[-1])
    it = measure(rows, fs)
    flat = it.longest_same >= LIMITS.flat
    railed = (it.longest_rail >= LIMITS.rail) | (it.touches >= LIMITS.rail_touches)
    spiked = (it.highest >= LIMITS.spike) & (it.highest >= LIMITS.spike * it.typical)
    odd = (it.typical < LIMITS.lowest) | (it.typical > LIMITS.highest) | spiked
    flags = np.zeros((len(rows), len(FLAGS)), bool)
    flags[:, 1] = flat
    flags[:, 2] = railed & ~flat
    flags[:, 3] = odd & ~flat & np.tile(calibrated, len(windows))
    quiet = np.flatnonzero((it.contrast < LIMITS.contrast) & ~flat)
    if len(quiet):
        flags[quiet, 4] = _periodicity(rows[quiet], fs) < LIMITS.periodicity
    return flags.reshape(*windows.shape[:2], len(FLAGS))


class Measures(NamedTuple):
    """What the flags are decided on, for each row (a lead of a window)."""

    longest_same: Float
    """Seconds."""
    longest_rail: Float
    """Seconds at the maximum or the minimum."""
    touches: NDArray[np.int64]
    """Separate stretches at the maximum or the minimum, whichever has more."""
    typical: Float
    """Median over pieces of 2 s (a beat or more each) of the peak-to-peak."""
    highest: Float
    """Peak-to-peak of the widest of these pieces."""
    contrast: Float
    """98th percentile of the slope against its median; NaN for a flat row."""


def measure(rows: Float, fs: float) -> Measures:
    """rows: (rows, samples), finite."""
    n = rows.shape[1]
    pieces = max(1, round(n / (2 * fs)))
    edges = np.arange(pieces + 1) * n // pieces
    # slope: the mean of the next 20 ms less that of the last, every 10 ms; blind to 50 Hz, half blind to 60 Hz
    half, step = max(1, round(0.02 * fs)), max(1, round(0.01 * fs))
    touch = max(3, round(LIMITS.rail_touch * fs))
    slopes = np.empty((len(rows), 1 + max(0, n - 2 * half) // step))
    heights, runs = np.empty((len(rows), pieces)), np.empty((len(rows), 3), np.int64)
    _measure(rows, edges, half, step, LIMITS.same, touch, heights, runs, slopes)
    steep = np.abs(slopes)
    middle, top = (slopes.shape[1] - 1) // 2, round(0.98 * (slopes.shape[1] - 1))
    steep.partition((middle, top), axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):  # a flat line has no contrast: NaN, never below a limit
        contrast = steep[:, top] / steep[:, middle]
    heights.sort(axis=1)
    typical, highest = heights[:, pieces // 2], heights[:, -1]
    return Measures(runs[:, 0] / fs, runs[:, 1] / fs, runs[:, 2], typical, highest, contrast)


def _periodicity(rows: Float, fs: float) -> Float:
    """The highest autocorrelation of each row's movement at lags from 0.25 to 2 s: 240 to 30 beats a minute.

    rows: (rows, samples). Means of 20 ms and, twice, of 50 ms are taken first, in which 50 and 60 Hz vanish: a lead
    that picks up nothing but the mains would be the most periodic of all. Returns (rows,).
    """
    long = max(1, round(0.05 * fs))
    smooth = rows - rows[:, :1]
    for size in (max(1, round(0.02 * fs)), long):
        sums = np.cumsum(np.pad(smooth, ((0, 0), (1, 0))), axis=1)
        smooth = (sums[:, size:] - sums[:, :-size]) / size
    n = smooth.shape[1] // long
    moves = np.diff(smooth[:, : n * long].reshape(len(rows), n, long).mean(axis=2), axis=1)
    best = np.zeros(len(rows))
    for lag in range(round(0.25 * fs / long), min(round(2 * fs / long), n // 2) + 1):
        early, late = moves[:, :-lag], moves[:, lag:]
        norm = np.sqrt((early**2).sum(axis=1) * (late**2).sum(axis=1))
        np.maximum(best, (early * late).sum(axis=1) / np.maximum(norm, 1e-300), out=best)
    return best


@compiled
def _measure(rows, edges, half, step, same, touch, heights, runs, slopes):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    for row in range(rows.shape[0]):
        x = rows[row]
        top, bottom = x[0], x[0]
        for piece in range(heights.shape[1]):
            high, low = x[edges[piece]], x[edges[piece]]
            for i in range(edges[piece], edges[piece + 1]):
                high, low = max(high, x[i]), min(low, x[i])
            heights[row, piece] = high - low
            top, bottom = max(top, high), min(bottom, low)
        near = same * (top - bottom)
        at, length, longest, longest_rail = x[0], 0, 0, 0
        above, below, tops, bottoms = 0, 0, 0, 0
        for i in range(x.size):
            if abs(x[i] - at) <= near:
                length += 1
            else:
                at, length = x[i], 1
            longest = max(longest, length)
            above = above + 1 if x[i] >= top - near else 0
            below = below + 1 if x[i] <= bottom + near else 0
            tops += above == touch
            bottoms += below == touch
            longest_rail = max(longest_rail, above, below)
        runs[row, 0], runs[row, 1], runs[row, 2] = longest, longest_rail, max(tops, bottoms)
        for k in range(slopes.shape[1]):
            total = 0.0
            for i in range(k * step, k * step + half):
                total += x[i + half] - x[i]
            slopes[row, k] = total / half
