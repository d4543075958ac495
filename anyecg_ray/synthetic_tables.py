"""MC-MED's tables of a synthetic visit: columns, spellings and traps as in the data set (docs/datasets.md).

Everything here is a text of a CSV cell in the end. What a patient has, synthetic_physiology.py knows; here it is
ordered, drawn, measured, rounded, flagged and written as a hospital does, which is why so little of it can be trusted.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import NamedTuple

import numpy as np

from anyecg_ray.synthetic_physiology import CONTROLS, Course

VISITS = (
    "MRN", "CSN", "Visit_no", "Visits", "Age", "Gender", "Race", "Ethnicity", "Means_of_arrival", "Triage_Temp",
    "Triage_HR", "Triage_RR", "Triage_SpO2", "Triage_SBP", "Triage_DBP", "Triage_acuity", "CC", "ED_dispo",
    "Hours_to_next_visit", "Dispo_class_next_visit", "ED_LOS", "Hosp_LOS", "DC_dispo", "Payor_class",
    "Admit_service", "Dx_ICD9", "Dx_ICD10", "Dx_name", "Arrival_time", "Roomed_time", "Dispo_time", "Admit_time",
    "Departure_time",
)  # fmt: skip
LABS = (
    "CSN", "Order_time", "Result_time", "Display_name", "Abnormal", "Component_name", "Component_result",
    "Component_value", "Component_units", "Component_abnormal", "Component_nml_low", "Component_nml_high",
)  # fmt: skip
SUMMARY = ("CSN", "Type", "Segments", "Duration")


class Component(NamedTuple):
    """One line of a panel. Limits in the unit; `F` and `M` limits where the sexes differ."""

    analyte: str
    name: str
    unit: str
    low: float | tuple[float, float] | None
    high: float | tuple[float, float] | None
    decimals: int
    error: float = 0.02
    """Analytical coefficient of variation."""
    critical: tuple[float, float] = (-np.inf, np.inf)
    reported: tuple[float, float] = (-np.inf, np.inf)
    """The instrument's range: beyond it the result is a bound, such as <2."""

    def limits(self, male: bool) -> tuple[float | None, float | None]:
        """The reference range for a man or a woman."""
        low, high = (v[male] if isinstance(v, tuple) else v for v in (self.low, self.high))
        return low, high


class Panel(NamedTuple):
    """What is ordered together: Display_name, its share of visits, turnaround in minutes, and the lines."""

    name: str
    share: float
    minutes: tuple[float, float]
    components: tuple[Component, ...]


_INF = float("inf")
_POTASSIUM = Component("potassium", "POTASSIUM", "mmol/L", 3.5, 5.1, 1, 0.015, (2.8, 6.2), (1.5, 10.0))
_BLOOD = (
    Component("wbc", "WBC", "K/uL", 4.0, 11.0, 1, 0.02, (1.0, 40.0)),
    Component("hemoglobin", "HEMOGLOBIN (HGB)", "g/dL", (11.7, 13.5), (15.7, 17.7), 1, 0.01, (7.0, 20.0)),
    Component("hematocrit", "HEMATOCRIT (HCT)", "%", (35.0, 40.0), (47.0, 52.0), 1, 0.012),
    Component("platelets", "PLATELET COUNT (PLT)", "K/uL", 150, 400, 0, 0.03, (20, 1000)),
)
_METABOLIC = (
    Component("sodium", "SODIUM", "mmol/L", 135, 145, 0, 0.006, (120, 160)),
    _POTASSIUM,
    Component("chloride", "CHLORIDE", "mmol/L", 98, 107, 0, 0.007),
    Component("bicarbonate", "CO2", "mmol/L", 22, 29, 0, 0.02, (10, 40)),
    Component("anion_gap", "ANION GAP", "mmol/L", 5, 15, 0, 0.0),
    Component("glucose", "GLUCOSE", "mg/dL", 70, 140, 0, 0.015, (40, 500)),
    Component("urea_nitrogen", "BLOOD UREA NITROGEN (BUN)", "mg/dL", 7, 25, 0, 0.02, (-_INF, 100), (2, _INF)),
    Component("creatinine", "CREATININE", "mg/dL", (0.5, 0.7), (1.1, 1.3), 2, 0.03),
    Component("egfr", "EGFR REFIT WITHOUT RACE (2021)", "mL/min/1.73 m2", 60, None, 0, 0.0),
    Component("calcium", "CALCIUM", "mg/dL", 8.5, 10.5, 1, 0.01, (6.5, 13.0)),
)
_CONTROL = tuple(Component(c, c.upper().replace("_", " "), "Units", 8.0, 12.0, 1, 0.01) for c in CONTROLS)

