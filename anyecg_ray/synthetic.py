"""Write a synthetic archive in exactly MC-MED's file tree, so that everything can be tried without its licence.

visits.csv, labs.csv, waveform_summary.csv, split_{random,chrono}_{train,val,test}.csv and
waveforms/{last 3 digits of CSN}/{CSN}/II/{CSN}_{segment}.{hea,dat}: lead II at 500 Hz, WFDB format 16.

The model: synthetic_beats.py (waves and rhythm), synthetic_artefacts.py (the monitor), synthetic_physiology.py
(patients, labs, EFFECTS), synthetic_tables.py and synthetic_visits.py (the hospital). Where MC-MED's own choice is not
known to us (gain, ADC zero, format, how lost samples are marked) this archive has one of its own, and says so in the
headers.

The same seed gives the same bytes on the same numpy, whatever the number of processes; encounter i is the same
whatever the number of encounters, but its part in the splits is not.
"""

import csv
import io
import multiprocessing
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from typing import NamedTuple

import numpy as np
from pydantic import Field

from anyecg_ray import storage
from anyecg_ray.config import InputError, Location, Settings
from anyecg_ray.formats import checksum
from anyecg_ray.machine import cores
from anyecg_ray.progress import Progress
from anyecg_ray.splits import PARTS
from anyecg_ray.synthetic_artefacts import disturb
from anyecg_ray.synthetic_beats import beats, breathing, draw, fibrillation, with_ectopics
from anyecg_ray.synthetic_physiology import affected, heart_rate
from anyecg_ray.synthetic_tables import LABS, SUMMARY, VISITS, lab_rows
from anyecg_ray.synthetic_visits import FS, LIMIT, RESULTS, SIGNAL, SPLIT, Segment, Visit, generator, visit_row, visits

GAIN = 400
"""ADC units per mV; MC-MED's is not known to us."""
LOST = -32768
"""WFDB's mark of an invalid sample in format 16."""

CHUNK = 8
"""Visits that a process makes at a time."""

Rows = Sequence[tuple[str, ...]]


class Synth(Settings):
    """Write a synthetic archive in MC-MED's file tree: ECGs of lead II with labs that shape them, of no patient."""

    out: Location
    """Where the archive goes: a folder or s3:// prefix, empty or absent."""

    encounters: int = Field(100, ge=1, le=LIMIT)
    """Visits to the emergency department, most of them with a recording."""

    seed: int = Field(0, ge=0)
    """The same seed gives the same bytes."""

    minutes: float = Field(10.0, gt=0, le=480)
    """Median length of a visit's recording; a minute takes 60 kB."""

    workers: int | None = Field(None, ge=1)
    """Processes that draw ECGs; by default one for each core."""


class Summary(NamedTuple):
    """What was written."""

    uri: str
    encounters: int
    patients: int
    segments: int
    hours: float
    """Of signal."""
    results: int
    """Rows of labs.csv."""


def synth(settings: Synth) -> Summary:
    """Write the archive and print what is in it. Raises InputError, StorageError."""
    progress = Progress(settings.encounters, "encounters")
    found = write_archive(**settings.model_dump(), progress=lambda done, _: progress.reach(done))
    progress.close()
    print(
        f"{found.uri}: {found.encounters:,} encounters of {found.patients:,} patients, {found.segments:,} recordings "
        f"of {found.hours:,.1f} h, {found.results:,} lab results; synthetic, of no patient"
    )
    return found


