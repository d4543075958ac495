"""From an archive and its laboratory results to a segment store: windows with labels, ready for training.

The driver reads the tables (people and results fit in memory, waveforms never do), finds the splits and the
indicators, and hands the results to the workers in shared memory. A worker takes one shard of the manifest through
the very functions of back-fill, labels its windows, and writes one file for each split; only counts come back.
Every window and span that is not in the store is counted by its reason.
"""

import io
import itertools
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, Literal, cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import ray
from ray.data import Dataset

from anyecg_ray import align, cluster, segments, splits, storage, weights
from anyecg_ray.align import Align, Clock, Draws
from anyecg_ray.analytes import BY_KEY, Indicator
from anyecg_ray.config import InputError, Settings, fingerprint
from anyecg_ray.datasets import mc_med, mimic_iv_ecg, ptb_xl, wfdb
from anyecg_ray.labtable import Counts
from anyecg_ray.manifest import ManifestFile, open_manifest, read_rows
from anyecg_ray.model import IndicatorCard
from anyecg_ray.predict import Shard, Source, windows_of
from anyecg_ray.progress import Progress
from anyecg_ray.segments import SegmentsCard
from anyecg_ray.splits import PARTS, Person, Split

CLOCKS: dict[str, Clock] = {"mc-med": "order", "mimic-iv-ecg": "chart", "ptb-xl": "none", "wfdb": "chart"}
"""MC-MED tells order and result, not the draw; the order precedes it by minutes, the result follows by an hour."""

SHARD_WINDOWS = 2048
"""Windows that a worker turns into one file for each split: 20 MB a lead."""


class Prepare(Settings):
    """Label an archive's windows with laboratory results and store them for training."""

    manifest: str
    """What `anyecg manifest` wrote."""

    out: str
    """Where the segment store goes: a folder or s3:// prefix."""

    archive: str | None = None
    """Where the records and the data set's tables lie, if not where the manifest found them."""

    dataset: Literal["mc-med", "mimic-iv-ecg", "ptb-xl", "wfdb"] | None = None
    """Kind of the archive, if not what the manifest says: where people and results are read."""

    labels: str | None = None
    """wfdb: a CSV or Parquet table of results (patient, time, name, value, …). mimic-iv-ecg: MIMIC-IV's folder hosp."""

    people: str | None = None
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

    min_count: int = 2
    """Encounters with a positive, and with a negative, that an indicator needs in each split to be taken up."""

    min_likelihood: float = 0.0
    """ptb-xl: statements that are less likely (percent, above 0) are neither there nor absent."""

    per_span: int = 0
    """Windows to keep of one span, evenly over it; 0: all."""


def prepare(settings: Prepare) -> SegmentsCard:
    """Write the store and return its card; a store that stands already is left as it is.

    Raises InputError where an input cannot be used or another store is there.
    """
    manifest = open_manifest(settings.manifest)
    made = fingerprint([settings.model_dump(exclude={"out"}), list(manifest.digests)])
    if (before := _before(settings.out)) is not None:
        if before.fingerprint != made:
            raise InputError(f"{settings.out}: holds segments that were made otherwise; give another --out")
        print(f"{settings.out}: nothing to do, the segments stand")
        return before
    plan = _Plan(settings, manifest)
    _clear(settings.out)
    with cluster.connected():
        counted = _run(plan, settings)
    card = _card(plan, settings, counted, made)
    _write_drops(settings.out, card.drops)
    storage.write_atomic(storage.join(settings.out, segments.CARD), (card.model_dump_json(indent=2) + "\n").encode())
    _report(card, settings.out)
    return card


def _before(out: str) -> SegmentsCard | None:
    return segments.read_card(out) if storage.exists(storage.join(out, segments.CARD)) else None


def _clear(out: str) -> None:
    """Remove what a run that did not end left: parts of another split would put their patients into two."""
    for split in PARTS:
        for part in segments.parts(out, split):
            storage.remove(part)