PANELS = (
    Panel("METABOLIC PANEL, BASIC", 0.96, (25, 70), _METABOLIC),
    Panel("CBC WITH DIFFERENTIAL", 0.93, (15, 45), _BLOOD),
    Panel("CONTROL PANEL", 0.96, (20, 60), _CONTROL),
    Panel("MAGNESIUM", 0.50, (25, 70), (Component("magnesium", "MAGNESIUM", "mg/dL", 1.6, 2.6, 1, 0.02, (1.0, 5.0)),)),
    Panel("ALBUMIN", 0.55, (25, 70), (Component("albumin", "ALBUMIN", "g/dL", 3.5, 5.0, 1, 0.02),)),
    Panel("LACTATE, WHOLE BLOOD", 0.50, (5, 20), (
        Component("lactate", "LACTATE, WHOLE BLD", "mmol/L", 0.5, 2.0, 1, 0.03, (-_INF, 4.0), (0.3, 20.0)),)),
    Panel("TROPONIN, HIGH SENSITIVITY", 0.45, (40, 90), (
        Component("troponin_hs", "HIGH SENSITIVITY TROPONIN", "ng/L", None, 14, 0, 0.05, (-_INF, 52), (4, _INF)),)),
    Panel("NT-PROBNP", 0.35, (40, 90), (Component("nt_probnp", "BNP, NT-PRO", "pg/mL", None, 300, 0, 0.04),)),
    Panel("TSH", 0.35, (50, 120), (Component("tsh", "TSH", "uIU/mL", 0.4, 4.5, 2, 0.04, reported=(0.01, 100)),)),
)  # fmt: skip
REPEATED = Panel(
    "POTASSIUM, POINT OF CARE", 0.10, (2, 8), (_POTASSIUM._replace(name="POC:POTASSIUM, ISTAT", error=0.03),)
)

REPEAT_SHARE = 0.25
"""Visits whose metabolic panel is drawn again after 1.5 to 3 hours."""
NO_FLAG_SHARE = 0.03
"""Results without Component_abnormal."""
BOUNDS = {"potassium": (">10.0", 6.4, 0.08), "urea_nitrogen": ("<2", 8.0, 0.04)}
"""Analyte -> a bound, and the share of results beyond a value that are only that bound: both are seen in MC-MED."""
OTHER_EGFR = ("EGFR (2021)", 0.12)
"""Another name of the same analyte, in this share of visits."""


@dataclass(frozen=True, slots=True)
class Draw:
    """One panel, drawn once. The archive tells when it was ordered and resulted, not when it was drawn."""

    panel: Panel
    ordered: datetime
    drawn: datetime
    resulted: datetime


def draws(rng: np.random.Generator, roomed: datetime, until: datetime) -> list[Draw]:
    """The draws of one visit: one round soon after the patient has a bed, some of it again later."""
    first = roomed + _minutes(rng, 0, 12)
    drawn = first + _minutes(rng, 4, 18)
    done = [Draw(p, first, drawn, drawn + _minutes(rng, *p.minutes)) for p in PANELS if rng.random() < p.share]
    for panel, share in ((PANELS[0], REPEAT_SHARE), (REPEATED, REPEATED.share)):
        ordered = first + _minutes(rng, 90, 180)
        again = ordered + _minutes(rng, 4, 18)
        if rng.random() < share and again < until:
            done.append(Draw(panel, ordered, again, again + _minutes(rng, *panel.minutes)))
    return done


def _minutes(rng: np.random.Generator, low: float, high: float) -> timedelta:
    return timedelta(seconds=round(60 * float(rng.uniform(low, high))))


def lab_rows(
    rng: np.random.Generator, csn: str, found: Sequence[Draw], course: Course, arrival: datetime, age: float, male: bool
) -> list[tuple[str, ...]]:
    """Rows of labs.csv of one visit, in order of their results."""
    other_egfr = rng.random() < OTHER_EGFR[1]
    rows = []
    for draw in sorted(found, key=lambda d: d.resulted):
        true = course.at(np.array((draw.drawn - arrival).total_seconds() / 3600))
        measured = measure(rng, draw.panel.components, true, age, male)
        cells = [_cells(rng, c, measured[c.analyte], male, other_egfr) for c in draw.panel.components]
        order = _order_flag([c[-3] for c in cells])
        head = (csn, stamp(draw.ordered), stamp(draw.resulted), draw.panel.name, order)
        rows += [head + c for c in cells]
    return rows + _virus(rng, csn, found)


