"""Samples that are not there: how much of a window may be missing, and what stands in for it.

Up to 0.2 s at a stretch, and 1 s of a window in all, is bridged by a straight line; a window that misses more is not
used. A QRS complex lasts 0.1 s and the filter's running median 0.4 s: a bridge of 0.2 s takes one beat at most out of
the ten or so, cannot pull the baseline, and makes no slope of its own. ECGFounder's own code puts zeros
instead, a step from the baseline to 0 and back that its filter turns into two beats. Where nothing is missing, the
two are the same.
"""

import numpy as np
from numpy.typing import NDArray

Float = NDArray[np.float64]
Bool = NDArray[np.bool_]

LARGEST = 1e12
"""Numbers from here on are no measurements: beyond what 32 bits can say, whatever the unit."""


def missing(signals: Float) -> Bool:
    """Which samples are not there: NaN, infinite, or larger than any converter's numbers. Any shape."""
    return ~((signals > -LARGEST) & (signals < LARGEST))


def too_many(absent: Bool, fs: float, max_gap: float, max_missing: float) -> Bool:
    """Which rows miss more than max_gap seconds at a stretch, or max_missing in all. (..., samples) -> (...)."""
    rows = absent.reshape(-1, absent.shape[-1])
    bad = rows.sum(axis=1) > max_missing * fs
    for i in np.flatnonzero(rows.any(axis=1) & ~bad):
        edges = np.flatnonzero(np.diff(rows[i], prepend=False, append=False))
        bad[i] = (edges[1::2] - edges[::2]).max() > max_gap * fs
    return bad.reshape(absent.shape[:-1])


def bridge(windows: Float, absent: Bool) -> Float:
    """A copy with straight lines over absent samples, the nearest value at the ends, 0 where there is nothing else.

    windows: (..., samples). absent: the same shape. Returns the same shape, finite.
    """
    out = windows.copy()
    rows, holes = out.reshape(-1, out.shape[-1]), absent.reshape(-1, out.shape[-1])
    places = np.arange(out.shape[-1])
    for i in np.flatnonzero(holes.any(axis=1)):
        row, hole = rows[i], holes[i]
        row[hole] = 0.0 if hole.all() else np.interp(places[hole], places[~hole], row[~hole])
    return out
