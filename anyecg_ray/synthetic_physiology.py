"""The patients of the synthetic archive: who they are, what their labs are, and what those do to lead II.

EFFECTS is the whole of what a lab does to the signal; a lab that is not in it has no effect of its own. Directions
are physiology's. Sizes are the source's where it gives one; else, and for potassium above all, they are ours and
larger than in patients, so that 300 encounters suffice to learn from. So a model that does well here has shown
that the program works, and nothing about patients.

Age and sex confound: they move both the prevalence of the conditions and the waveform itself.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from anyecg_ray.synthetic_beats import Morphology, Rhythm

Labs = Mapping[str, np.ndarray]
"""Analyte -> true value in the unit of analyte_table.py, a number or one a moment."""


class Effect(NamedTuple):
    """One lab's effect on one property of the heart: proportional to how far the value is beyond `start`."""

    lab: str
    side: Literal["above", "below"]
    start: float
    limit: float
    """No more effect beyond this value."""
    on: str
    """A field of Morphology, or `rate` (beats per minute)."""
    size: float
    """Per unit of the lab: a fraction of the field where `relative`, else an amount in its own unit."""
    relative: bool
    source: str


_K = "Surawicz, Am Heart J 1967;73:814 (sequence and direction); size ours"
_CA = "Surawicz, Am Heart J 1967;73:814; Rumancik et al., JAMA 1978;240:366 (ST, hence QT, inverse to Ca; T kept)"

EFFECTS: tuple[Effect, ...] = (
    Effect("potassium", "above", 4.7, 8.0, "t_mv", 0.55, True, _K),
    Effect("potassium", "above", 4.7, 8.0, "t_width", -0.13, True, _K),
    Effect("potassium", "above", 5.0, 8.0, "qrs_width", 0.10, True, _K),
    Effect("potassium", "above", 5.0, 8.0, "pr_s", 0.014, False, _K),
    Effect("potassium", "above", 5.0, 8.0, "p_mv", -0.20, True, _K),
    Effect("potassium", "below", 3.7, 2.0, "t_mv", -0.40, True, _K),
    Effect("potassium", "below", 3.7, 2.0, "u_mv", 0.07, False, _K),
    Effect("potassium", "below", 3.7, 2.0, "st_mv", -0.05, False, _K),
    Effect("calcium", "below", 9.1, 5.0, "qtc_s", 0.036, False, f"{_CA}; size ours"),
    Effect("calcium", "above", 9.7, 14.0, "qtc_s", -0.012, False, f"{_CA}; size ours"),
    Effect("hemoglobin", "below", 13.0, 5.0, "rate", 4.0, False, "Weiskopf et al., Transfusion 2003;43:235 (4.0/min)"),
    Effect("lactate", "above", 2.0, 8.0, "rate", 5.0, False, "sympathetic drive in shock; size ours"),
    Effect("wbc", "above", 11.0, 25.0, "rate", 1.0, False, "Bone et al., Chest 1992;101:1644 (SIRS); size ours"),
    Effect("tsh", "below", 0.5, 0.0, "rate", 45.0, False, "Klein and Danzi, Circulation 2007;116:1725; size ours"),
)


def excess(effect: Effect, value: np.ndarray) -> np.ndarray:
    """How far the value is beyond the effect's start, never negative, in the lab's unit."""
    sign = 1 if effect.side == "above" else -1
    beyond: np.ndarray = np.clip(sign * (value - effect.start), 0, sign * (effect.limit - effect.start))
    return beyond


def affected(heart: Morphology, labs: Labs) -> Morphology:
    """The heart under these labs: each field a number, or one a moment as the labs are."""
    fields = heart._asdict()
    for e in EFFECTS:
        if e.on in fields:
            change = e.size * excess(e, labs[e.lab])
            fields[e.on] = fields[e.on] * np.maximum(1 + change, 0.05) if e.relative else fields[e.on] + change
    return Morphology(**fields)


def heart_rate(resting: float, labs: Labs) -> np.ndarray:
    """Beats per minute under these labs."""
    added = sum(e.size * excess(e, labs[e.lab]) for e in EFFECTS if e.on == "rate")
    rate: np.ndarray = np.clip(resting + added, 40, 170)
    return rate


class Healthy(NamedTuple):
    """A lab's distribution without disease: mean (F, M) and deviation, of its logarithm where `log`."""

    mean_f: float
    mean_m: float
    deviation: float
    log: bool = False


