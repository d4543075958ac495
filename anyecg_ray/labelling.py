"""A worker's part of `anyecg prepare`: one shard of the manifest becomes one file of windows for each split.

The windows are back-fill's own (predict.windows_of). Only counts go back to the driver: what is in the store, and why
each other window or span is not.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import ray

from anyecg_ray import align, segments, storage, unfinished
from anyecg_ray.align import Align, Clock, Draws
from anyecg_ray.analytes import Indicator
from anyecg_ray.owners import Who, person, whose
from anyecg_ray.predict import Shard, Source, windows_of
from anyecg_ray.splits import PARTS

Counts = Counter[tuple[str, str]]
"""(what, of which): what is `drop`, `windows`, `label` or `patient`."""

SECOND = 1_000_000
"""Microseconds."""

TOLD = pa.schema([("shard", pa.int64()), ("what", pa.string()), ("key", pa.string()), ("n", pa.int64())])


class Known(NamedTuple):
    """What all workers share, through Ray's object store."""

    draws: Draws
    parts: dict[Who, str]
    """Whose -> split."""
    people: dict[Who, tuple[float | str | None, ...]]
    """Whose -> age, sex and what the job calls `described`."""


@dataclass(frozen=True)
class Job:
    """What is to be done with every shard; plain values that travel to any node."""

    source: Source
    indicators: tuple[Indicator, ...]
    clock: Clock
    rule: Align
    per_span: int
    described: tuple[str, ...]
    """Columns of schema.DESCRIBING that the store has."""
    out: str
    work: str
    """What names this very work (unfinished.py)."""

    @property
    def shape(self) -> tuple[int, int]:
        """(leads, samples) of a window."""
        return len(self.source.recipe.leads), self.source.recipe.samples

    @property
    def schema(self) -> pa.Schema:
        """Of the files."""
        return segments.schema_of([i.key for i in self.indicators], self.shape[0] * self.shape[1], self.described)


def label_shards(batch: pa.Table, shards: list[Shard], job: Job, known: list[Any]) -> Iterator[pa.Table]:
    """Write the files of the shards that `id` names, and tell what is in them, as TOLD.

    known: one reference to a Known, in a list so that Ray does not fetch it for every call.
    """
    shared: Known = ray.get(known[0])
    for index in batch.column("id").to_pylist():
        counts = Counts()
        rows: dict[str, list[pa.Table]] = {part: [] for part in PARTS}
        for piece in windows_of(job.source, shards[index], index):
            for span in piece.to_pylist():
                found = _labelled(span, job, shared, counts)
                if found is not None:
                    rows[shared.parts[_whose(span)]].append(found)
        for part, tables in rows.items():
            if tables:
                _write(part, pa.concat_tables(tables), shards[index], job, counts)
        told = [(index, what, key, n) for (what, key), n in sorted(counts.items())]
        counted = pa.table([pa.array([t[i] for t in told], f.type) for i, f in enumerate(TOLD)], schema=TOLD)
        unfinished.leave(job.out, job.work, shards[index].name, counted)
        yield counted


def _whose(span: dict[str, Any]) -> Who:
    return whose(span["encounter_id"], span["patient_id"])


def _labelled(span: dict[str, Any], job: Job, known: Known, counts: Counts) -> pa.Table | None:
    """The windows of one span that belong into the store; each that does not is counted."""
    for flags in (q for q, usable in zip(span["quality"], span["usable"], strict=True) if not usable):
        counts["drop", f"window: {flags.split('|')[0]}"] += 1
    if span["status"] != "ok":
        counts["drop", f"span: {span['status']}"] += 1
        return None
    x = np.frombuffer(span["x"], np.float32).reshape(-1, *job.shape)
    if reason := _unfit(span, job, known):
        counts["drop", f"window: {reason}"] += len(x)
        return None
    keep = _chosen(len(x), job.per_span)
    if len(keep) < len(x):
        counts["drop", "window: more than per_span"] += len(x) - len(keep)
    start = np.asarray(span["window_start"], np.float64)[np.array(span["usable"], bool)][keep]
    y = _labels(span, start, job, known.draws)
    told = ~np.isnan(y).all(axis=1)
    if not told.all():
        counts["drop", "window: no result near it"] += int((~told).sum())
    return _table(span, x[keep[told]], start[told], y[told], job, known) if told.any() else None


