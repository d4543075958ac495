"""A synthetic lead II, beat by beat: a sum of Gaussians after McSharry et al. 2003, in closed form.

McSharry PE, Clifford GD, Tarassenko L, Smith LA. A dynamical model for generating synthetic electrocardiogram
signals. IEEE Trans Biomed Eng 2003;50:289. Three things differ from it, each for a reason:

- The waves are summed, not integrated from the differential equation: the same shape, some thousand times faster.
- They lie at times, not at angles, from the R peak, because what labs move (PR, QRS, QT) is measured in time. QT
  follows the rate by Fridericia's cube root of an RR that is averaged over the last beats, as QT lags behind it.
- T has two widths, left and right, because a normal T rises slowly and falls fast. ST and U waves are added.

Beats come from integral pulse frequency modulation: one falls wherever the integral of the heart rate passes the
next threshold. Thresholds 1 apart give sinus rhythm, random ones atrial fibrillation, a near one an ectopic beat.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from scipy.signal import lfilter

Floats = Any  # numpy and its scalars alike
"""One number a beat, float64 (beats,), or a plain float for all of them."""

RATE_HZ = 4.0
"""Samples per second of the heart-rate series: holds breathing up to 2 Hz."""

QT_MEMORY_BEATS = 20
"""QT follows the mean RR of about so many beats back (hysteresis of about 20 s; in patients 1 to 2 minutes)."""


class Morphology(NamedTuple):
    """What lead II shows of a heart. Amplitudes in mV, times in s, widths as multiples of the usual."""

    p_mv: Floats
    pr_s: Floats
    """Onset of P to onset of QRS."""
    q_mv: Floats
    r_mv: Floats
    s_mv: Floats
    qrs_width: Floats
    st_mv: Floats
    """Level of the ST segment."""
    qtc_s: Floats
    """Onset of QRS to end of T, at a heart rate of 60/min."""
    t_mv: Floats
    t_width: Floats
    u_mv: Floats


@dataclass(frozen=True, slots=True)
class Rhythm:
    """How a heart keeps time."""

    hrv: float
    """Standard deviation of the rate around its course, as a fraction."""
    lf_hf: float
    """Power of the 0.1 Hz waves over that of breathing (Task Force 1996)."""
    breaths_hz: float
    fibrillation: bool
    ectopic: float
    """Share of beats that are ventricular and premature."""


class Beats(NamedTuple):
    """Beats of one segment, and a few before and after it: each (beats,)."""

    time: np.ndarray
    """Of the R peak, seconds from the segment's first sample."""
    rr: np.ndarray
    """Seconds since the beat before."""
    ectopic: np.ndarray
    """bool."""


MARGIN_S = 2.0
"""Beats this far outside a segment still reach into it."""


def beats(rng: np.random.Generator, seconds: float, rate: tuple[float, float], rhythm: Rhythm) -> Beats:
    """The beats of a segment whose heart rate goes from `rate[0]` to `rate[1]`, per minute."""
    span = seconds + 2 * MARGIN_S
    t = np.arange(0, span + 1, 1 / RATE_HZ)
    swing = 0.0 if rhythm.fibrillation else rhythm.hrv * _swing(rng, len(t), rhythm)
    rate_hz = np.interp(t, [0, span], rate) / 60 * np.clip(1 + swing, 0.5, 1.6)
    phase = np.concatenate([[0.0], np.cumsum(rate_hz[:-1] / RATE_HZ)])
    count = int(phase[-1]) + 2
    ectopic = rng.random(count) < rhythm.ectopic
    step = rng.gamma(25, 1 / 25, count) if rhythm.fibrillation else np.ones(count)
    step[ectopic] *= 0.62
    step[1:][ectopic[:-1]] *= 1.38  # the pause after it
    threshold = np.cumsum(step) - rng.random()
    inside = (threshold > 0) & (threshold < phase[-1])
    time = np.interp(threshold[inside], phase, t) - MARGIN_S
    return Beats(time, np.diff(time, prepend=2 * time[0] - time[1]), ectopic[inside])


def _swing(rng: np.random.Generator, n: int, rhythm: Rhythm) -> np.ndarray:
    """Heart-rate variability, (n,) of unit variance: McSharry's spectrum of two Gaussians, and a slow third."""
    f = np.fft.rfftfreq(n, 1 / RATE_HZ)
    lf = rhythm.lf_hf / (1 + rhythm.lf_hf)
    power = lf * _bell(f, 0.1, 0.012) + (1 - lf) * _bell(f, rhythm.breaths_hz, 0.02) + 0.4 * _bell(f, 0.015, 0.01)
    series = np.fft.irfft(np.sqrt(power) * np.exp(2j * np.pi * rng.random(len(f))), n)
    return series / max(float(series.std()), 1e-9)


def _bell(x: np.ndarray, centre: float, width: float) -> np.ndarray:
    out: np.ndarray = np.exp(-0.5 * ((x - centre) / width) ** 2) / width
    return out