HEALTHY = {
    "sodium": Healthy(139, 139, 2.5),
    "potassium": Healthy(4.1, 4.2, 0.30),
    "chloride": Healthy(103, 103, 2.5),
    "bicarbonate": Healthy(25, 25.5, 1.8),
    "glucose": Healthy(104, 106, 0.18, log=True),
    "urea_nitrogen": Healthy(13, 15, 0.28, log=True),
    "creatinine": Healthy(0.74, 0.94, 0.16, log=True),
    "calcium": Healthy(9.35, 9.4, 0.28),
    "magnesium": Healthy(2.0, 2.0, 0.17),
    "albumin": Healthy(4.1, 4.2, 0.28),
    "lactate": Healthy(1.2, 1.2, 0.28, log=True),
    "hemoglobin": Healthy(13.4, 15.0, 0.9),
    "wbc": Healthy(7.3, 7.3, 0.26, log=True),
    "platelets": Healthy(255, 235, 50),
    "troponin_hs": Healthy(4, 6, 0.6, log=True),
    "nt_probnp": Healthy(80, 60, 0.7, log=True),
    "tsh": Healthy(1.8, 1.8, 0.5, log=True),
}

CONTROLS = ("control_a", "control_b", "control_c")
"""Labs that neither depend on anything nor change anything: negative controls, abnormal in about 16% each way."""

PER_DECADE = {"nt_probnp": 0.35, "creatinine": 0.04, "urea_nitrogen": 0.08, "albumin": -0.05, "troponin_hs": 0.15}
"""Change of the healthy mean (of its logarithm) per decade of age beyond 53."""


class Condition(NamedTuple):
    """A disease: how common it is at 53 in women, how its log odds move, and the labs that it shifts."""

    prevalence: float
    per_decade: float
    male: float
    shifts: Mapping[str, float]
    """Lab -> shift of its value, or of its logarithm, at a severity of 1 (0.6 at the least, 1 on average)."""


CONDITIONS = {
    "renal failure": Condition(0.13, 0.30, 0.1, {
        "creatinine": 0.9, "urea_nitrogen": 0.8, "bicarbonate": -2.0, "potassium": 0.15, "hemoglobin": -0.8,
        "calcium": -0.1}),
    "hyperkalaemia": Condition(0.135, 0.12, 0.35, {"potassium": 1.9}),
    "hypokalaemia": Condition(0.12, 0.0, -0.3, {"potassium": -1.05, "magnesium": -0.2}),
    "hypocalcaemia": Condition(0.19, 0.12, -0.35, {"calcium": -1.9, "magnesium": -0.15, "albumin": -0.3}),
    "hypercalcaemia": Condition(0.05, 0.1, 0.0, {"calcium": 2.0}),
    "sepsis": Condition(0.12, 0.1, 0.0, {"lactate": 1.1, "wbc": 0.8, "bicarbonate": -3.0, "albumin": -0.5}),
    "anaemia": Condition(0.17, 0.15, -0.3, {"hemoglobin": -4.0}),
    "thyrotoxicosis": Condition(0.05, 0.0, -0.8, {"tsh": -4.0}),
    "hypothyroidism": Condition(0.06, 0.15, -0.8, {"tsh": 1.8}),
    "heart failure": Condition(0.10, 0.50, 0.2, {"nt_probnp": 3.0, "troponin_hs": 1.5}),
    "diabetes": Condition(0.15, 0.15, 0.1, {"glucose": 0.75}),
    "hyponatraemia": Condition(0.12, 0.15, 0.0, {"sodium": -8.0, "chloride": -7.0}),
}  # fmt: skip

RENAL_ODDS_OF_HYPERKALAEMIA = 1.0
"""Added to the log odds: kidneys that fail keep potassium, so creatinine can be estimated a little from the ECG."""

EXCLUSIVE = (
    ("hyperkalaemia", "hypokalaemia"),
    ("hypocalcaemia", "hypercalcaemia"),
    ("thyrotoxicosis", "hypothyroidism"),
)


