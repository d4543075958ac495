"""Artificial ECG-like windows, to calibrate int8 and to compare a backend with float32.

No record is at hand where a model is loaded, and the same windows must come on every machine.
"""

from typing import NamedTuple

import numpy as np


class Drawn(NamedTuple):
    """How many windows, and what they are drawn from."""

    n: int
    seed: int


def pulses(drawn: Drawn, leads: int, samples: int) -> np.ndarray:
    """Normalised windows at a heart's rhythm and of random heights, (n, leads, samples) float32."""
    n, rng = drawn.n, np.random.default_rng(drawn.seed)
    phase = np.linspace(0, 10, samples, endpoint=False) * rng.uniform(0.8, 2, (n, 1)) % 1
    x = rng.normal(0, 0.02, (n, leads, samples))
    for height, at, width in ((0.12, 0.18, 0.025), (-0.1, 0.285, 0.01), (1, 0.31, 0.011), (0.3, 0.55, 0.04)):
        x += height * rng.normal(1, 0.5, (n, leads, 1)) * np.exp(-(((phase - at) / width) ** 2) / 2)[:, None]
    x -= x.mean(axis=(1, 2), keepdims=True)
    out: np.ndarray = x / x.std(axis=(1, 2), keepdims=True)
    return out.astype(np.float32)
