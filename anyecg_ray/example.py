"""An ECG to try the endpoint with: thirty seconds of twelve leads of one made-up heart, of no patient.

The same beats are drawn with each lead's own wave heights; limb leads follow from I and II as they do in any machine.
In the last ten seconds the left leg's electrode is off, so that the example also shows what a bad window looks like.
"""

from functools import lru_cache

import numpy as np

from anyecg_ray.formats import checksum
from anyecg_ray.leads import LIMB, TWELVE_LEADS
from anyecg_ray.messages import Signals
from anyecg_ray.record import Record
from anyecg_ray.synthetic_beats import Morphology, Rhythm, beats, draw

FS, SECONDS, GAIN = 250.0, 30, 1000
"""Hz, seconds, and ADC units per millivolt."""

HEIGHTS = {
    "I": (0.08, -0.04, 0.60, -0.10, 0.01, 0.18),
    "II": (0.12, -0.06, 1.00, -0.14, 0.02, 0.28),
    "V1": (0.05, 0.0, 0.22, -0.95, 0.02, -0.05),
    "V2": (0.06, 0.0, 0.45, -1.35, 0.08, 0.45),
    "V3": (0.07, -0.02, 0.80, -0.90, 0.07, 0.50),
    "V4": (0.08, -0.05, 1.30, -0.50, 0.04, 0.42),
    "V5": (0.08, -0.07, 1.25, -0.25, 0.02, 0.34),
    "V6": (0.08, -0.07, 0.95, -0.12, 0.01, 0.26),
}
"""Millivolts of P, Q, R, S, ST and T in each lead that is drawn."""


@lru_cache(1)
def signals() -> np.ndarray:
    """(12, samples) float64 in millivolts, rounded to GAIN."""
    rng, n = np.random.default_rng(20), int(FS * SECONDS)
    found = beats(rng, SECONDS, (68, 74), Rhythm(0.03, 1.0, 0.25, False, 0.0))
    drawn = {lead: draw(found, _heart(*heights), n, FS) for lead, heights in HEIGHTS.items()}
    drawn |= {lead: a * drawn["I"] + b * drawn["II"] for lead, (a, b) in _parts().items()}
    time = np.arange(n) / FS
    out = np.array([drawn[lead] for lead in TWELVE_LEADS])
    out += 0.03 * np.sin(2 * np.pi * 0.25 * time) + rng.normal(0, 0.008, out.shape)
    off = time >= SECONDS - 10
    for lead in ("II", "III", "aVF"):  # those that are taken from the left leg, more than the rest
        out[TWELVE_LEADS.index(lead), off] = 0.0
    return np.round(out * GAIN) / GAIN


def _heart(p: float, q: float, r: float, s: float, st: float, t: float) -> Morphology:
    return Morphology(p, 0.16, q, r, s, 1.0, st, 0.41, t, 1.0, 0.01)


def _parts() -> dict[str, tuple[float, float]]:
    return {lead: (float(a), float(b)) for lead, (a, b) in LIMB.items() if lead not in HEIGHTS}


def record() -> Record:
    """It as a decoded record."""
    n = len(TWELVE_LEADS)
    return Record(signals(), TWELVE_LEADS, ("mV",) * n, (True,) * n, FS, None)


@lru_cache(1)
def as_json() -> bytes:
    """The body of a request to estimate from it."""
    body = Signals(signals=signals().tolist(), leads=list(TWELVE_LEADS), fs=FS, units="mV")
    return body.model_dump_json(exclude_none=True).encode()


@lru_cache(1)
def samples() -> bytes:
    """Its signal file, WFDB format 16."""
    return _adu().T.astype("<i2").tobytes()


@lru_cache(1)
def header() -> bytes:
    """Its WFDB header."""
    adu = _adu()
    lines = [f"example {len(adu)} {FS:g} {adu.shape[1]}"]
    for lead, row in zip(TWELVE_LEADS, adu, strict=True):
        lines.append(f"example.dat 16 {GAIN}/mV 16 0 {row[0]} {checksum(row)} 0 {lead}")
    return "\n".join([*lines, "# synthetic: of no patient", ""]).encode()


def _adu() -> np.ndarray:
    return np.rint(signals() * GAIN).astype(np.int64)
