"""Who and what is prepared: everything that is known before the first waveform is read.

People and results fit in a driver's memory, waveforms never do. From them come the splits, the indicators that the
data supports, and the shards of the manifest.
"""

import itertools
from collections import Counter
from collections.abc import Iterator
from typing import Literal

import numpy as np
import pyarrow as pa
from pydantic import Field

from anyecg_ray import align, splits, weights
from anyecg_ray.align import Align, Clock
from anyecg_ray.analytes import Indicator
from anyecg_ray.config import InputError, Location, Settings
from anyecg_ray.datasets import mc_med, mimic_iv_ecg, ptb_xl, wfdb
from anyecg_ray.labtable import Counts
from anyecg_ray.manifest_file import ManifestFile, check_archive, read_rows
from anyecg_ray.owners import Owners, Who, key, whose
from anyecg_ray.predict import Shard, Source, cuts
from anyecg_ray.schema import DESCRIBING
from anyecg_ray.splits import PARTS, Person, Split

CLOCKS: dict[str, Clock] = {"mc-med": "order", "mimic-iv-ecg": "chart", "ptb-xl": "none", "wfdb": "chart"}
"""MC-MED tells order and result, not the draw; the order precedes it by minutes, the result follows by an hour."""

SHARD_WINDOWS = 2048
"""Windows that a worker turns into one file for each split: 20 MB a lead."""


class Prepare(Settings):
    """Label an archive's windows with laboratory results and store them for training."""

    manifest: Location
    """What `anyecg manifest` wrote."""

    out: Location
    """Where the segment store goes: a folder or s3:// prefix."""

    archive: Location | None = None
    """Where the records and the data set's tables lie, if not where the manifest found them."""

    tables: Location | None = None
    """Where the data set's tables lie, if not with the records; of a packed archive, where it was packed from."""

    dataset: Literal["mc-med", "mimic-iv-ecg", "ptb-xl", "wfdb"] | None = None
    """Kind of the archive, if not what the manifest says: where people and results are read."""

    labels: Location | None = None
    """wfdb: a CSV or Parquet table of results (patient, time, name, value, …). mimic-iv-ecg: MIMIC-IV's folder hosp."""

    people: Location | None = None
    """wfdb: a CSV or Parquet table of people (patient, and encounter, start, age, sex, split where known)."""

    recipe: str = weights.DEFAULT_RECIPE
    """Preprocessing: ecgfounder-finetune or ecgfounder-zscore."""

    leads: list[str] = ["II"]
    """The leads that the model will read."""

    align: Align = Align()
    """How results are matched to windows."""

    split: Split = "auto"
    """random, chrono, fold: the data set's own; hash: by patient; time: by a patient's first encounter."""

    indicators: list[str] = []
    """Keys such as potassium_high; empty: all that the data supports."""

    values: bool = False
    """Whether measured values become indicators too (potassium_value)."""

    min_count: int = Field(2, ge=0)
    """Encounters with a positive, and with a negative, that an indicator needs in each split to be taken up."""

    min_likelihood: float = Field(0.0, ge=0, le=100)
    """ptb-xl: statements that are less likely (percent, above 0) are neither there nor absent."""

    per_span: int = Field(0, ge=0)
    """Windows to keep of one span, evenly over it; 0: all."""


class Inputs:
    """People, results, splits and indicators of one data set."""

    def __init__(self, settings: Prepare, manifest: ManifestFile) -> None:
        self.manifest = manifest
        records = settings.archive or manifest.archive
        self.archive = settings.tables or manifest.packed_from or records
        self.dataset = settings.dataset or manifest.dataset
        check_archive(records)
        self.recipe = weights.named_recipe(settings.recipe, tuple(settings.leads))
        self.source = Source(settings.manifest, records, self.recipe, manifest.digests)
        self.counts: Counts = Counts()
        self.shards, present = _shards(manifest, self.recipe.seconds)
        people = _people(self.dataset, self.archive, settings)
        found = _recorded(people, present, settings.people or self.archive)
        # whom the table does not name the manifest may, and a patient is in one split
        people = [
            p if p.patient or who is None else p._replace(patient=who[1]) for p, who in zip(people, found, strict=True)
        ]
        parts, self.split = splits.assign(people, settings.split, self.archive)
        self.clock: Clock = CLOCKS[self.dataset] if settings.align.clock == "auto" else settings.align.clock
        self.described = _described(people)
        self.people = {who: _described_by(p, self.described) for who, p in zip(found, people, strict=True) if who}
        self.parts = {who: part for who, part in zip(found, parts, strict=True) if who and part}
        sex = {p.patient: p.sex for p in people if p.patient and p.sex}
        results = _labels(self.dataset, self.archive, settings, self.counts)
        self.draws = align.collect(results, self.clock, sex, present, settings.labels or self.archive)
        self.indicators = self._indicators(settings, present)

    def _indicators(self, settings: Prepare, present: set[Who]) -> list[Indicator]:
        """Those asked for, else those with enough positives and negatives among recorded encounters, in each split."""
        if settings.indicators:
            chosen = [Indicator.parse(key) for key in settings.indicators]
            unknown = [i.key for i in chosen if i.analyte not in self.draws.analytes]
            if unknown:
                raise InputError(
                    f"setting indicators: no result of {', '.join(unknown)} belongs to a recorded encounter; there are "
                    f"results of {', '.join(self.draws.analytes[:12]) or 'nothing'} …"
                )
            return chosen
        recorded = [(self.parts.get(whose(e, p)), self.draws.of(e, p)) for e, p in sorted(present, key=str)]
        candidates = self._candidates(settings.values)
        enough = [i for i in candidates if self._supported(i, settings.min_count, recorded)]
        if not enough:
            raise InputError(
                f"{settings.manifest}: no indicator has {settings.min_count} encounters with a positive and as many "
                "with a negative in each split; give a larger archive, a smaller --min-count, or --indicators"
            )
        return enough

    def _candidates(self, values: bool) -> Iterator[Indicator]:
        for analyte in self.draws.analytes:
            if self.dataset == "ptb-xl":
                if analyte == "age":
                    yield Indicator("age", "value")
                else:
                    yield Indicator(analyte, "present")
                continue
            yield Indicator(analyte, "low")
            yield Indicator(analyte, "high")
            if values:
                yield Indicator(analyte, "value")

    def _supported(self, indicator: Indicator, least: int, recorded: list[tuple[str | None, np.ndarray]]) -> bool:
        """recorded: of each encounter that has a recording, its part and the rows of its draws."""
        column = {"low": self.draws.low, "value": self.draws.value}.get(indicator.direction, self.draws.high)
        code = self.draws.analytes.index(indicator.analyte)
        n: Counter[tuple[str, bool]] = Counter()
        for part, rows in recorded:
            if part is None or not len(rows):
                continue
            told = column[rows[self.draws.analyte[rows] == code]]
            told = told[~np.isnan(told)]
            if len(told):
                n[part, bool(indicator.direction == "value" or told.max() > 0)] += 1
        sides = (True,) if indicator.direction == "value" else (True, False)
        return all(n[part, side] >= least for part in PARTS for side in sides)