def fibrillation(rng: np.random.Generator, samples: int, fs: float) -> np.ndarray:
    """What a fibrillating atrium shows in place of P waves: 5 to 7 Hz, irregular, (samples,) mV."""
    t = np.arange(0, samples / fs + 1, 1 / RATE_HZ)
    turns = np.cumsum(6 + 0.9 * rng.standard_normal(len(t))) / RATE_HZ
    size = 0.035 * np.exp(0.4 * rng.standard_normal(len(t)))
    at = np.arange(samples) / fs
    return np.interp(at, t, size) * np.sin(2 * np.pi * np.interp(at, t, turns))


def breathing(heart: Morphology, time: np.ndarray, breaths_hz: float) -> Morphology:
    """The same heart, its QRS taller and smaller by 6% as the chest moves. time: of the beats, (beats,) s."""
    scale = 1 + 0.06 * np.sin(2 * np.pi * breaths_hz * time)
    return heart._replace(q_mv=heart.q_mv * scale, r_mv=heart.r_mv * scale, s_mv=heart.s_mv * scale)


def with_ectopics(heart: Morphology, ectopic: np.ndarray) -> Morphology:
    """The same heart, its ectopic beats wide, without P, and with a T against the QRS."""
    if not ectopic.any():
        return heart
    r, t = np.asarray(heart.r_mv), np.asarray(heart.t_mv)
    return heart._replace(
        p_mv=np.where(ectopic, 0.0, heart.p_mv),
        q_mv=np.where(ectopic, 0.0, heart.q_mv),
        r_mv=np.where(ectopic, 1.3 * r, r),
        s_mv=np.where(ectopic, -0.45 * r, heart.s_mv),
        qrs_width=np.where(ectopic, 2.1 * np.asarray(heart.qrs_width), heart.qrs_width),
        t_mv=np.where(ectopic, -0.35 * r, t),
        t_width=np.where(ectopic, 1.25 * np.asarray(heart.t_width), heart.t_width),
    )


class _Wave(NamedTuple):
    """A Gaussian with two flanks: centre in s from the R peak, height in mV, widths in s."""

    centre: Floats
    height: Floats
    left: Floats
    right: Floats


def _waves(heart: Morphology, rr: np.ndarray) -> list[_Wave]:
    w, onset = heart.qrs_width, -0.042 * heart.qrs_width
    p = 0.021
    t_left, t_right = 0.058 * heart.t_width, 0.036 * heart.t_width
    t_end = onset + heart.qtc_s * _lagged(rr) ** (1 / 3)
    t_peak = t_end - 2.2 * t_right
    st = (0.055 * w + t_peak) / 2
    return [
        _Wave(onset - heart.pr_s + 2.3 * p, heart.p_mv, p, 0.9 * p),
        _Wave(-0.024 * w, heart.q_mv, 0.0075 * w, 0.0075 * w),
        _Wave(0.0 * w, heart.r_mv, 0.0105 * w, 0.0105 * w),
        _Wave(0.025 * w, heart.s_mv, 0.0085 * w, 0.011 * w),
        _Wave(st, heart.st_mv, (t_peak - 0.055 * w) / 3, (t_peak - 0.055 * w) / 3),
        _Wave(t_peak, heart.t_mv, t_left, t_right),
        _Wave(t_end + 0.055, heart.u_mv, 0.028, 0.032),
    ]


def _lagged(rr: np.ndarray) -> np.ndarray:
    """RR that QT answers to: an exponential mean of the last beats, limited to rates of 35 to 190 per minute."""
    keep = 1 - 1 / QT_MEMORY_BEATS
    start = float(np.median(rr))
    mean: np.ndarray = lfilter([1 - keep], [1, -keep], rr, zi=[keep * start])[0]
    return np.clip(mean, 60 / 190, 60 / 35)


def draw(found: Beats, heart: Morphology, samples: int, fs: float) -> np.ndarray:
    """The ECG: (samples,) float64, mV, without any disturbance. heart: floats, or one number a beat."""
    margin = int(MARGIN_S * fs)
    out = np.zeros(samples + 2 * margin)
    for wave in _waves(heart, found.rr):
        centre, height, left, right = (np.broadcast_to(v, found.time.shape) for v in wave)
        _add(out, (found.time + centre) * fs + margin, height, left * fs, right * fs)
    return out[margin : margin + samples]


def _add(out: np.ndarray, centre: np.ndarray, height: np.ndarray, left: np.ndarray, right: np.ndarray) -> None:
    """Add one Gaussian a beat to `out`; everything in samples and mV. Only ±4 widths are evaluated."""
    before, after = int(4 * left.max()) + 1, int(4 * right.max()) + 1
    first = np.floor(centre).astype(np.int64)
    at = first[:, None] + np.arange(-before, after + 1)
    x = at - centre[:, None]
    x /= np.where(x < 0, left[:, None], right[:, None])
    value = height[:, None] * np.exp(-0.5 * x * x)
    inside = (at >= 0) & (at < len(out))
    np.add.at(out, at[inside], value[inside])
