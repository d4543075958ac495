"""Score a manifest and commit it shard by shard: kill it anywhere, run the same line again, and it goes on.

A shard is a slice of the manifest's rows. Its rows come out of the pipeline in any order; once they are all
there the driver commits them in one atomic step (ledger.py). A run that finds a shard committed skips it
without reading it.
"""

import platform
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import ray

from anyecg_ray import __version__, cluster, schema, storage
from anyecg_ray.backends import Compute
from anyecg_ray.config import InputError, JobError, fingerprint
from anyecg_ray.ledger import Ledger, with_provenance
from anyecg_ray.manifest import ManifestFile, open_manifest
from anyecg_ray.model import Card, load
from anyecg_ray.predict import Predict, Shard, Source, estimates
from anyecg_ray.preprocess import Recipe
from anyecg_ray.progress import Progress
from anyecg_ray.publish import Granularity
from anyecg_ray.schema import Status

ERRORS = (Status.UNREADABLE, Status.MISSING_SIGNAL, Status.TRUNCATED, Status.MISSING_LEAD, Status.TRANSIENT)
"""What counts towards `max_error_rate`: the archive or the job is wrong. A noisy strip is neither."""

STOP_AFTER = 10_000
"""Spans after which a run stops early where too many of them were errors; fewer may just be a bad folder."""


class Backfill(Compute):
    """Score every span of a manifest: one row per span, whatever happens."""

    manifest: str
    """What `anyecg manifest` wrote."""

    bundle: str
    """The model: a folder or s3:// prefix."""

    out: str
    """Where staging and the table ecg_lab_estimate go. The same command goes on where an earlier run stopped."""

    archive: str | None = None
    """Where the records lie now, if not where the manifest found them."""

    granularity: Granularity = "span"
    """span: one estimate from all of a span's windows. window: each 10-second window by itself."""

    shard_spans: int = 1000
    """Spans that are committed together."""

    max_error_rate: float = 0.5
    """Fail (exit 1) where a larger share of the spans is unreadable, missing, truncated or without the lead."""

    predict: Predict = Predict()
    """How the pipeline is laid out."""


def backfill(settings: Backfill) -> Counter[str]:
    """Score what is not yet scored, print the counts by status of all that is, and return them.

    Raises InputError where an input cannot be used, JobError past `max_error_rate`.
    """
    manifest = open_manifest(settings.manifest)
    card = load(settings.bundle).card  # the whole bundle, so that a broken one fails here and not in an actor
    source = Source(settings.manifest, settings.archive or manifest.archive, Recipe.from_dict(card.recipe))
    if not storage.exists(source.archive):
        raise InputError(f"{source.archive}: no such archive; give --archive where the records lie now")
    ledger = Ledger(settings.out, card, settings.granularity)
    ledger.claim(_job(settings, manifest, card))
    done = ledger.done()
    shards = list(plan(manifest, settings.shard_spans))
    todo = [shard for shard in shards if shard.name not in done]
    if done and todo:
        print(f"{settings.out}: {len(shards) - len(todo):,} of {len(shards):,} shards are done, going on", flush=True)
    progress = Progress(sum(shard.length for shard in todo), "spans")
    run = score(todo, source, card, ledger, settings, progress.watched) if todo else None
    counts = ledger.counts()
    _report(counts, run, ledger, settings)
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


@dataclass
class Run:
    """What one run did."""

    id: str = field(default_factory=lambda: uuid.uuid4().hex[:12])
    started: float = field(default_factory=time.time)
    spans: Counter[str] = field(default_factory=Counter)
    windows: int = 0
    computed_by: set[str] = field(default_factory=set)

    def add(self, rows: pa.Table) -> None:
        """Count a shard's rows, schema.STAGING and `computed_by`."""
        self.spans.update(rows.column("status").to_pylist())
        values = rows.column("values").combine_chunks().flatten()
        self.windows += len(values) - values.null_count
        self.computed_by.update(rows.column("computed_by").to_pylist())

    @property
    def seconds(self) -> float:
        """Since it started, with what Ray takes to start."""
        return time.time() - self.started