class _Plan:
    """What the driver knows before any waveform is read."""

    def __init__(self, settings: Prepare, manifest: ManifestFile) -> None:
        self.manifest = manifest
        self.archive = settings.archive or manifest.archive
        self.dataset = settings.dataset or manifest.dataset
        if not storage.exists(self.archive):
            raise InputError(f"{self.archive}: no such archive; give --archive where the records lie now")
        self.recipe = weights.named_recipe(settings.recipe, tuple(settings.leads))
        self.source = Source(settings.manifest, self.archive, self.recipe)
        self.counts: Counts = Counts()
        self.people = _people(self.dataset, self.archive, settings)
        self.parts, self.split = splits.assign(list(self.people.values()), settings.split, self.archive)
        self.clock: Clock = CLOCKS[self.dataset] if settings.align.clock == "auto" else settings.align.clock
        self.shards, present = _shards(manifest, settings.manifest)
        wanted = {f"e:{e}" for e, _ in present if e} | {f"p:{p}" for _, p in present if p}
        sex = {p.patient: p.sex for p in self.people.values() if p.patient and p.sex}
        self.draws = align.collect(_labels(self.dataset, self.archive, settings, self.counts), self.clock, sex, wanted)
        self.indicators = self._indicators(settings, present)

    def _indicators(self, settings: Prepare, present: set[tuple[str | None, str | None]]) -> list[Indicator]:
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
        enough = [i for i in self._candidates(settings.values) if self._supported(i, settings.min_count, present)]
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

    def _supported(self, indicator: Indicator, least: int, present: set[tuple[str | None, str | None]]) -> bool:
        if not hasattr(self, "_rows"):
            self._rows = [(self.parts.get(e or p or ""), self.draws.of(e, p)) for e, p in sorted(present, key=str)]
        column = {"low": self.draws.low, "value": self.draws.value}.get(indicator.direction, self.draws.high)
        code = self.draws.analytes.index(indicator.analyte)
        n: Counter[tuple[str, bool]] = Counter()
        for part, rows in self._rows:
            if part is None or not len(rows):
                continue
            told = column[rows[self.draws.analyte[rows] == code]]
            told = told[~np.isnan(told)]
            if len(told):
                n[part, bool(indicator.direction == "value" or told.max() > 0)] += 1
        sides = (True,) if indicator.direction == "value" else (True, False)
        return all(n[part, side] >= least for part in PARTS for side in sides)


def _people(dataset: str, archive: str, settings: Prepare) -> dict[str, Person]:
    """Every encounter of the data set by its id."""
    if dataset == "wfdb":
        if settings.labels is None or settings.people is None:
            raise InputError("settings labels and people: a wfdb archive needs tables of its results and its people")
        batches = wfdb.encounters(settings.people)
    elif dataset == "mimic-iv-ecg":
        batches = mimic_iv_ecg.encounters(archive, settings.labels)
    else:
        batches = (mc_med if dataset == "mc-med" else ptb_xl).encounters(archive)
    people = {}
    for batch in batches:
        for row in batch.to_pylist():
            own = {rule: row[f"split_{rule}"] for rule in ("random", "chrono", "fold")}
            people[row["encounter_id"]] = Person(
                row["encounter_id"], row["patient_id"], row["start_time"], row["age"], row["sex"], own
            )
    return people


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


