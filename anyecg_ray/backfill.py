"""Score a manifest and commit it shard by shard: kill it anywhere, run the same line again, and it goes on.

A shard is a slice of the manifest's rows. Its rows come out of the pipeline in any order; once they are all
there the driver commits them in one atomic step (ledger.py). A run that finds a shard committed skips it
without reading it.
"""

import platform
import sys
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import ray

from anyecg_ray import __version__, cluster, schema, storage
from anyecg_ray.backends import Compute
from anyecg_ray.config import InputError, JobError, Settings
from anyecg_ray.ledger import Ledger, with_provenance
from anyecg_ray.manifest import ManifestFile, open_manifest
from anyecg_ray.model import Card, load_card
from anyecg_ray.predict import Predict, Shard, Source, estimates
from anyecg_ray.preprocess import Recipe
from anyecg_ray.schema import Status

ERRORS = (Status.UNREADABLE, Status.MISSING_SIGNAL, Status.TRUNCATED, Status.MISSING_LEAD, Status.TRANSIENT)
"""What counts towards `max_error_rate`: the archive or the job is wrong. A noisy strip is neither."""


class Backfill(Settings):
    """Score every span of a manifest: one row per span, whatever happens."""

    manifest: str
    """What `anyecg manifest` wrote."""

    bundle: str
    """The model: a folder or s3:// prefix."""

    out: str
    """Where staging and the table ecg_lab_estimate go. The same command goes on where an earlier run stopped."""

    archive: str | None = None
    """Where the records lie now, if not where the manifest found them."""

    shard_spans: int = 1000
    """Spans that are committed together."""

    max_error_rate: float = 0.5
    """Fail (exit 1) where a larger share of the spans is unreadable, missing, truncated or without the lead."""

    predict: Predict = Predict()
    """How the pipeline is laid out."""

    compute: Compute = Compute()
    """How the model is run."""


def backfill(settings: Backfill) -> Counter[str]:
    """Score what is not yet scored, print the counts by status of all that is, and return them.

    Raises InputError where an input cannot be used, JobError past `max_error_rate`.
    """
    manifest, card = open_manifest(settings.manifest), load_card(settings.bundle)
    source = Source(settings.manifest, settings.archive or manifest.archive, Recipe.from_dict(card.recipe))
    if not storage.exists(source.archive):
        raise InputError(f"{source.archive}: no such archive; give --archive where the records lie now")
    ledger = Ledger(settings.out, card)
    ledger.claim(_job(settings, manifest, card))
    done = ledger.done()
    todo = [shard for shard in plan(manifest, settings.shard_spans) if shard.name not in done]
    if todo:
        _score(todo, source, card, ledger, settings)
    counts = ledger.counts()
    _report(counts, settings)
    return counts


def plan(manifest: ManifestFile, shard_spans: int) -> Iterator[Shard]:
    """The manifest's rows as shards: slices of its row groups, which `manifest --update` never moves."""
    for group, rows in enumerate(manifest.row_groups):
        for offset in range(0, rows, shard_spans):
            yield Shard(group, offset, min(shard_spans, rows - offset))


def finished(todo: list[Shard], blocks: Iterator[pa.Table]) -> Iterator[tuple[Shard, pa.Table]]:
    """Each shard with all of its rows, as soon as the blocks have brought the last of them."""
    parts: dict[int, list[pa.Table]] = {}
    for block in blocks:
        for index in pc.unique(block.column("shard")).to_pylist():
            rows = block.filter(pc.equal(block.column("shard"), index)).drop_columns("shard")
            parts.setdefault(index, []).append(rows)
            if sum(map(len, parts[index])) >= todo[index].length:
                yield todo[index], pa.concat_tables(parts.pop(index))
    if parts:
        raise JobError(f"{len(parts)} shards came out of the pipeline incomplete; run the same command again")