def write_archive(
    out: str,
    encounters: int,
    seed: int,
    minutes: float = 10.0,
    workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Summary:
    """Write an archive of `encounters` visits to `out`, a folder or an s3:// prefix.

    minutes: median length of a visit's recording (log-normal, 1 minute to 8 hours; the mean is 1.4 times the
    median; a minute takes 60 kB). workers: processes, as many as there are processors by default; 1 starts none.
    progress: called with (visits done, visits in all).

    Writing the same archive again is harmless. Raises InputError where another archive is there already, StorageError
    where it cannot be written.
    """
    planned = list(visits(seed, encounters, minutes))
    tables = dict(_tables(planned, seed))
    _refuse_another(out, tables["visits.csv"])
    for name, text in tables.items():
        storage.write_atomic(storage.join(out, name), text.encode())
    for done in _written(out, planned, seed, workers or cores()):
        if progress:
            progress(done, encounters)
    segments = [s for v in planned for s in v.segments if v.files == "all"]
    return Summary(
        uri=out,
        encounters=encounters,
        patients=len({v.patient.number for v in planned}),
        segments=len(segments),
        hours=sum(s.samples for s in segments) / FS / 3600,
        results=tables["labs.csv"].count("\n") - 1,
    )


def _refuse_another(out: str, table: str) -> None:
    uri = storage.join(out, "visits.csv")
    if storage.exists(uri) and storage.read_bytes(uri) != table.encode():
        raise InputError(f"{out}: another archive is there already; name an empty place, or remove it first")


def _written(out: str, planned: Sequence[Visit], seed: int, workers: int) -> Iterator[int]:
    """Write the waveforms; yields how many visits are done."""
    chunks = [planned[i : i + CHUNK] for i in range(0, len(planned), CHUNK)]
    write = partial(write_visits, out, seed)
    done = 0
    if workers == 1 or len(chunks) == 1:
        for chunk in chunks:
            done += write(chunk)
            yield done
        return
    # not forked: the parent may have threads, as s3fs does
    with ProcessPoolExecutor(min(workers, len(chunks)), multiprocessing.get_context("spawn")) as pool:
        try:
            for n in pool.map(write, chunks):
                done += n
                yield done
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def write_visits(out: str, seed: int, some: Sequence[Visit]) -> int:
    """Write the records of some visits; returns their number."""
    for visit in some:
        for number, segment in enumerate(visit.segments, 1) if visit.files != "none" else ():
            name = f"{visit.csn}_{number}"
            folder = storage.join(out, "waveforms", visit.csn[-3:], visit.csn, "II")
            adu = digitise(signal(visit, segment, generator(seed, SIGNAL, int(visit.csn), number)))
            if visit.files == "all":
                storage.write_atomic(storage.join(folder, f"{name}.dat"), adu.tobytes())
            storage.write_atomic(storage.join(folder, f"{name}.hea"), header(name, segment, adu).encode())
    return len(some)


def signal(visit: Visit, segment: Segment, rng: np.random.Generator) -> np.ndarray:
    """Lead II of one segment, (samples,) float64 in mV, NaN where it is lost."""
    person = visit.patient.heart
    seconds = segment.samples / FS
    offset = (segment.start - visit.arrival).total_seconds()
    begin, end = heart_rate(person.rate, visit.course.at(np.array([offset, offset + seconds]) / 3600))
    found = beats(rng, seconds, (float(begin), float(end)), person.rhythm)
    morphology = affected(person.morphology, visit.course.at((offset + found.time) / 3600))
    morphology = with_ectopics(breathing(morphology, found.time, person.rhythm.breaths_hz), found.ectopic)
    if not person.rhythm.fibrillation:
        ecg = draw(found, morphology, segment.samples, FS)
    else:
        ecg = draw(found, morphology._replace(p_mv=0.0), segment.samples, FS)
        ecg += fibrillation(rng, segment.samples, FS)
    return disturb(rng, ecg, visit.disturbance, FS)


def digitise(ecg: np.ndarray) -> np.ndarray:
    """mV, NaN where lost, as little-endian 16-bit samples."""
    adu = np.rint(ecg * GAIN)
    return np.where(np.isnan(adu), LOST, adu).astype("<i2")


def header(name: str, segment: Segment, adu: np.ndarray) -> str:
    """The .hea of one segment: its first sample's time on the same shifted axis as the tables."""
    start = segment.start
    clock = f"{start:%H:%M:%S}.{start.microsecond // 1000:03d} {start:%d/%m/%Y}"
    return (
        f"{name} 1 {FS:g} {len(adu)} {clock}\n"
        f"{name}.dat 16 {GAIN}/mV 12 0 {adu[0]} {checksum(adu)} 0 II\n"
        "# synthetic: made by anyecg synth, of no patient; gain and format are not MC-MED's\n"
    )


def _tables(planned: Sequence[Visit], seed: int) -> Iterator[tuple[str, str]]:
    """File name -> text of every table."""
    stays: list[tuple[str, ...]] = []
    labs: list[tuple[str, ...]] = []
    for v in planned:
        rng = generator(seed, RESULTS, int(v.csn))
        rate = heart_rate(v.patient.heart.rate, v.course.at(np.array(0.0)))
        stays.append(visit_row(rng, v, float(rate)))
        labs += lab_rows(rng, v.csn, v.draws, v.course, v.arrival, v.age, v.patient.male)
    yield "visits.csv", _csv(VISITS, stays)
    yield "labs.csv", _csv(LABS, labs)
    yield "waveform_summary.csv", _csv(SUMMARY, [_summary_row(v) for v in planned if v.segments])
    for kind, split in (("random", random_split(planned, seed)), ("chrono", chrono_split(planned))):
        for part, csns in split.items():
            yield f"split_{kind}_{part}.csv", "".join(f"{csn}\n" for csn in csns)


def _summary_row(v: Visit) -> tuple[str, ...]:
    return v.csn, "II", str(len(v.segments)), f"{sum(s.samples for s in v.segments) / FS:.3f}"


def _csv(names: Sequence[str], rows: Iterable[tuple[str, ...]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(names)
    writer.writerows(rows)
    return text.getvalue()


def random_split(planned: Sequence[Visit], seed: int) -> dict[str, list[str]]:
    """80, 10 and 10% of the patients at random, each with all visits."""
    numbers = sorted({v.patient.number for v in planned})
    ranked = sorted(numbers, key=lambda n: generator(seed, SPLIT, n).random())
    part = {n: _part(rank, len(ranked)) for rank, n in enumerate(ranked)}
    return {name: [v.csn for v in planned if part[v.patient.number] == name] for name in PARTS}


def chrono_split(planned: Sequence[Visit]) -> dict[str, list[str]]:
    """The first 80, next 10 and last 10% of the visits by arrival; visits that would put a patient in two are left out.

    A patient belongs where the first visit falls, so that each part lies after the one before.
    """
    ordered = sorted(planned, key=lambda v: (v.arrival, v.csn))
    parts: dict[str, list[str]] = {name: [] for name in PARTS}
    home: dict[int, str] = {}
    for rank, v in enumerate(ordered):
        part = _part(rank, len(ordered))
        if home.setdefault(v.patient.number, part) == part:
            parts[part].append(v.csn)
    return parts


def _part(rank: int, n: int) -> str:
    """The part of the rank-th of n; from three on, none is empty."""
    held = max(1, round(0.1 * n)) if n >= 3 else 0
    return "test" if rank >= n - held else "val" if rank >= n - 2 * held else "train"
