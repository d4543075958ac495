"""Rate, PR, QRS, QT, T amplitude and a few more, as one would measure them with a ruler on the averaged beat.

They feed the hand-crafted baseline of the evaluation, nothing else; no estimate depends on them. What cannot be
found (a P wave in fibrillation) is NaN, which trees take as it is. Averaging the beats first takes the place of the
cleverness that single noisy beats would need. Heights are in units of the window's own deviation: windows come
z-scored, so millivolts are gone; ratios between waves remain.
"""

from typing import NamedTuple

import numpy as np
from scipy.ndimage import uniform_filter1d
from scipy.signal import butter, find_peaks, sosfiltfilt

BEFORE_S, AFTER_S = 0.36, 0.64
"""The averaged beat reaches so far around the R peak."""


class Intervals(NamedTuple):
    """One window's measurements; times in milliseconds, heights in the window's standard deviations."""

    rate: float = np.nan
    """Beats a minute, from the median RR."""
    rr_spread: float = np.nan
    """Root mean square of successive RR differences over the median RR: irregularity, without a unit."""
    pr: float = np.nan
    qrs: float = np.nan
    qt: float = np.nan
    qtc: float = np.nan
    """Fridericia: QT / (RR in s)^(1/3)."""
    p_height: float = np.nan
    r_height: float = np.nan
    s_height: float = np.nan
    st_level: float = np.nan
    """60 ms after the end of QRS."""
    t_height: float = np.nan
    """Signed: negative for an inverted T."""
    t_over_r: float = np.nan
    t_width: float = np.nan
    """At half its height."""
    t_symmetry: float = np.nan
    """Flank before over flank after the peak, at half its height."""


class Marks(NamedTuple):
    """Samples of the averaged beat: onset and end of QRS, and the level between P and QRS."""

    onset: int
    end: int
    level: float


NAMES = Intervals._fields


def measure(windows: np.ndarray, fs: float) -> np.ndarray:
    """(windows, samples) of one lead, filtered, any scale. Returns (windows, len(NAMES)) float32."""
    out = np.full((len(windows), len(NAMES)), np.nan, np.float32)
    if not len(windows):
        return out
    steep = _steepness(windows, fs)
    for row, (x, s) in enumerate(zip(windows, steep, strict=True)):
        out[row] = _measure(np.asarray(x, np.float64), r_peaks(x, s, fs), fs)
    return out


def _steepness(windows: np.ndarray, fs: float) -> np.ndarray:
    """Size of what QRS is made of, 8 to 20 Hz, averaged over 80 ms: one hump a beat. Source: Elgendi 2013."""
    band = sosfiltfilt(butter(2, [8, 20], "bandpass", fs=fs, output="sos"), windows, axis=-1)
    return np.asarray(uniform_filter1d(np.abs(band), round(0.08 * fs), axis=-1))


def r_peaks(x: np.ndarray, steep: np.ndarray, fs: float) -> np.ndarray:
    """Samples of the R peaks (of the S, where a lead points down) in one window, (beats,) int."""
    # the median over pieces that hold a beat or two each: one artefact does not hide the beats
    usual = np.median([part.max() for part in np.array_split(steep, max(1, round(len(x) / fs / 1.5)))])
    humps, _ = find_peaks(steep, height=0.4 * usual, distance=round(0.27 * fs))
    reach = round(0.06 * fs)
    humps = humps[(humps >= reach) & (humps < len(x) - reach)]
    if len(humps) < 2:
        return np.asarray(humps)
    around = x[humps[:, None] + np.arange(-reach, reach + 1)]
    around = around - np.median(x)
    up = np.median(around.max(axis=1)) >= 0.7 * np.median(-around.min(axis=1))  # one polarity for the whole window
    return np.asarray(humps - reach + (around if up else -around).argmax(axis=1))


def _measure(x: np.ndarray, peaks: np.ndarray, fs: float) -> Intervals:
    if len(peaks) < 3:
        return Intervals()
    rr = np.diff(peaks) / fs
    usual = float(np.median(rr))
    found = Intervals(rate=60 / usual, rr_spread=float(np.sqrt(np.mean(np.diff(rr) ** 2)) / usual))
    beat = _averaged(x, peaks, fs)
    return found if beat is None else _on_beat(found, beat, usual, fs)


def _averaged(x: np.ndarray, peaks: np.ndarray, fs: float) -> np.ndarray | None:
    """The median beat, R at BEFORE_S; without the beats that look unlike it (ectopic, disturbed)."""
    before, after = round(BEFORE_S * fs), round(AFTER_S * fs)
    peaks = peaks[(peaks >= before) & (peaks + after < len(x))]
    if len(peaks) < 2:
        return None
    beats = x[peaks[:, None] + np.arange(-before, after)]
    beat = np.median(beats, axis=0)
    off = np.abs(beats - beat).mean(axis=1)
    return np.asarray(np.median(beats[off <= 2 * np.median(off) + 1e-9], axis=0))