@dataclass(frozen=True, slots=True)
class Course:
    """The true labs of one visit: from `arrival` they drift towards `rest` with a time constant."""

    arrival: Mapping[str, float]
    rest: Mapping[str, float]
    tau_h: float

    def at(self, hours: np.ndarray) -> dict[str, np.ndarray]:
        """Values at hours since arrival, each of the same shape."""
        left = np.exp(-np.asarray(hours, dtype=np.float64) / self.tau_h)
        return {lab: self.rest[lab] + (v - self.rest[lab]) * left for lab, v in self.arrival.items()}


def course(rng: np.random.Generator, age: float, male: bool) -> Course:
    """Labs of one visit, drawn by who comes and with what."""
    ill = _conditions(rng, age, male)
    arrival, rest = {}, {}
    for lab, h in HEALTHY.items():
        mean = h.mean_m if male else h.mean_f
        z = rng.normal(0, h.deviation) + PER_DECADE.get(lab, 0.0) * (age - 53) / 10
        shift = sum(severity * CONDITIONS[name].shifts.get(lab, 0.0) for name, severity in ill.items())
        rest[lab] = float(mean * np.exp(z) if h.log else mean + z)
        arrival[lab] = float(rest[lab] * np.exp(shift) if h.log else rest[lab] + shift)
    for lab in CONTROLS:
        arrival[lab] = rest[lab] = float(rng.normal(10, 2))
    return Course(arrival, rest, float(20 * np.exp(rng.normal(0, 0.3))))


def _conditions(rng: np.random.Generator, age: float, male: bool) -> dict[str, float]:
    """Condition -> severity."""
    ill: dict[str, float] = {}
    for name, c in CONDITIONS.items():
        log_odds = np.log(c.prevalence / (1 - c.prevalence)) + c.per_decade * (age - 53) / 10 + c.male * male
        if name == "hyperkalaemia" and "renal failure" in ill:
            log_odds += RENAL_ODDS_OF_HYPERKALAEMIA
        happens, severity = rng.random() < 1 / (1 + np.exp(-log_odds)), 0.6 + rng.gamma(2, 0.2)
        if happens and not any(name in pair and set(pair) & set(ill) for pair in EXCLUSIVE):
            ill[name] = float(severity)
    return ill


@dataclass(frozen=True, slots=True)
class Heart:
    """One person's heart without the effect of any lab."""

    morphology: Morphology
    rhythm: Rhythm
    rate: float
    """Beats per minute, at rest in an emergency department."""


def heart(rng: np.random.Generator, age: float, male: bool) -> Heart:
    """A person's own lead II.

    Women have a longer QT and lower T waves (Smetana and Malik, Pflügers Arch 2013;465:699). QRS amplitudes fall by
    6.5% a decade and those of T by 9.75% (Pipberger et al., Circulation 1967;35:536). The spread of people is ours.
    """
    decades = (age - 53) / 10
    p, q, r, s, t = np.exp(rng.normal(0, (0.30, 0.5, 0.28, 0.5, 0.20)))
    scale = float(np.exp(rng.normal(0, 0.2)))  # electrodes and chest scale everything alike
    morphology = Morphology(
        p_mv=0.12 * scale * p,
        pr_s=float(np.clip(0.158 + 0.004 * decades + rng.normal(0, 0.015), 0.11, 0.24)),
        q_mv=-0.06 * scale * q,
        r_mv=0.95 * scale * r * 0.935**decades,
        s_mv=-0.12 * scale * s,
        qrs_width=float(np.exp(rng.normal(0.04 * male, 0.08))),
        st_mv=rng.normal(0.015, 0.02),
        qtc_s=0.410 - 0.012 * male + 0.001 * decades + rng.normal(0, 0.011),
        t_mv=0.26 * scale * t * (1.12 if male else 0.9) * 0.9025**decades,
        t_width=float(np.exp(rng.normal(0, 0.07))),
        u_mv=abs(rng.normal(0.01, 0.01)),
    )
    return Heart(morphology, _rhythm(rng, age), float(rng.normal(80 - 1.0 * decades, 11)))


def _rhythm(rng: np.random.Generator, age: float) -> Rhythm:
    return Rhythm(
        hrv=0.05 * float(np.exp(rng.normal(0, 0.35))) * float(np.exp(-(age - 53) / 60)),
        lf_hf=float(np.exp(rng.normal(0, 0.6))),
        breaths_hz=float(rng.uniform(0.2, 0.36)),
        fibrillation=bool(rng.random() < 0.04 * np.exp((age - 70) / 12)),
        ectopic=float(rng.random() ** 6 * 0.06),
    )