def _unfit(span: dict[str, Any], job: Job, known: Known) -> str | None:
    if _whose(span) not in known.parts:
        return "its encounter is in no split"
    if job.clock != "none" and span["start_time"] is None:
        return "its time is not known"
    return None


def _chosen(n: int, most: int) -> np.ndarray:
    """Indices of at most `most` of n windows, evenly spread; 0: all."""
    return np.unique(np.linspace(0, n - 1, most).round().astype(int)) if 0 < most < n else np.arange(n)


def _began(span: dict[str, Any]) -> int | None:
    """The span's first sample in microseconds since 1970."""
    if span["start_time"] is None:
        return None
    micros: int = pa.scalar(span["start_time"], pa.timestamp("us", "UTC")).value
    return micros


def _labels(span: dict[str, Any], start: np.ndarray, job: Job, draws: Draws) -> np.ndarray:
    """(windows, indicators) float32, NaN where not measured. start: (windows,) seconds into the span."""
    middle = (_began(span) or 0) + ((start + job.source.recipe.seconds / 2) * SECOND).astype(np.int64)
    near = draws.of(span["encounter_id"], span["patient_id"])
    return align.labels(align.match(middle, draws, near, job.rule, job.clock), draws, job.indicators)


def _table(span: dict[str, Any], x: np.ndarray, start: np.ndarray, y: np.ndarray, job: Job, known: Known) -> pa.Table:
    scale, samples = segments.quantised(x)
    same = {n: span[n] for n in ("span_id", "record_id", "patient_id", "encounter_id")}
    same |= zip(("age", "sex", *job.described), known.people[_whose(span)], strict=True)
    began = _began(span)
    columns: dict[str, Any] = {name: [value] * len(x) for name, value in same.items()}
    columns |= {
        "segment_id": [f"{span['span_id']}@{s:g}" for s in start],
        "time": [None if began is None else began + int(s * SECOND) for s in start],
        "scale": scale,
    }
    columns |= {segments.label(i.key): y[:, k] for k, i in enumerate(job.indicators)}
    filled = [
        samples if f.name == "samples" else pa.array(columns[f.name], f.type, from_pandas=True) for f in job.schema
    ]
    return pa.table(filled, schema=job.schema)


def _write(part: str, rows: pa.Table, shard: Shard, job: Job, counts: Counts) -> None:
    """One file, named after its shard, so that the same shard never leaves two."""
    with storage.atomic_output(storage.join(job.out, f"split={part}", f"part-{shard.name}.parquet")) as file:
        # samples are noise to a compressor; rows of 256 make a read that a training batch can use
        pq.write_table(rows, file, compression="none", use_dictionary=False, row_group_size=256)
    counts["windows", part] += len(rows)
    for patient, encounter in zip(rows["patient_id"].to_pylist(), rows["encounter_id"].to_pylist(), strict=True):
        counts["patient", f"{part} {person(encounter, patient)}"] = 1
    _count_labels(rows, part, job.indicators, counts)


def _count_labels(rows: pa.Table, part: str, indicators: Sequence[Indicator], counts: Counts) -> None:
    for indicator in indicators:
        y = rows[segments.label(indicator.key)].to_numpy()
        told = y[~np.isnan(y)]
        positive = len(told) if indicator.direction == "value" else int((told > 0).sum())
        counts["label", f"{part} positive {indicator.key}"] += positive
        counts["label", f"{part} negative {indicator.key}"] += len(told) - positive