def _on_beat(found: Intervals, beat: np.ndarray, rr: float, fs: float) -> Intervals:
    marks = _qrs(beat, fs)
    if marks is None:
        return found
    beat = beat - marks.level
    r = round(BEFORE_S * fs)
    inside = beat[marks.onset : marks.end + 1]
    j60 = min(marks.end + round(0.06 * fs), len(beat) - 1)
    found = found._replace(
        qrs=1000 * (marks.end - marks.onset) / fs,
        r_height=float(beat[r]),
        s_height=float(inside[r - marks.onset :].min()),
        st_level=float(beat[j60]),
    )
    found = _p_wave(found, beat, marks, rr, fs)
    return _t_wave(found, beat, marks, rr, fs)


def _qrs(beat: np.ndarray, fs: float) -> Marks | None:
    """Where the slope leaves and finds its rest: 8% of its maximum for 12 ms on end, up to 120 ms from R."""
    r, still, reach = round(BEFORE_S * fs), round(0.012 * fs), round(0.12 * fs)
    slope = np.abs(np.gradient(beat))
    near = slope[r - reach : r + reach]
    if not near.max() > 0:
        return None
    resting = slope < 0.08 * near.max()
    calm = np.convolve(resting, np.ones(still), "valid") == still  # calm[i]: resting from i for `still` samples
    before, after = np.flatnonzero(calm[: r - still]), r + np.flatnonzero(calm[r:])
    # the top of R is a rest too, a short one: begin beyond it
    after = after[after > r + round(0.01 * fs)]
    before = before[before < r - round(0.01 * fs) - still]
    if not len(before) or not len(after):
        return None
    onset, end = int(before[-1]) + still - 1, int(after[0])
    if onset < r - reach or end > r + 2 * reach:
        return None
    return Marks(onset, end, float(np.median(beat[max(0, onset - round(0.02 * fs)) : onset + 1])))


def _t_wave(found: Intervals, beat: np.ndarray, marks: Marks, rr: float, fs: float) -> Intervals:
    """T is the farthest from the level between 80 ms after QRS and the next P, or 70% of the way to the next R."""
    first = marks.end + round(0.08 * fs)
    next_p = rr * fs + marks.onset - (found.pr + 20) * fs / 1000
    last = min(len(beat), round((BEFORE_S + 0.7 * rr) * fs), int(next_p) if np.isfinite(next_p) else len(beat))
    if last - first < round(0.08 * fs):
        return found
    piece = beat[first:last]
    sign = 1.0 if piece.max() >= -piece.min() else -1.0
    peak = int((sign * piece).argmax())
    height = float(piece[peak])
    if peak in (0, len(piece) - 1) or abs(height) < 0.02 * np.ptp(beat):
        return found._replace(t_height=height)
    left, right = _flanks(sign * piece, peak)
    t_end = _tangent(sign * beat[:last], first + peak)
    qt = 1000 * (t_end - marks.onset) / fs
    return found._replace(
        t_height=height,
        t_over_r=height / max(abs(found.r_height), 1e-6),
        t_width=1000 * (left + right) / fs,
        t_symmetry=left / max(right, 1),
        qt=qt,
        qtc=qt / rr ** (1 / 3),
    )


def _flanks(wave: np.ndarray, peak: int) -> tuple[int, int]:
    """Samples from the peak to half its height, before and after; to the edge where it stays above."""
    low = wave < 0.5 * wave[peak]
    before, after = np.flatnonzero(low[:peak]), np.flatnonzero(low[peak:])
    return (peak - int(before[-1]) if len(before) else peak), (int(after[0]) if len(after) else len(wave) - peak)


def _tangent(wave: np.ndarray, peak: int) -> float:
    """End of a wave: its steepest descent, drawn on to the level (Lepeschkin and Surawicz 1952)."""
    slope = np.gradient(wave[peak:])
    steepest = int(slope.argmin())
    if slope[steepest] >= 0:
        return float(peak)
    return float(min(peak + steepest - max(wave[peak + steepest], 0) / slope[steepest], len(wave) - 1))


def _p_wave(found: Intervals, beat: np.ndarray, marks: Marks, rr: float, fs: float) -> Intervals:
    """P is the highest point before QRS, if it stands out from what surrounds it."""
    first = max(0, marks.onset - round(min(0.26, 0.4 * rr) * fs))
    last = marks.onset - round(0.03 * fs)
    piece = beat[first:last]
    if len(piece) < round(0.06 * fs):
        return found
    peak = int(piece.argmax())
    height = float(piece[peak] - np.quantile(piece, 0.1))
    if peak in (0, len(piece) - 1) or height < 0.02 * np.ptp(beat):
        return found._replace(p_height=max(height, 0.0))
    # the tangent rule mirrored: the onset is where the steepest ascent leaves the level
    floor = float(np.quantile(piece, 0.1))
    onset = len(piece) - 1 - _tangent(piece[::-1] - floor, len(piece) - 1 - peak)
    return found._replace(p_height=height, pr=1000 * (marks.onset - first - onset) / fs)
