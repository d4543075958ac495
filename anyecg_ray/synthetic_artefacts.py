"""What a bedside monitor adds to a synthetic ECG: breathing, muscle, mains, movement, loose and lost electrodes.

Kinds and spectra follow the MIT-BIH Noise Stress Test Database (Moody et al., Comput Cardiol 1984;11:381: baseline
wander, muscle, electrode motion); how often and how strong they come is ours, chosen so that about nine windows of
10 s in ten show the heart. Nothing here depends on a lab.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy.signal import butter, lfilter

RAIL_MV = 5.11
"""The amplifier saturates here: 12 bits at 400 per mV."""

MAINS_HZ = 60.0
"""MC-MED was recorded in California."""


@dataclass(frozen=True, slots=True)
class Disturbance:
    """How disturbed one visit's recording is. Amplitudes in mV, events per hour of signal."""

    muscle_mv: float
    """Root mean square of the muscles at rest."""
    mains_mv: float
    wander_mv: float
    breaths_hz: float
    motion_per_h: float = 24.0
    """Patient moves: 2 to 15 s of a wild baseline and strong muscle noise."""
    loose_per_h: float = 5.0
    """Electrode comes off: 5 to 60 s of a flat line or a rail."""
    lost_per_h: float = 2.0
    """Connection lost for 0.2 to 8 s: samples marked invalid."""


def disturbance(rng: np.random.Generator, breaths_hz: float) -> Disturbance:
    """One visit's level: most recordings are fair, some poor."""
    muscle, mains, wander = np.exp(rng.normal(0, (0.5, 0.8, 0.4)))
    return Disturbance(0.013 * muscle, 0.004 * mains, 0.05 * wander, breaths_hz)


def disturb(rng: np.random.Generator, ecg: np.ndarray, how: Disturbance, fs: float) -> np.ndarray:
    """The ECG as a monitor records it: same shape (samples,), mV within the rails, NaN where it is lost."""
    n = len(ecg)
    muscle = how.muscle_mv * _envelope(rng, n, fs)
    out = ecg + _wander(rng, n, how, fs) + _mains(rng, n, how, fs)
    for at in _spans(rng, n, how.motion_per_h, (2, 15), fs):
        out[at] += _motion(rng, at.stop - at.start, fs)
        muscle[at] += rng.uniform(0.02, 0.15) * np.hanning(at.stop - at.start)
    out += muscle * _muscle(rng, n, fs)
    for at in _spans(rng, n, how.loose_per_h, (5, 60), fs):
        out[at] = _loose(rng, at.stop - at.start, how, fs)
    out = np.clip(out, -RAIL_MV, RAIL_MV)
    for at in _spans(rng, n, how.lost_per_h, (0.2, 8), fs):
        out[at] = np.nan
    return out


def _spans(rng: np.random.Generator, n: int, per_hour: float, seconds: tuple[float, float], fs: float) -> list[slice]:
    """Events at random places, their lengths log-uniform within `seconds`."""
    count = rng.poisson(per_hour * n / fs / 3600)
    start = np.sort(rng.integers(0, n, count))
    length = np.exp(rng.uniform(math.log(seconds[0]), math.log(seconds[1]), count)) * fs
    return [slice(int(s), min(n, int(s + d) + 1)) for s, d in zip(start, length, strict=True)]


def _slow(rng: np.random.Generator, n: int, fs: float, seconds: float) -> np.ndarray:
    """(n,) of about unit variance that changes over `seconds`: cubic steps between random knots."""
    step = max(2, int(seconds * fs))
    knots = rng.standard_normal(n // step + 2)
    x = np.arange(n) / step
    k = x.astype(np.int64)
    u = x - k
    u = u * u * (3 - 2 * u)
    out: np.ndarray = knots[k] + (knots[k + 1] - knots[k]) * u
    return out


def _envelope(rng: np.random.Generator, n: int, fs: float) -> np.ndarray:
    out: np.ndarray = np.exp(0.4 * _slow(rng, n, fs, 8))
    return out


def _wander(rng: np.random.Generator, n: int, how: Disturbance, fs: float) -> np.ndarray:
    """Breathing, not quite regular, and a slower drift of the electrodes' potential."""
    turn = 2 * np.pi * (how.breaths_hz * np.arange(n) / fs + 0.25 * _slow(rng, n, fs, 10) + rng.random())
    return how.wander_mv * (np.sin(turn) * (1 + 0.3 * _slow(rng, n, fs, 20)) + 1.2 * _slow(rng, n, fs, 12))


def _mains(rng: np.random.Generator, n: int, how: Disturbance, fs: float) -> np.ndarray:
    turn = 2 * np.pi * (MAINS_HZ * np.arange(n) / fs + rng.random())
    return how.mains_mv * _envelope(rng, n, fs) * np.sin(turn)


def _muscle(rng: np.random.Generator, n: int, fs: float) -> np.ndarray:
    """Noise of 15 to 120 Hz and unit variance."""
    b, a, gain = _band(fs)
    out: np.ndarray = lfilter(b, a, rng.standard_normal(n)) * gain
    return out


@lru_cache(4)
def _band(fs: float) -> tuple[np.ndarray, np.ndarray, float]:
    b, a = butter(1, (15, 120), "bandpass", fs=fs)
    impulse = lfilter(b, a, np.eye(1, 4096)[0])
    return b, a, float(1 / np.sqrt(np.sum(impulse**2)))


def _motion(rng: np.random.Generator, n: int, fs: float) -> np.ndarray:
    """Electrode motion: swings of 0.3 to 1 s under a window, now and then a step that the amplifier lets decay."""
    size = float(np.exp(rng.uniform(np.log(0.15), np.log(1.5))))
    swings = size * np.hanning(n) * _slow(rng, n, fs, rng.uniform(0.15, 0.5))
    if rng.random() < 0.4:
        jump = int(rng.integers(0, n))
        swings[jump:] += rng.normal(0, size) * np.exp(-np.arange(n - jump) / fs / 0.8)
    return swings


def _flat(rng: np.random.Generator, n: int, how: Disturbance, fs: float) -> np.ndarray:
    return np.full(n, rng.normal(0, 0.02))


def _humming(rng: np.random.Generator, n: int, how: Disturbance, fs: float) -> np.ndarray:
    return 4 * _mains(rng, n, how, fs) + 0.004 * rng.standard_normal(n)


def _railed(rng: np.random.Generator, n: int, how: Disturbance, fs: float) -> np.ndarray:
    """Drifts to a rail within a second or two, and stays."""
    return rng.choice((-1, 1)) * 2 * RAIL_MV * (1 - np.exp(-np.arange(n) / fs / rng.uniform(0.2, 1)))


_LOOSE: tuple[Callable[[np.random.Generator, int, Disturbance, float], np.ndarray], ...] = (_flat, _humming, _railed)


def _loose(rng: np.random.Generator, n: int, how: Disturbance, fs: float) -> np.ndarray:
    return _LOOSE[int(rng.integers(len(_LOOSE)))](rng, n, how, fs)
