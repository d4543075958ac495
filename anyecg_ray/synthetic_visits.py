"""The visits of the synthetic archive: patients, stays, and when the monitor was connected.

Patient p is drawn from the generator (seed, PATIENT, p) and visit k of it from (seed, VISIT, p, k), so a visit is the
same in an archive of ten encounters and of ten million, whichever process makes it.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import count, islice

import numpy as np

from anyecg_ray.synthetic_artefacts import Disturbance, disturbance
from anyecg_ray.synthetic_physiology import Course, Heart, course, heart
from anyecg_ray.synthetic_tables import Draw, draws, stamp

PATIENT, VISIT, SIGNAL, RESULTS, SPLIT = range(5)
"""What a generator is for: the second number of its seed."""

FS = 500.0
LIMIT = 1_000_000
"""Encounters of one archive: as many as there are numbers for."""

FIRST_YEAR, YEARS = 2205, 88
"""MC-MED's dates are shifted to between 2205 and 2295."""

SHORTEST_S, LONGEST_S = 60.0, 8 * 3600.0
LONGEST_SEGMENT_S = 3600.0
"""Nobody stays connected for ever: X-ray, toilet."""

NO_WAVEFORM_SHARE = 0.02
"""Visits that were not on a monitor, and are not in waveform_summary.csv."""
NO_FILES_SHARE = 0.006
"""Visits that waveform_summary.csv claims, and that have no files; as many have headers alone."""


@dataclass(frozen=True, slots=True)
class Patient:
    """One person. `age` is true at the first visit; visits.csv blurs it."""

    number: int
    mrn: str
    age: float
    male: bool
    gender: str
    race: str
    ethnicity: str
    heart: Heart
    arrivals: tuple[datetime, ...]


@dataclass(frozen=True, slots=True)
class Segment:
    """One record: seconds between a connection and the next disconnection."""

    start: datetime
    samples: int


@dataclass(frozen=True, slots=True)
class Visit:
    """One encounter, with everything that its rows and records are made from."""

    csn: str
    patient: Patient
    number: int
    """From 1, within the patient."""
    age: float
    arrival: datetime
    roomed: datetime
    departure: datetime
    course: Course
    draws: tuple[Draw, ...]
    segments: tuple[Segment, ...]
    files: str
    """What there is of the segments: all, headers, none."""
    disturbance: Disturbance


def generator(seed: int, *what: int) -> np.random.Generator:
    """The generator of one thing."""
    return np.random.default_rng([seed, *what])


def visits(seed: int, encounters: int, minutes: float) -> Iterator[Visit]:
    """The first `encounters` visits. minutes: median length of a visit's recording."""
    return islice(_endless(seed, minutes), encounters)


def _endless(seed: int, minutes: float) -> Iterator[Visit]:
    index = 0
    for number in count():
        patient = _patient(seed, number)
        for k in range(len(patient.arrivals)):
            yield _visit(generator(seed, VISIT, number, k), index, patient, k, minutes)
            index += 1


def _scatter(index: int, first: int, step: int) -> str:
    """A number that says nothing about its neighbours; one to one, as `step` has no divisor in common with LIMIT."""
    return str(first + index * step % LIMIT)


def _patient(seed: int, number: int) -> Patient:
    rng = generator(seed, PATIENT, number)
    male = bool(rng.random() < 0.46)
    age = _age(rng)
    gender = "U" if rng.random() < 0.003 else "FM"[male]
    race = rng.choice(
        ("White", "Asian", "Black or African American", "Other", "Unknown"), p=(0.45, 0.17, 0.07, 0.28, 0.03)
    )
    ethnicity = rng.choice(("Non-Hispanic/Non-Latino", "Hispanic/Latino", "Unknown"), p=(0.70, 0.27, 0.03))
    start = datetime(FIRST_YEAR, 1, 1, tzinfo=UTC) + timedelta(seconds=int(rng.integers(0, YEARS * 365 * 86400)))
    gaps = rng.exponential(100, min(8, int(rng.geometric(0.6))) - 1) + 1
    arrivals = (start, *(start + timedelta(seconds=int(d * 86400)) for d in np.cumsum(gaps)))
    mrn = _scatter(number, 98_000_000, 617_893)
    return Patient(number, mrn, age, male, gender, str(race), str(ethnicity), heart(rng, age, male), arrivals)


def _age(rng: np.random.Generator) -> float:
    """Years; 53 ± 20 as in MC-MED, adults."""
    while True:
        age = float(rng.normal(53, 20))
        if 18 <= age <= 100:
            return age