def _people(dataset: str, archive: str, settings: Prepare) -> list[Person]:
    """Every encounter of the data set."""
    if dataset == "wfdb":
        if settings.labels is None or settings.people is None:
            raise InputError("settings labels and people: a wfdb archive needs tables of its results and its people")
        batches = wfdb.encounters(settings.people)
    elif dataset == "mimic-iv-ecg":
        batches = mimic_iv_ecg.encounters(archive, settings.labels)
    else:
        batches = (mc_med if dataset == "mc-med" else ptb_xl).encounters(archive)
    people = []
    for batch in batches:
        for row in batch.to_pylist():
            own = {rule: row[f"split_{rule}"] for rule in ("random", "chrono", "fold")}
            described = tuple(row[name] or None for name in DESCRIBING)
            who = (row["encounter_id"], row["patient_id"])
            people.append(Person(*who, row["start_time"], row["age"], row["sex"], own, described))
    return people


def _recorded(people: list[Person], present: set[Who], table: str) -> list[Who | None]:
    """As whom the manifest has each of them, in the terms of `whose`; None for whom it has no record."""
    names = {key(*who): who for who in (whose(*who) for who in present)}
    owners = Owners(names.values(), table)
    ids = (pa.array([getattr(p, n) for p in people], pa.string()) for n in ("encounter", "patient"))
    return [None if at is None else names[owners.keys[at]] for at in owners.places(*ids).to_pylist()]


def _described(people: list[Person]) -> tuple[str, ...]:
    """What the data set tells of encounters, of schema.DESCRIBING."""
    there = (any(p.described[i] for p in people) for i in range(len(DESCRIBING)))
    return tuple(itertools.compress(DESCRIBING, there))


def _described_by(person: Person, described: tuple[str, ...]) -> tuple[float | str | None, ...]:
    """What of an encounter goes into the store: age, sex and what describes it."""
    by_name = dict(zip(DESCRIBING, person.described, strict=True))
    return (person.age, person.sex, *(by_name[name] for name in described))


def _labels(dataset: str, archive: str, settings: Prepare, counts: Counts) -> Iterator[pa.RecordBatch]:
    if dataset == "mc-med":
        return mc_med.labels(archive, counts)
    if dataset == "ptb-xl":
        return ptb_xl.labels(archive, settings.min_likelihood, counts)
    if settings.labels is None:
        raise InputError("setting labels is missing: mimic-iv-ecg needs the folder of MIMIC-IV hosp's tables")
    if dataset == "mimic-iv-ecg":
        return mimic_iv_ecg.labels(settings.labels, mimic_iv_ecg.subjects(archive), counts)
    return wfdb.labels(settings.labels, counts)


def _shards(manifest: ManifestFile, window_s: float) -> tuple[list[Shard], set[Who]]:
    """The manifest cut into shards of about SHARD_WINDOWS, and the encounters and patients that are recorded."""
    shards: list[Shard] = []
    present: set[Who] = set()
    for group in range(len(manifest.row_groups)):
        rows = read_rows(manifest.uri, group, columns=["encounter_id", "patient_id", "n_samples", "fs"])
        present |= set(zip(rows["encounter_id"].to_pylist(), rows["patient_id"].to_pylist(), strict=True))
        shards += [Shard(group, a, b - a) for a, b in cuts(rows, window_s, SHARD_WINDOWS)]
    return shards, present
