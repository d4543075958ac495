"""Which signals of a record are the leads a model reads: by name, else derived from other limb leads.

Places are never trusted (MIMIC-IV-ECG has aVF before aVL). The six limb leads are three electrodes seen six ways, so
that any two of them give the other four exactly; nothing gives a chest lead but its own electrode.
"""

import re
import unicodedata
from collections.abc import Sequence
from fractions import Fraction
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from anyecg_ray.header import RecordError
from anyecg_ray.schema import Status

TWELVE_LEADS = ("I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6")
"""In the order that ECGFounder reads them."""

_HALF = Fraction(1, 2)
LIMB = {
    "I": (Fraction(1), Fraction(0)),
    "II": (Fraction(0), Fraction(1)),
    "III": (Fraction(-1), Fraction(1)),
    "aVR": (-_HALF, -_HALF),
    "aVL": (Fraction(1), -_HALF),
    "aVF": (-_HALF, Fraction(1)),
}
"""Each limb lead as parts of I and II (Einthoven's and Goldberger's equations)."""

_NAMES = {lead.casefold(): lead for lead in TWELVE_LEADS} | {
    # limb electrodes on the torso, as in Holters and MIT-BIH: the same axes
    **{"mli": "I", "mlii": "II", "mliii": "III", "ml1": "I", "ml2": "II", "ml3": "III"},
    # derivação and dérivation
    **{"di": "I", "dii": "II", "diii": "III", "d1": "I", "d2": "II", "d3": "III"},
}
# Left out on purpose: MCL1 (another negative electrode than V1), VR, VL and VF (not augmented: two thirds as high),
# C1 to C6 (EEG has a C3 and a C4), V and ECG (a monitor's, of unknown place), and plain numbers.

_DECORATION = {"lead", "ecg", "ekg", "mdc", "einthoven", "goldberger", "wilson", ""}
_MINUS = ("-", "−")

_VOLTS = {"v": 1e3, "mv": 1.0, "uv": 1e-3, "nv": 1e-6}
_VOLTS |= {f"{prefix}volt{s}": _VOLTS[short] for s in ("", "s") for prefix, short in
           (("", "v"), ("milli", "mv"), ("micro", "uv"), ("nano", "nv"))}  # fmt: skip


class Mix(NamedTuple):
    """How to make some leads from the signals of a record."""

    parts: tuple[tuple[tuple[int, float], ...], ...]
    """For each lead: (signal, millivolts per unit of it)."""
    calibrated: tuple[bool, ...]
    """For each lead: False where it is not known what its numbers are in millivolts."""


def canonical(name: str) -> str | None:
    """The name among TWELVE_LEADS that a signal's name stands for; None where it is another signal or inverted."""
    text = unicodedata.normalize("NFKC", name).casefold().strip()
    if text.startswith(_MINUS) or text.endswith(_MINUS):  # "-aVR" is aVR upside down
        return None
    left = [word for word in re.split(r"[\s_:,()-]+", text) if word not in _DECORATION]
    return _NAMES.get(left[0]) if len(left) == 1 else None


def millivolts(units: str) -> float | None:
    """Millivolts that one of these units is; None where they are no volts. "MV" is taken for mV: a heart has none."""
    text = unicodedata.normalize("NFKC", units).casefold().strip()
    return _VOLTS.get(text.replace("μ", "u"))


@lru_cache(maxsize=4096)
def find(leads: tuple[str, ...], units: tuple[str, ...], calibrated: tuple[bool, ...], wanted: tuple[str, ...]) -> Mix:
    """How to make the wanted leads (of TWELVE_LEADS) from signals of these names, units and calibration.

    A lead's own signal is taken wherever there is one, calibrated or not; others are derived from calibrated ones.
    Of two signals for one lead the one with the lead's very name is taken, then the first.
    Raises RecordError (missing_lead) for a lead that is not there and cannot be derived.
    """
    own: dict[str, int] = {}
    for plain in (True, False):
        for i, name in enumerate(leads):
            lead = canonical(name)
            if lead and (name.strip().casefold() == lead.casefold()) == plain:
                own.setdefault(lead, i)
    scales = [millivolts(u) if c else None for u, c in zip(units, calibrated, strict=True)]
    limbs = [lead for lead in LIMB if lead in own and scales[own[lead]] is not None]
    parts: list[tuple[tuple[int, float], ...]] = []
    known: list[bool] = []
    for lead in wanted:
        if lead in own:
            scale = scales[own[lead]]
            parts.append(((own[lead], 1.0 if scale is None else scale),))
            known.append(scale is not None)
        elif lead in LIMB and len(limbs) >= 2:
            weights = zip(limbs, _derive(lead, limbs[0], limbs[1]), strict=False)
            parts.append(tuple((own[name], w * (scales[own[name]] or 0.0)) for name, w in weights if w))
            known.append(True)
        else:
            has = ", ".join(leads) or "nothing"
            raise RecordError(Status.MISSING_LEAD, f"no lead {lead}, nor two limb leads in volts; there is {has}"[:300])
    return Mix(tuple(parts), tuple(known))


@lru_cache(maxsize=4096)
def sufficient(leads: tuple[str, ...], wanted: tuple[str, ...]) -> tuple[int, ...] | None:
    """Places of the signals that bear the wanted leads' names; None, for all, where one of them must be derived.

    To decode one lead of twelve is four times as fast as to decode them all.
    """
    names = [canonical(name) for name in leads]
    if not set(wanted) <= set(names):
        return None
    return tuple(i for i, name in enumerate(names) if name in wanted)


def _derive(lead: str, p: str, q: str) -> tuple[float, float]:
    """Parts of two limb leads that make a third: Cramer's rule in the plane of I and II."""
    (t0, t1), (p0, p1), (q0, q1) = LIMB[lead], LIMB[p], LIMB[q]
    det = p0 * q1 - p1 * q0
    return float((t0 * q1 - t1 * q0) / det), float((p0 * t1 - p1 * t0) / det)


def mix(signals: NDArray[np.float64], how: Mix) -> NDArray[np.float64]:
    """(leads, samples) float64 from the signals of a record, (signals, samples): millivolts where calibrated.

    Where the leads are signals as they stand, which follow each other, it is these very signals, and no copy.
    """
    places = [parts[0][0] for parts in how.parts if len(parts) == 1 and parts[0][1] == 1.0]
    if len(places) == len(how.parts) and places == list(range(places[0], places[0] + len(places))):
        return signals[places[0] : places[-1] + 1]
    out = np.empty((len(how.parts), signals.shape[1]))
    for row, parts in zip(out, how.parts, strict=True):
        (first, weight), *others = parts
        np.multiply(signals[first], weight, out=row)
        for i, weight in others:
            row += weight * signals[i]
    return out


def known(leads: Sequence[str]) -> tuple[str, ...]:
    """The leads under their names in TWELVE_LEADS. Raises ValueError for none, a stranger, or one named twice."""
    found = [canonical(lead) for lead in leads]
    for lead, name in zip(leads, found, strict=True):
        if name is None:
            raise ValueError(f"no lead is called {lead!r}; there are {', '.join(TWELVE_LEADS)}")
    names = tuple(name for name in found if name)
    if not names or len(set(names)) < len(names):
        raise ValueError(f"{', '.join(leads) or '(none)'}: name each lead once, and one at least")
    return names