def _shards(manifest: ManifestFile, uri: str) -> tuple[list[Shard], set[tuple[str | None, str | None]]]:
    """The manifest cut into shards of about SHARD_WINDOWS, and the encounters and patients that are recorded."""
    shards: list[Shard] = []
    present: set[tuple[str | None, str | None]] = set()
    for group, rows in enumerate(manifest.row_groups):
        table = read_rows(uri, group, 0, rows)
        present |= set(zip(table["encounter_id"].to_pylist(), table["patient_id"].to_pylist(), strict=True))
        with np.errstate(divide="ignore", invalid="ignore"):
            seconds = table["n_samples"].to_numpy() / table["fs"].to_numpy()
        windows = np.cumsum(np.maximum(np.nan_to_num(seconds, posinf=0.0) // 10, 1))
        edges = np.flatnonzero(np.diff((windows - 1) // SHARD_WINDOWS, prepend=-1, append=np.inf))
        shards += [Shard(group, int(a), int(b - a)) for a, b in itertools.pairwise(edges.tolist())]
    return shards, present


def _run(plan: _Plan, settings: Prepare) -> pa.Table:
    """Write all parts; returns the workers' counts: shard, what, key, n."""
    shared = ray.put((plan.draws, plan.parts, {e: (p.age, p.sex) for e, p in plan.people.items()}))
    made = ray.data.range(len(plan.shards), override_num_blocks=max(1, len(plan.shards))).map_batches(
        _shard,  # type: ignore[arg-type]
        fn_args=(plan.shards, plan.source, [shared], plan.indicators, plan.clock, settings),
        batch_size=None,
        batch_format="pyarrow",
        num_cpus=1,
    )
    return _collected(made, plan)


def _collected(made: Dataset, plan: _Plan) -> pa.Table:
    progress = Progress(sum(s.length for s in plan.shards), "spans")
    done, tables = 0, []
    for block in made.iter_batches(batch_size=None, batch_format="pyarrow"):
        tables.append(cast(pa.Table, block))
        done += sum(plan.shards[i].length for i in set(tables[-1].column("shard").to_pylist()))
        progress.reach(done)
    progress.close()
    return pa.concat_tables(tables)


def _shard(
    batch: pa.Table,
    shards: list[Shard],
    source: Source,
    shared: list[Any],
    indicators: list[Indicator],
    clock: Clock,
    settings: Prepare,
) -> Iterator[pa.Table]:
    draws, parts, people = ray.get(shared[0])
    for index in batch.column("id").to_pylist():
        counts, patients = Counter[tuple[str, str]](), set()
        rows: dict[str, list[pa.Table]] = {part: [] for part in PARTS}
        for piece in windows_of(source, shards[index], index):
            for part, table in _labelled(piece, source, draws, parts, people, indicators, clock, settings, counts):
                rows[part].append(table)
        for part, tables in rows.items():
            if tables:
                whole = pa.concat_tables(tables)
                _write(storage.join(settings.out, f"split={part}", f"part-{shards[index].name}.parquet"), whole)
                counts["windows", part] += len(whole)
                patients |= {("patient", part, p or e) for p, e in zip(
                    whole["patient_id"].to_pylist(), whole["encounter_id"].to_pylist(), strict=True)}  # fmt: skip
                _count_labels(whole, part, indicators, counts)
        told = [(what, key, n) for (what, key), n in sorted(counts.items())]
        told += [(what, f"{part} {who}", 1) for what, part, who in sorted(patients)]
        yield pa.table(
            {
                "shard": pa.array([index] * len(told), pa.int64()),
                "what": pa.array([t[0] for t in told], pa.string()),
                "key": pa.array([t[1] for t in told], pa.string()),
                "n": pa.array([t[2] for t in told], pa.int64()),
            }
        )


def _labelled(
    piece: pa.Table,
    source: Source,
    draws: Draws,
    parts: dict[str, str],
    people: dict[str, tuple[float | None, str | None]],
    indicators: list[Indicator],
    clock: Clock,
    settings: Prepare,
    counts: Counter[tuple[str, str]],
) -> Iterator[tuple[str, pa.Table]]:
    """The rows of each span of a piece that belong into the store; what does not is counted."""
    schema = segments.schema_of([i.key for i in indicators], len(source.recipe.leads) * source.recipe.samples)
    for span in piece.to_pylist():
        usable = np.array(span["usable"], bool)
        for flags in (q for q, u in zip(span["quality"], span["usable"], strict=True) if not u):
            counts["drop", f"window: {flags.split('|')[0]}"] += 1
        if span["status"] != "ok":
            counts["drop", f"span: {span['status']}"] += 1
            continue
        encounter, patient = span["encounter_id"], span["patient_id"]
        whose = encounter or patient or ""  # without encounters, the patient is the encounter
        part = parts.get(whose)
        x = np.frombuffer(span["x"], np.float32).reshape(-1, len(source.recipe.leads), source.recipe.samples)
        if part is None:
            counts["drop", "window: its encounter is in no split"] += len(x)
            continue
        if clock != "none" and span["start_time"] is None:
            counts["drop", "window: its time is not known"] += len(x)
            continue
        start = np.asarray(span["window_start"], np.float64)[usable]
        keep = np.arange(len(x))
        if settings.per_span and len(x) > settings.per_span:
            keep = np.unique(np.linspace(0, len(x) - 1, settings.per_span).round().astype(int))
            counts["drop", "window: more than per_span"] += len(x) - len(keep)
        began = pa.scalar(span["start_time"], pa.timestamp("us", "UTC")).value if span["start_time"] else None
        middle = (began or 0) + ((start[keep] + source.recipe.seconds / 2) * 1e6).astype(np.int64)
        matched = align.match(middle, draws, draws.of(encounter, patient), settings.align, clock)
        y = align.labels(matched, draws, indicators)
        told = ~np.isnan(y).all(axis=1)
        counts["drop", "window: no result near it"] += int((~told).sum())
        keep, y, start = keep[told], y[told], start[keep][told]
        if not len(keep):
            continue
        scale, samples = segments.quantised(x[keep])
        age, sex = people.get(whose, (None, None))
        times = [None if began is None else began + int(s * 1e6) for s in start]
        same = {"span_id": span["span_id"], "record_id": span["record_id"], "patient_id": patient,
                "encounter_id": encounter, "age": age, "sex": sex}  # fmt: skip
        columns = {k: pa.array([v] * len(keep), schema.field(k).type) for k, v in same.items()} | {
            "segment_id": pa.array([f"{span['span_id']}@{s:g}" for s in start]),
            "time": pa.array(times, pa.int64()).cast(schema.field("time").type),
            "scale": pa.array(scale),
            "samples": samples,
            **{segments.label(i.key): pa.array(y[:, k], from_pandas=True) for k, i in enumerate(indicators)},
        }
        yield part, pa.table([columns[f.name] for f in schema], schema=schema)


def _count_labels(rows: pa.Table, part: str, indicators: Sequence[Indicator], counts: Counter[tuple[str, str]]) -> None:
    for indicator in indicators:
        y = rows[segments.label(indicator.key)].to_numpy()
        told = y[~np.isnan(y)]
        positive = len(told) if indicator.direction == "value" else int((told > 0).sum())
        counts["label", f"{part} positive {indicator.key}"] += positive
        counts["label", f"{part} negative {indicator.key}"] += len(told) - positive


def _write(uri: str, rows: pa.Table) -> None:
    with storage.atomic_output(uri) as file:
        # samples are noise to a compressor; rows of 256 make a read that a training batch can use
        pq.write_table(rows, file, compression="none", use_dictionary=False, row_group_size=256)


def _card(plan: _Plan, settings: Prepare, counted: pa.Table, made: str) -> SegmentsCard:
    totals = counted.group_by(["what", "key"]).aggregate([("n", "sum")])
    n: dict[tuple[str, str], int] = {
        (what, key): total
        for what, key, total in zip(*(totals[c].to_pylist() for c in ("what", "key", "n_sum")), strict=True)
    }
    counts = {
        part: {
            i.key: {side: n.get(("label", f"{part} {side} {i.key}"), 0) for side in ("positive", "negative")}
            for i in plan.indicators
        }
        for part in PARTS
    }
    kept = _kept(plan, settings, counts)
    drops = {key: total for (what, key), total in sorted(n.items()) if what == "drop" and total}
    drops |= {f"indicator: too few windows once aligned ({i.key})": 1 for i in plan.indicators if i not in kept}
    drops |= {f"result: {reason} ({about})": total for (reason, about), total in sorted(plan.counts.items())}
    return SegmentsCard(
        dataset=plan.dataset,
        recipe=plan.recipe.to_dict(),
        preprocess_fingerprint=plan.recipe.fingerprint(),
        indicators=[_indicator_card(i) for i in kept],
        counts={part: {i.key: counts[part][i.key] for i in kept} for part in PARTS},
        windows={part: n.get(("windows", part), 0) for part in PARTS},
        patients={part: sum(w == "patient" and k.startswith(f"{part} ") for w, k in n) for part in PARTS},
        drops=drops,
        settings={**settings.model_dump(), "split": plan.split, "clock": plan.clock},
        fingerprint=made,
    )


def _kept(plan: _Plan, settings: Prepare, counts: dict[str, dict[str, dict[str, int]]]) -> list[Indicator]:
    """The indicators that still have enough windows after time limits and quality; all that were asked for.

    Raises InputError where none is left.
    """
    if settings.indicators:
        return plan.indicators
    kept = []
    for i in plan.indicators:
        sides = ("positive",) if i.direction == "value" else ("positive", "negative")
        if all(counts[part][i.key][side] >= settings.min_count for part in PARTS for side in sides):
            kept.append(i)
    if not kept:
        raise InputError(
            f"{settings.manifest}: no indicator has {settings.min_count} windows of either kind in each split once "
            "results and windows are matched; give wider --align.before and --align.after, or a smaller --min-count"
        )
    return kept


def _indicator_card(indicator: Indicator) -> IndicatorCard:
    known = BY_KEY.get(indicator.analyte)
    return IndicatorCard(
        key=indicator.key,
        analyte=None if indicator.direction == "present" else indicator.analyte,
        name=known.name if known else indicator.analyte.replace("_", " "),
        direction=indicator.direction,
        loinc=known.loinc if known else None,
        unit=known.unit if known else None,
    )


def _write_drops(out: str, drops: dict[str, int]) -> None:
    table = pa.table({"reason": pa.array(list(drops), pa.string()), "n": pa.array(list(drops.values()), pa.int64())})
    sink = io.BytesIO()
    pq.write_table(table, sink)
    storage.write_atomic(storage.join(out, segments.DROPS), sink.getvalue())


def _report(card: SegmentsCard, out: str) -> None:
    print(f"{out}: {len(card.indicators)} indicators, split {card.settings['split']}, clock {card.settings['clock']}")
    for part in PARTS:
        print(f"  {part:6} {card.windows[part]:>10,} windows of {card.patients[part]:,} patients")
    left = Counter({k: n for k, n in card.drops.items() if not k.startswith("result:")})
    print("left out: " + (", ".join(f"{n:,} {k}" for k, n in left.most_common()) or "nothing"))
    results = {k: n for k, n in card.drops.items() if k.startswith("result:")}
    if results:
        print(f"{sum(results.values()):,} results with a fault, by {len(results)} reasons: see {segments.DROPS}")
    print(json.dumps({"fingerprint": card.fingerprint}))