def _visit(rng: np.random.Generator, index: int, patient: Patient, k: int, minutes: float) -> Visit:
    arrival = patient.arrivals[k]
    age = patient.age + (arrival - patient.arrivals[0]).days / 365.25
    roomed = arrival + timedelta(seconds=int(60 * (4 + rng.exponential(20))))
    segments = _segments(rng, roomed, minutes)
    stay = timedelta(seconds=int(3600 * np.exp(rng.normal(np.log(4.5), 0.4))))
    last = segments[-1].start + timedelta(seconds=segments[-1].samples / FS)
    departure = max(arrival + stay, last + timedelta(minutes=5)).replace(microsecond=0)
    u = rng.random()
    return Visit(
        csn=_scatter(index, 99_000_000, 540_217),
        patient=patient,
        number=k + 1,
        age=age,
        arrival=arrival,
        roomed=roomed,
        departure=departure,
        course=course(rng, age, patient.male),
        draws=tuple(draws(rng, roomed, departure)),
        segments=() if rng.random() < NO_WAVEFORM_SHARE else segments,
        files="none" if u < NO_FILES_SHARE else "headers" if u < 2 * NO_FILES_SHARE else "all",
        disturbance=disturbance(rng, patient.heart.rhythm.breaths_hz),
    )


def _segments(rng: np.random.Generator, roomed: datetime, minutes: float) -> tuple[Segment, ...]:
    """One visit's records: a log-normal whole, cut at disconnections; the first and some others are short."""
    left = float(np.clip(60 * minutes * np.exp(rng.normal(0, 0.8)), SHORTEST_S, LONGEST_S))
    start = roomed + timedelta(milliseconds=int(rng.uniform(60e3, 480e3)))
    lengths = [float(rng.uniform(3, 50))] if rng.random() < 0.35 else []
    while left > 0:
        length = min(left, LONGEST_SEGMENT_S, 20 + float(rng.exponential(1500)))
        lengths.append(length)
        left -= length
        if left > 0 and rng.random() < 0.3:
            lengths.append(float(rng.uniform(2, 40)))
    segments = []
    for length in lengths:
        segments.append(Segment(start, max(1, int(length * FS))))
        start += timedelta(milliseconds=int(1000 * (length + 5 + rng.exponential(90))))
    return tuple(segments)


_COMPLAINTS = (
    ("CHEST PAIN", "R07.9", "786.50", "Chest pain, unspecified"),
    ("SHORTNESS OF BREATH", "R06.02", "786.05", "Shortness of breath"),
    ("ABDOMINAL PAIN", "R10.9", "789.00", "Unspecified abdominal pain"),
    ("WEAKNESS", "R53.1", "780.79", "Weakness"),
    ("DIZZINESS", "R42", "780.4", "Dizziness and giddiness"),
    ("FALL", "W19.XXXA", "E888.9", "Unspecified fall, initial encounter"),
    ("FEVER", "R50.9", "780.60", "Fever, unspecified"),
    ("PALPITATIONS", "R00.2", "785.1", "Palpitations"),
)
"""Chief complaint and diagnosis: drawn without regard to the labs, lest a table give them away."""


def visit_row(rng: np.random.Generator, visit: Visit, rate: float) -> tuple[str, ...]:
    """The visit's row of visits.csv. rate: heart rate on arrival."""
    person, k = visit.patient, visit.number
    complaint, icd10, icd9, diagnosis = _COMPLAINTS[int(rng.integers(len(_COMPLAINTS)))]
    acuity = rng.choice(("1-Resuscitation", "2-Emergent", "3-Urgent", "4-Semi-Urgent"), p=(0.02, 0.30, 0.60, 0.08))
    disposition = _disposition(rng)
    admitted = disposition != "Discharge"
    hours = (visit.departure - visit.arrival).total_seconds() / 3600
    decided = visit.departure - timedelta(seconds=round(0.2 * hours * 3600))
    following = person.arrivals[k] if k < len(person.arrivals) else None
    age = min(90, round(visit.age + rng.uniform(-2, 2)))
    systolic = rng.normal(135, 20)
    return (
        person.mrn, visit.csn, str(k), str(len(person.arrivals)), str(max(18, age)), person.gender, person.race,
        person.ethnicity, str(rng.choice(("Self", "EMS", "Transfer"), p=(0.7, 0.27, 0.03))),
        f"{rng.normal(36.8, 0.4):.1f}", f"{max(35, rate + rng.normal(2, 5)):.0f}", f"{rng.normal(18, 2):.0f}",
        f"{min(100, rng.normal(97.5, 1.5)):.0f}", f"{systolic:.0f}", f"{0.6 * systolic + rng.normal(0, 6):.0f}",
        str(acuity), complaint, disposition,
        "" if following is None else f"{(following - visit.departure).total_seconds() / 3600:.2f}",
        "" if following is None else _disposition(rng), f"{hours:.2f}",
        f"{rng.gamma(2, 2):.2f}" if admitted else "", "Home or Self Care",
        str(rng.choice(("Medicare", "Commercial", "Medicaid", "Self-Pay"), p=(0.4, 0.32, 0.25, 0.03))),
        "Hospital Medicine" if admitted else "", icd9, icd10, diagnosis, stamp(visit.arrival), stamp(visit.roomed),
        stamp(decided), stamp(decided) if admitted else "", stamp(visit.departure),
    )  # fmt: skip


def _disposition(rng: np.random.Generator) -> str:
    return str(rng.choice(("Discharge", "Inpatient", "Observation", "ICU"), p=(0.64, 0.22, 0.11, 0.03)))
