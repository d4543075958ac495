"""Run the pipeline of predict.py over shards and hand each one on as soon as all of its rows are there."""

import platform
import time
import uuid
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import ray

from anyecg_ray import __version__, cluster
from anyecg_ray.backends import Compute
from anyecg_ray.config import JobError
from anyecg_ray.ledger import provenance, with_provenance
from anyecg_ray.model import Card
from anyecg_ray.predict import Predict, Shard, Source, estimates

Watch = Callable[[Iterable[pa.Table]], Iterator[pa.Table]]
"""Passes the pipeline's blocks on, and may look at them."""


@dataclass
class Run:
    """What one run did."""

    id: str = field(default_factory=lambda: uuid.uuid4().hex[:12])
    started: float = field(default_factory=time.time)
    spans: Counter[str] = field(default_factory=Counter)
    windows: int = 0
    computed_by: set[str] = field(default_factory=set)

    def add(self, rows: pa.Table, card: Card) -> pa.Table:
        """Count a shard's rows as the pipeline made them, and return them as rows of schema.STAGING."""
        self.spans.update(rows.column("status").to_pylist())
        values = rows.column("values").combine_chunks().flatten()
        self.windows += len(values) - values.null_count
        self.computed_by.update(rows.column("computed_by").to_pylist())
        return with_provenance(rows, provenance(card, self.id))

    @property
    def seconds(self) -> float:
        """Since the run started, Ray's own start included."""
        return time.time() - self.started

    def summary(self) -> dict[str, Any]:
        """What is written down of it."""
        return {
            "run_id": self.id,
            "started_at": datetime.fromtimestamp(self.started, UTC),
            "ended_at": datetime.now(UTC),
            "seconds": round(self.seconds, 2),
            "spans_by_status": dict(self.spans),
            "windows": self.windows,
            "windows_per_second": round(self.windows / self.seconds, 2),
            "computed_by": sorted(self.computed_by),
            "versions": {"anyecg_ray": __version__, "ray": ray.__version__, "python": platform.python_version()},
            "machine": f"{platform.machine()} {platform.system()}",
        }


def scored(
    todo: list[Shard],
    source: Source,
    bundle: str,
    settings: Predict,
    compute: Compute,
    watch: Watch,
    weights: str | None = None,
) -> Generator[tuple[Shard, pa.Table]]:
    """Each shard with its rows, in the order in which they are ready. Raises InputError, JobError.

    weights: SHA-256 of the bundle's, where it must not have others by now.
    """
    try:
        with cluster.connected():
            # blocks are small: one that waits for the next to be fetched ahead would only come later
            blocks = estimates(todo, source, bundle, settings, compute, weights).iter_batches(
                batch_size=None, batch_format="pyarrow", prefetch_batches=0
            )
            yield from finished(todo, watch(blocks))
    except ray.exceptions.RayError as error:
        raise cluster.explained(error) from None


def _each_once(rows: pa.Table) -> pa.Table:
    """As many rows as there are spans could still be one twice and another never: a task that Ray ran again."""
    if pc.count_distinct(rows.column("span_id")).as_py() != len(rows):
        raise JobError("a span came out of the pipeline twice; run the same command again")
    return rows


def finished(todo: list[Shard], blocks: Iterator[pa.Table]) -> Iterator[tuple[Shard, pa.Table]]:
    """Each shard with all of its rows, as soon as the blocks have brought the last of them."""
    parts: dict[int, list[pa.Table]] = {}
    for block in blocks:
        for index in pc.unique(block.column("shard")).to_pylist():
            rows = block.filter(pc.equal(block.column("shard"), index)).drop_columns("shard")
            parts.setdefault(index, []).append(rows)
            if sum(map(len, parts[index])) >= todo[index].length:
                yield todo[index], _each_once(pa.concat_tables(parts.pop(index)))
    if parts:
        raise JobError(f"{len(parts)} shards came out of the pipeline incomplete; run the same command again")
