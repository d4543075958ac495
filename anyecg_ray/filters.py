"""ECGFounder's filters over many windows at once: the very numbers that scipy gives, three times as fast.

The band-pass is run in direct form, as the published code runs it: its rounding errors are part of what the weights
were tuned on (1e-6 of the signal; second-order sections, which are cleaner, miss the golden arrays by that much).
"""

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic
from numpy.typing import NDArray

from anyecg_ray.numba_jit import compiled

Float = NDArray[np.float64]

POLES = 8
"""The most a filter may have."""


class Coefficients(NamedTuple):
    """A filter as the recursion takes it: every array filled up with zeros to POLES."""

    b: Float
    a: Float
    settled: Float
    """State after an endless input of ones."""
    edge: int
    """Samples by which filtfilt continues the signal at both ends."""


@lru_cache(maxsize=64)
def notch(fs: float, hz: float, q: float) -> Coefficients:
    """Second-order notch. Raises ValueError where hz is not between 0 and fs / 2."""
    from scipy.signal import iirnotch

    return _coefficients(*iirnotch(hz, q, fs=fs))


@lru_cache(maxsize=64)
def band_pass(fs: float, low: float, high: float, order: int) -> Coefficients:
    """Butterworth band-pass with 2 × order poles. Raises ValueError where it has too many, or no band below fs / 2."""
    from scipy.signal import butter

    if 2 * order > POLES:
        raise ValueError(f"a band-pass of order {order}: {POLES // 2} is the highest")
    return _coefficients(*butter(order, [low, high], "bandpass", fs=fs))


def _coefficients(b: Float, a: Float) -> Coefficients:
    from scipy.signal import lfilter_zi  # half a second, which processes that never filter need not wait

    settled = lfilter_zi(b, a)
    b, edge = np.pad(b, (0, POLES + 1 - len(b))), 3 * len(a)
    a, settled = np.pad(a, (0, POLES + 1 - len(a))), np.pad(settled, (0, POLES - len(settled)))
    return Coefficients(b, a, settled, edge)


def zero_phase(x: Float, coefficients: Coefficients, out: Float | None = None) -> Float:
    """Forwards and backwards through a filter: scipy.signal.filtfilt, bit for bit.

    x: (..., samples), finite, longer than the filter's edge. Returns the same shape; in `out`, which may be x itself
    and must be contiguous, where it is given: fresh memory costs as much as the filter does.
    """
    out = np.empty(x.shape) if out is None else out
    _zero_phase(_rows(x), *coefficients, _rows(out))
    return out


def without_median(x: Float, size: int, out: Float | None = None) -> Float:
    """The signal less the median of the `size` (odd) samples around each one, zeros beyond the ends.

    What is taken off is scipy.signal.medfilt, bit for bit. x: (..., samples), finite. `out`: as in zero_phase.
    """
    out = np.empty(x.shape) if out is None else out
    _without_median(_rows(x), size, _rows(out))
    return out


def _rows(x: Float) -> Float:
    return np.ascontiguousarray(x).reshape(-1, x.shape[-1])


@compiled
def _zero_phase(x, b, a, settled, edge, out):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    n = x.shape[1]
    y = np.empty(n + 2 * edge)
    of_two = not (np.any(b[3:]) or np.any(a[3:]))
    for row in range(x.shape[0]):
        for i in range(edge):  # continued by its own point reflection
            y[i] = 2 * x[row, 0] - x[row, edge - i]
            y[edge + n + i] = 2 * x[row, n - 1] - x[row, n - 2 - i]
        y[edge : edge + n] = x[row]
        if of_two:
            _recursion_of_two(y, b, a, settled, 0, 1)
            _recursion_of_two(y, b, a, settled, y.size - 1, -1)
        else:
            _recursion(y, b, a, settled, 0, 1)
            _recursion(y, b, a, settled, y.size - 1, -1)
        out[row] = y[edge : edge + n]