def measure(
    rng: np.random.Generator, components: Sequence[Component], true: dict[str, np.ndarray], age: float, male: bool
) -> dict[str, float]:
    """Analyte -> what the laboratory finds, those that it computes among them, rounded as it reports them."""
    got = {c.analyte: float(true[c.analyte]) * (1 + rng.normal(0, c.error)) for c in components if c.analyte in true}
    if "hemoglobin" in got:
        got["hematocrit"] = 2.95 * got["hemoglobin"] * (1 + rng.normal(0, 0.012))
    if "creatinine" in got:
        got["egfr"] = egfr(got["creatinine"], age, male)
        got["anion_gap"] = got["sodium"] - got["chloride"] - got["bicarbonate"]
    return {c.analyte: round(got[c.analyte], c.decimals) for c in components}


def egfr(creatinine: float, age: float, male: bool) -> float:
    """mL/min/1.73 m² by CKD-EPI 2021 (Inker et al., N Engl J Med 2021;385:1737). creatinine: mg/dL."""
    kappa, alpha, factor = (0.9, -0.302, 1.0) if male else (0.7, -0.241, 1.012)
    ratio = creatinine / kappa
    return 142 * min(ratio, 1.0) ** alpha * max(ratio, 1.0) ** -1.2 * 0.9938**age * factor


def _cells(rng: np.random.Generator, c: Component, value: float, male: bool, other_egfr: bool) -> tuple[str, ...]:
    """Component_name … Component_nml_high of one result."""
    low, high = c.limits(male)
    text, result = _written(rng, c, value)
    name = OTHER_EGFR[0] if c.analyte == "egfr" and other_egfr else c.name
    flag = "" if rng.random() < NO_FLAG_SHARE else _flag(c, value, low, high)
    return name, result, text, c.unit, flag, _number(low), _number(high)


def _written(rng: np.random.Generator, c: Component, value: float) -> tuple[str, str]:
    """(Component_value, Component_result): only the latter has commas between thousands."""
    bound, beyond, share = BOUNDS.get(c.analyte, ("", 0.0, 0.0))
    if rng.random() < share and (value > beyond if bound.startswith(">") else value < beyond):
        return bound, bound
    least, most = c.reported
    if value < least or value > most:
        bound = f"<{least:.{c.decimals}f}" if value < least else f">{most:.{c.decimals}f}"
        return bound, bound
    return f"{value:.{c.decimals}f}", f"{value:,.{c.decimals}f}"


def _flag(c: Component, value: float, low: float | None, high: float | None) -> str:
    side = "Low" if low is not None and value < low else "High" if high is not None and value > high else ""
    if not side:
        return "Normal"
    return f"{'Critical' if value < c.critical[0] or value > c.critical[1] else 'Abnormal'} {side}"


def _order_flag(flags: Sequence[str]) -> str:
    words = {f.split()[0] for f in flags if f}
    return "Critical" if "Critical" in words else "Abnormal" if "Abnormal" in words else ""


def _virus(rng: np.random.Generator, csn: str, found: Sequence[Draw]) -> list[tuple[str, ...]]:
    """A categorical result, with no value and no range, in four visits of ten."""
    if not found or rng.random() > 0.4:
        return []
    positive = rng.random() < 0.12
    word, flag = ("Detected", "Abnormal High") if positive else ("Not Detected", "Normal")
    times = stamp(found[0].ordered), stamp(found[0].drawn + _minutes(rng, 60, 150))
    head = (csn, *times, "SARS-COV-2 PCR", "Abnormal" if positive else "")
    return [(*head, "SARS-COV-2 RNA", word, "", "", flag, "", "")]


def _number(limit: float | None) -> str:
    return "" if limit is None else f"{float(limit)}"


def stamp(time: datetime | None) -> str:
    """ISO with Z, whole seconds, as MC-MED writes its times; "" for none."""
    return "" if time is None else time.strftime("%Y-%m-%dT%H:%M:%SZ")