def _score(todo: list[Shard], source: Source, card: Card, ledger: Ledger, settings: Backfill) -> None:
    started, run_id = datetime.now(UTC), uuid.uuid4().hex[:12]
    progress = Progress(sum(shard.length for shard in todo))
    counts: Counter[str] = Counter()
    computed_by: set[str] = set()
    with cluster.connected():
        dataset = estimates(todo, source, settings.bundle, settings.predict, settings.compute)
        blocks = dataset.iter_batches(batch_size=None, batch_format="pyarrow")
        for shard, rows in finished(todo, progress.watched(blocks)):
            counts.update(rows.column("status").to_pylist())
            computed_by.update(rows.column("computed_by").to_pylist())
            ledger.commit(shard.name, with_provenance(rows, _provenance(card, run_id)))
    ledger.record(run_id, _told(settings, started, counts, computed_by))


def _provenance(card: Card, run_id: str) -> dict[str, Any]:
    return {
        "model_id": card.model_id,
        "model_version": card.model_version,
        "weights_sha256": card.weights_sha256,
        "preprocess_fingerprint": card.preprocess_fingerprint,
        "code_version": __version__,
        "run_id": run_id,
        "estimated_at": datetime.now(UTC),
    }


def _job(settings: Backfill, manifest: ManifestFile, card: Card) -> dict[str, Any]:
    """What must be the same for a resume."""
    return {
        "schema_version": schema.SCHEMA_VERSION,
        "dataset": manifest.dataset,
        "weights_sha256": card.weights_sha256,
        "preprocess_fingerprint": card.preprocess_fingerprint,
        "shard_spans": settings.shard_spans,
        "row_groups": manifest.digests,
    }


def _told(settings: Backfill, started: datetime, counts: Counter[str], computed_by: set[str]) -> dict[str, Any]:
    return {
        "settings": settings.model_dump(),
        "started_at": started,
        "ended_at": datetime.now(UTC),
        "spans_by_status": dict(counts),
        "computed_by": sorted(computed_by),
        "versions": {"anyecg_ray": __version__, "ray": ray.__version__, "python": platform.python_version()},
        "machine": f"{platform.machine()} {platform.system()}",
    }


def _report(counts: Counter[str], settings: Backfill) -> None:
    """Print the counts; raise JobError where too many are errors."""
    total = sum(counts.values())
    print(f"{settings.out}: {total:,} spans")
    for status, n in counts.most_common():
        print(f"  {status:15} {n:>10,}  {n / total:6.1%}")
    errors = Counter({s: counts[s] for s in ERRORS if counts[s]})
    if total and errors.total() / total > settings.max_error_rate:
        reasons = ", ".join(f"{n:,} {status}" for status, n in errors.most_common())
        raise JobError(f"{errors.total():,} of {total:,} spans could not be scored ({reasons}); see status_detail")


class Progress:
    """One line on stderr that says how far the job is; silent where stderr is not a terminal until each minute."""

    def __init__(self, total: int) -> None:
        self._total, self._done, self._started = total, 0, time.monotonic()
        self._terminal = sys.stderr.isatty()
        self._next = self._started + self._every()

    def watched(self, blocks: Any) -> Iterator[pa.Table]:
        """The blocks as they come, counted."""
        for block in blocks:
            self._done += len(block)
            if time.monotonic() >= self._next:
                self._show()
            yield block
        if self._terminal:
            print(file=sys.stderr)

    def _every(self) -> float:
        return 1 if self._terminal else 60

    def _show(self) -> None:
        self._next = time.monotonic() + self._every()
        rate = self._done / (time.monotonic() - self._started)
        left = (self._total - self._done) / rate if rate else float("inf")
        line = f"{self._done:,} of {self._total:,} spans, {rate:,.0f}/s, {left / 60:,.1f} min left"
        print(
            f"\r{line}   " if self._terminal else line, end="" if self._terminal else "\n", file=sys.stderr, flush=True
        )