@compiled
def _recursion(y, b, a, settled, first, step):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Transposed direct form II in place, from `first` on; written out so that the state stays in registers."""
    z0, z1, z2, z3, z4, z5, z6, z7 = (settled[0] * y[first], settled[1] * y[first], settled[2] * y[first],
                                      settled[3] * y[first], settled[4] * y[first], settled[5] * y[first],
                                      settled[6] * y[first], settled[7] * y[first])  # fmt: skip
    b0, b1, b2, b3, b4, b5, b6, b7, b8 = b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7], b[8]
    a1, a2, a3, a4, a5, a6, a7, a8 = a[1], a[2], a[3], a[4], a[5], a[6], a[7], a[8]
    i = first
    for _ in range(y.size):
        u = y[i]
        v = z0 + b0 * u
        z0 = z1 + u * b1 - v * a1
        z1 = z2 + u * b2 - v * a2
        z2 = z3 + u * b3 - v * a3
        z3 = z4 + u * b4 - v * a4
        z4 = z5 + u * b5 - v * a5
        z5 = z6 + u * b6 - v * a6
        z6 = z7 + u * b7 - v * a7
        z7 = u * b8 - v * a8
        y[i] = v
        i += step


@compiled
def _recursion_of_two(y, b, a, settled, first, step):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """The same for two poles: six states less, which are all zero."""
    z0, z1 = settled[0] * y[first], settled[1] * y[first]
    b0, b1, b2, a1, a2 = b[0], b[1], b[2], a[1], a[2]
    i = first
    for _ in range(y.size):
        u = y[i]
        v = z0 + b0 * u
        z0 = z1 + u * b1 - v * a1
        z1 = u * b2 - v * a2
        y[i] = v
        i += step


# The running median keeps a set of ranks: the bit r of `held` is up while the r-th smallest of all samples is among
# those around the present one. One sample leaves, one comes, and the median moves to the next bit up or down at most.


@compiled
def _without_median(x, size, out):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    half, n = size // 2, x.shape[1]
    padded = np.zeros(n + 2 * half)
    order, spare = np.empty((2, padded.size), np.uint64)
    rank = np.empty(padded.size, np.int32)
    one, ones = np.uint64(1), ~np.uint64(0)
    for row in range(x.shape[0]):
        padded[half : half + n] = x[row]
        _rank(padded, order, spare, rank)
        held = np.zeros((padded.size >> 6) + 1, np.uint64)
        for r in np.sort(rank[:size])[: half + 1]:
            median = r
        for r in rank[:size]:
            held[r >> 6] |= one << np.uint64(r & 63)
        out[row, 0] = padded[half] - padded[order[median] & PLACE]
        for i in range(1, n):
            gone, new = rank[i - 1], rank[i + size - 1]
            held[gone >> 6] &= ~(one << np.uint64(gone & 63))
            held[new >> 6] |= one << np.uint64(new & 63)
            if (gone <= median) & (new > median):  # not `and`: each branch here is a guess that costs
                word = (median + 1) >> 6
                bits = held[word] & (ones << np.uint64((median + 1) & 63))
                while bits == 0:
                    word += 1
                    bits = held[word]
                median = (word << 6) + 63 - _leading_zeros(bits & (~bits + one))  # type: ignore[call-arg]
            elif (gone >= median) & (new < median):
                word = (median - 1) >> 6
                bits = held[word] & (ones >> np.uint64(63 - ((median - 1) & 63)))
                while bits == 0:
                    word -= 1
                    bits = held[word]
                median = (word << 6) + 63 - _leading_zeros(bits)  # type: ignore[call-arg]
            out[row, i] = padded[half + i] - padded[order[median] & PLACE]


DIGIT = np.uint64(11)
"""Bits of a digit of the radix sort below: the counts of its values stay in the fastest cache."""

DIGITS = np.uint64(1 << 11)
"""Values of one."""

KEY = np.uint64(32)
"""Bits to the right of the key in what is sorted; they hold the place."""

PLACE = np.uint64((1 << 32) - 1)
"""These bits."""


@compiled
def _rank(x, order, spare, rank):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Fill `order` (places by value, in the bits of PLACE) and `rank` (its inverse): radix sort, then insertion.

    A key is how far a value lies from the least to the largest, in two digits. All numbers are unsigned: of an index
    that may be negative numba asks each time whether it is.
    """
    low, high = _least_and_most(x)
    scale = 0.0 if high == low else (2.0 ** (2 * DIGIT) - 1) / (high - low)
    one, last = np.uint64(1), DIGITS - np.uint64(1)
    starts, upper = np.zeros((2, DIGITS), np.uint64)
    for i in range(x.size):
        key = np.uint64((x[i] - low) * scale)
        order[i] = (key << KEY) | np.uint64(i)
        starts[key & last] += one
        upper[(key >> DIGIT) & last] += one
    first = second = np.uint64(0)
    for j in range(DIGITS):
        first, starts[j] = first + starts[j], first
        second, upper[j] = second + upper[j], second
    for i in range(x.size):
        entry = order[i]
        digit = (entry >> KEY) & last
        at = starts[digit]
        starts[digit] = at + one
        spare[at] = entry
    for i in range(x.size):
        entry = spare[i]
        digit = (entry >> (KEY + DIGIT)) & last
        at = upper[digit]
        upper[digit] = at + one
        order[at] = entry
    for i in range(1, x.size):  # insertion: only those of one key can be out of order
        entry, j = order[i], i
        while j > 0 and order[j - 1] >> KEY == entry >> KEY and x[order[j - 1] & PLACE] > x[entry & PLACE]:
            order[j] = order[j - 1]
            j -= 1
        order[j] = entry
    for i in range(x.size):
        rank[order[i] & PLACE] = i


@compiled
def _least_and_most(x):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Of at least one value, none NaN. Four at a time, so that a comparison need not wait for the one before."""
    low, high = np.full(4, x[0]), np.full(4, x[0])
    for i in range(0, x.size - 3, 4):
        for k in range(4):
            low[k] = x[i + k] if x[i + k] < low[k] else low[k]
            high[k] = x[i + k] if x[i + k] > high[k] else high[k]
    return min(low.min(), x[-3:].min()), max(high.max(), x[-3:].max())


@intrinsic  # type: ignore[untyped-decorator]
def _leading_zeros(typing: Any, bits: Any) -> Any:
    """Zeros above the highest bit of a uint64 that is not 0, as int64."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.ctlz(arguments[0], ir.Constant(ir.IntType(1), 1))

    return types.int64(types.uint64), code
