"""Change the sampling rate of windows without aliasing.

A polyphase filter (Kaiser β 5, ten periods of the slower rate each way, as in scipy.signal.resample_poly), every
phase of which is brought to gain 1, so that a constant stays that constant.
"""

from fractions import Fraction
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Float = NDArray[np.float64]

FINEST = 10_000
"""Largest denominator of the ratio of two rates: at most 5e-5 off, a quarter of a sample in ten seconds at 500 Hz."""


def resample(x: Float, fs: float, target: float, samples: int) -> Float:
    """Bring windows from fs to target, both in Hz; the first sample stays where it is.

    x: (..., any), finite, at least one sample. Returns (..., samples): where the last input sample ends before the
    window does (3,333 samples at 333.33 Hz), its value is held.
    """
    up, down = ratio(fs, target)
    if up != down:
        from scipy.signal import resample_poly  # half a second, which processes that never resample need not wait

        # beyond its ends a window goes on as the line from its first to its last sample: no step, whatever its offset
        x = resample_poly(x, up, down, axis=-1, window=_taps(up, down), padtype="line")
    short = samples - x.shape[-1]
    return np.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, short)], mode="edge") if short > 0 else x[..., :samples]


def ratio(fs: float, target: float) -> tuple[int, int]:
    """(up, down): target / fs as a fraction of whole numbers."""
    fraction = (Fraction(target) / Fraction(fs)).limit_denominator(FINEST)
    return fraction.numerator, fraction.denominator


@lru_cache(maxsize=16)
def _taps(up: int, down: int) -> Float:
    """The anti-aliasing low-pass at up times the rate; each of its `up` phases sums to 1 / up."""
    from scipy.signal import firwin

    widest = max(up, down)
    taps = firwin(20 * widest + 1, 1 / widest, window=("kaiser", 5.0))
    phases = np.pad(taps, (0, -len(taps) % up)).reshape(-1, up)
    phases /= phases.sum(axis=0) * up
    return phases.reshape(-1)[: len(taps)]