def score(
    todo: list[Shard],
    source: Source,
    card: Card,
    ledger: Ledger,
    settings: Backfill,
    watched: Callable[[Iterable[pa.Table]], Iterator[pa.Table]],
) -> Run:
    """Run the pipeline over the shards and commit each; what was done is recorded even where it stops early.

    watched: passes the pipeline's blocks on, and may look at them.
    """
    run = Run()
    try:
        with cluster.connected():
            dataset = estimates(todo, source, settings.bundle, settings.predict, settings)
            blocks = dataset.iter_batches(batch_size=None, batch_format="pyarrow")
            for shard, rows in finished(todo, watched(blocks)):
                ledger.commit(shard.name, with_provenance(rows, _provenance(card, run.id)))
                run.add(rows)
                if run.spans.total() >= STOP_AFTER:
                    _check_errors(run.spans, settings.max_error_rate)
    except ray.exceptions.RayError as error:
        raise _explained(error) from None
    finally:
        ledger.record(run.id, _told(settings, run, card))
    return run


def _explained(error: ray.exceptions.RayError) -> InputError | JobError:
    """One line instead of Ray's pages: what a worker raised, or how Ray itself failed."""
    cause = error.as_instanceof_cause() if isinstance(error, ray.exceptions.RayTaskError) else error
    if isinstance(cause, (InputError, JobError)):
        return type(cause)(str(cause.args[0] if cause.args else cause))
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return JobError(f"the pipeline failed ({type(error).__name__}: {lines[-1]}); run the same command to go on")


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
        "granularity": settings.granularity,
        "shard_spans": settings.shard_spans,
        "row_groups": list(manifest.digests),
    }


def _told(settings: Backfill, run: Run, card: Card) -> dict[str, Any]:
    """The run manifest."""
    manifest = open_manifest(settings.manifest)
    return {
        "run_id": run.id,
        "settings": settings.model_dump(),
        "settings_fingerprint": fingerprint(settings.model_dump()),
        "manifest": {"rows": manifest.rows, "fingerprint": fingerprint(list(manifest.digests))},
        "model": {n: getattr(card, n) for n in ("model_id", "model_version", "weights_sha256")},
        "preprocess_fingerprint": card.preprocess_fingerprint,
        "started_at": datetime.fromtimestamp(run.started, UTC),
        "ended_at": datetime.now(UTC),
        "seconds": round(run.seconds, 2),
        "spans_by_status": dict(run.spans),
        "windows": run.windows,
        "windows_per_second": round(run.windows / run.seconds, 2),
        "computed_by": sorted(run.computed_by),
        "versions": {"anyecg_ray": __version__, "ray": ray.__version__, "python": platform.python_version()},
        "machine": f"{platform.machine()} {platform.system()}",
    }


def _report(counts: Counter[str], run: Run | None, ledger: Ledger, settings: Backfill) -> None:
    """Print the counts and where the output is; raise JobError where too many are errors."""
    total = counts.total()
    print(f"{total:,} spans")
    for status, n in counts.most_common():
        print(f"  {status:15} {n:>10,}  {n / total:6.1%}")
    if run is None:
        print("nothing was left to score")
    else:
        by = ", ".join(sorted(run.computed_by))
        rate = run.windows / run.seconds
        print(f"{run.windows:,} windows in {run.seconds:,.0f} s ({rate:,.0f}/s, start included) by {by}")
    print(f"estimates: {ledger.table}\nstaging:   {ledger.staging}")
    _check_errors(counts, settings.max_error_rate)


def _check_errors(counts: Counter[str], max_error_rate: float) -> None:
    errors = Counter({s: counts[s] for s in ERRORS if counts[s]})
    if errors.total() > max_error_rate * counts.total():
        reasons = ", ".join(f"{n:,} {status}" for status, n in errors.most_common())
        raise JobError(
            f"{errors.total():,} of {counts.total():,} spans could not be scored ({reasons}); the column "
            "status_detail of staging says why, --max-error-rate allows more"
        )
