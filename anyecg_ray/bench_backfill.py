"""Measure what exactly-once costs: the pipeline alone against the same with ledger and warehouse."""

import time
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from anyecg_ray import cluster, schema
from anyecg_ray.backfill import Backfill, backfill, plan
from anyecg_ray.bench_marks import Marks
from anyecg_ray.estimate_rows import publishable
from anyecg_ray.model import load
from anyecg_ray.predict import Source
from anyecg_ray.scoring import scored
from anyecg_ray.warehouses import Kind, Sink, opened

ROWS = 200_000
"""Published rows of the commit whose rate is measured."""


def measured(job: Backfill, source: Source, kinds: list[Kind], postgres: str | None) -> dict[str, Any]:
    """Windows per second of the bare pipeline, before and after, and of a whole back-fill into each warehouse.

    job: its `out` is where the outputs go, one below it for each warehouse. The back-fill's time ends with its last
    commit. All run in one Ray: the second or two that it takes to stop would count as a cost of the warehouse.
    """
    with cluster.connected():
        figures: dict[str, Any] = {"bare_before_windows_per_s": _bare(job, source)}
        for kind in kinds:
            out = str(Path(job.out, kind))
            marks = Marks()
            sink = Sink(kind=kind, uri=postgres if kind == "postgres" else None)
            backfill(job.model_copy(update={"out": out, "sink": sink}), marks.watch)
            figures[f"{kind}_windows_per_s"] = marks.rate(marks.now())
        figures["bare_after_windows_per_s"] = _bare(job, source)
    bare = (figures["bare_before_windows_per_s"] + figures["bare_after_windows_per_s"]) / 2
    figures |= {f"{kind}_over_bare": figures[f"{kind}_windows_per_s"] / bare for kind in kinds}
    return figures | {f"{kind}_rows_per_s": _rows_per_s(job, kind, postgres) for kind in kinds}


def _bare(job: Backfill, source: Source) -> float:
    todo, marks = list(plan(job.manifest, job.shard_spans)), Marks()
    with closing(scored(todo, source, job.bundle, job.predict, job, marks.watch)) as shards:
        for _ in shards:
            pass
    return marks.rate()


def _rows_per_s(job: Backfill, kind: Kind, postgres: str | None) -> float:
    """Rows of one big commit."""
    card = load(job.bundle).card
    staged = next(Path(job.out, kind, "staging").rglob("part-*.parquet"))
    rows = publishable(pq.read_table(staged).cast(schema.STAGING), card)
    rows = pa.concat_tables([rows] * -(-ROWS // len(rows))).slice(0, ROWS)
    keys = pa.array([f"{i}#{i // len(card.indicators)}" for i in range(ROWS)])
    rows = rows.set_column(0, schema.ECG_LAB_ESTIMATE.field("span_id"), keys)
    rows = rows.append_column("shard", pa.array(np.zeros(ROWS, np.int32)))
    warehouse = opened(Sink(kind=kind, uri=postgres if kind == "postgres" else None), str(Path(job.out, f"{kind}-big")))
    started = time.perf_counter()
    warehouse.commit(rows, "bench", 1, ["000000-000000"], replace=False)
    return ROWS / (time.perf_counter() - started)
