"""Score a manifest and commit it shard by shard: kill it anywhere, run the same line again, and it goes on.

A shard is a slice of the manifest's rows. Its rows come out of the pipeline in any order; once they are all there the
driver makes them durable in one atomic step (ledger.py) and carries them into the warehouse in another (delivery.py).
A run that finds a shard scored skips it without reading it.
"""

from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field, model_validator

from anyecg_ray import cohort_table, schema, storage, telemetry
from anyecg_ray.backends import Compute
from anyecg_ray.cohort import IndexTimes, Window
from anyecg_ray.config import InputError, JobError, Location, fingerprint
from anyecg_ray.delivery import Delivery
from anyecg_ray.estimate_rows import Granularity
from anyecg_ray.lease import Lease
from anyecg_ray.ledger import Ledger
from anyecg_ray.manifest_file import ManifestFile, check_archive, open_manifest, span_seconds
from anyecg_ray.model import Card, load
from anyecg_ray.predict import Predict, Shard, Source
from anyecg_ray.preprocess import Recipe
from anyecg_ray.progress import Progress
from anyecg_ray.schema import Status
from anyecg_ray.scoring import Run, Watch, scored
from anyecg_ray.warehouses import Sink, opened, without_secrets

ERRORS = (Status.UNREADABLE, Status.MISSING_SIGNAL, Status.TRUNCATED, Status.MISSING_LEAD, Status.TRANSIENT)
"""What counts towards `max_error_rate`: the archive or the job is wrong. A noisy strip is neither."""

STOP_AFTER = 10_000
"""Spans after which a run stops early where too many of them were errors; fewer may just be a bad folder."""

SHARD_SECONDS = 100_000.0
"""Of ECG in a shard whose spans are long, so that rows reach the warehouse every few minutes and a kill costs no more:
two cores without AMX score so much in two to three minutes."""


class Backfill(Compute):
    """Score every span of a manifest: one row per span, whatever happens."""

    manifest: Location
    """What `anyecg manifest` wrote."""

    bundle: Location
    """The model: a folder or s3:// prefix."""

    out: Location
    """Where staging goes, and the estimates unless `sink` says otherwise. The same command goes on with it."""

    archive: Location | None = None
    """Where the records lie now, if not where the manifest found them."""

    cohort: Location | None = None
    """Score only the ECGs of this table (CSV, Parquet): patient_id, encounter_id, index_time, columns of your own."""

    window: Window = Window()
    """With `cohort`: which ECGs belong to an index time."""

    granularity: Granularity = "span"
    """span: one estimate from all of a span's windows. window: each 10-second window by itself."""

    shard_spans: int = Field(1000, ge=1)
    """Spans that are committed together; fewer where they are long."""

    max_error_rate: float = Field(0.5, ge=0, le=1)
    """Fail (exit 1) where a larger share of the spans is unreadable, missing, truncated or without the lead."""

    retry_status: list[Status] = []
    """Score the spans of these statuses again, and no others; transient ones are tried again anyway."""

    sink: Sink = Sink()
    """The warehouse that takes the estimates."""

    predict: Predict = Predict()
    """How the pipeline is laid out."""

    @model_validator(mode="after")
    def _is_usable(self) -> Self:
        if self.cohort is None and self.window != Window():
            raise InputError("setting window: is around the index times of a cohort; give --cohort too")
        return self


def backfill(settings: Backfill, watch: Watch = iter) -> Counter[str]:
    """Score what is not yet scored, print the counts by status of all that is, and return them.

    Raises InputError where an input cannot be used, JobError past `max_error_rate`.
    """
    # workers of a cluster have working folders of their own
    places = {name: storage.absolute(getattr(settings, name)) for name in ("manifest", "bundle")}
    settings = settings.model_copy(update=places)
    manifest = open_manifest(settings.manifest)
    card = load(settings.bundle).card  # the whole bundle, so that a broken one fails here and not in an actor
    archive = storage.absolute(settings.archive or manifest.archive)
    source = Source(settings.manifest, archive, Recipe.from_dict(card.recipe), manifest.digests)
    check_archive(archive)
    cohort = IndexTimes(settings.cohort, settings.window) if settings.cohort else None
    shards = list(plan(settings.manifest, settings.shard_spans))
    if cohort:
        shards = cohort.choose(manifest, shards)
    ledger = Ledger(settings.out, card.model_id, card.model_version)
    with Lease(ledger.staging, {"verb": "backfill", "manifest": settings.manifest}) as lease:
        ledger.claim(claimed(settings, manifest, card, cohort))
        warehouse = opened(settings.sink, settings.out)
        work = _Work(settings, manifest, source, card, ledger, lease)
        lease.tell(shards=len(shards), spans=sum(shard.length for shard in shards))
        todo = work.left(shards)
        delivery = Delivery(ledger, warehouse, card, settings.sink.every, lease)
        run = work.score(todo, delivery, watch)
        counts = ledger.counts()
        ledger.save_tally()
        if cohort:
            cohort_table.write(cohort, ledger, card, settings.out)
        _report(counts, run, f"estimates: {warehouse.where}\nstaging:   {ledger.staging}")
        _check_errors(counts, settings.max_error_rate)
    return counts


def plan(uri: str, shard_spans: int) -> Iterator[Shard]:
    """The manifest's rows as shards: slices of its row groups, which `manifest --update` never moves."""
    for group, seconds in enumerate(span_seconds(uri)):
        until, offset = np.cumsum(seconds), 0
        while offset < len(seconds):
            before = until[offset - 1] if offset else 0.0
            fits = int(np.searchsorted(until, before + SHARD_SECONDS, side="right"))
            stop = min(max(fits, offset + 1), offset + shard_spans, len(seconds))
            yield Shard(group, offset, stop - offset)
            offset = stop


class _Work:
    """One run over one output."""

    def __init__(
        self, settings: Backfill, manifest: ManifestFile, source: Source, card: Card, ledger: Ledger, lease: Lease
    ) -> None:
        self._settings, self._manifest, self._source, self._card = settings, manifest, source, card
        self._ledger, self._lease = ledger, lease

    def left(self, shards: list[Shard]) -> list[Shard]:
        """What is still to be scored: whole shards, and spans of others that are to be tried again."""
        if asked := self._settings.retry_status:
            n = self._ledger.ask_again(set(asked))
            print(f"{n:,} spans to score again: {', '.join(asked)}", flush=True)
        done = self._ledger.done()
        todo = [shard for shard in shards if shard.name not in done]
        if done and todo:
            print(
                f"{self._settings.out}: {len(shards) - len(todo):,} of {len(shards):,} shards are done, going on",
                flush=True,
            )
        return [part for shard in todo if (part := self._unscored(shard)) is not None]

    def _unscored(self, shard: Shard) -> Shard | None:
        """The shard with the spans that are to be scored; None where it turns out that there are none."""
        again = self._ledger.again(shard.name)
        if again is None:
            return shard
        rows = self._source.rows(shard, ["span_id"])
        mask = pc.is_in(rows.column("span_id"), pa.array(again, pa.string())).to_numpy()
        if mask.any():
            return shard.only(mask)
        # a crash came between the rows and the note that they had changed
        self._ledger.stage(shard.name, schema.STAGING.empty_table())
        return None

    def score(self, todo: list[Shard], delivery: Delivery, watch: Watch) -> Run | None:
        """Score and deliver; what an earlier run left in staging goes first."""
        with delivery:
            delivery.catch_up()
            self._lease.check()
            return self._run(todo, delivery, watch) if todo else None

    def _run(self, todo: list[Shard], delivery: Delivery, watch: Watch) -> Run:
        spans = sum(shard.length for shard in todo)
        run, progress = Run(), Progress(spans, "spans")
        self._lease.tell(run_total=spans)
        settings, before = self._settings, len(self._ledger.done())
        try:
            with closing(
                scored(
                    todo, self._source, settings.bundle, settings.predict, settings,
                    lambda blocks: progress.watched(watch(blocks)), self._card.weights_sha256,
                )
            ) as shards:  # fmt: skip
                for i, (shard, rows) in enumerate(shards, 1):
                    telemetry.spans(Counter(rows.column("status").to_pylist()))
                    self._lease.check()  # one that was stopped for a while stages nothing over its successor's rows
                    delivery.add(shard.name, self._ledger.stage(shard.name, run.add(rows, self._card)))
                    self._tell(run, before + i)
                    if run.spans.total() >= STOP_AFTER and not settings.retry_status:  # all of those had failed
                        _check_errors(run.spans, settings.max_error_rate)
        finally:
            self._ledger.record(run.id, self._run_record(run))
        return run

    def _tell(self, run: Run, shards_done: int) -> None:
        self._lease.tell(
            run_id=run.id,
            shards_done=shards_done,
            run_spans=run.spans.total(),
            run_windows=run.windows,
            run_seconds=round(run.seconds, 1),
        )

    def _run_record(self, run: Run) -> dict[str, Any]:
        """What is written down of the run, whatever ended it: from memory, since storage may be what failed."""
        manifest, card = self._manifest, self._card
        settings = without_secrets(self._settings.model_dump())
        return {
            **run.summary(),
            "settings": settings,
            "settings_fingerprint": fingerprint(settings),
            "manifest": {"rows": manifest.rows, "fingerprint": fingerprint(list(manifest.digests))},
            "model": {n: getattr(card, n) for n in ("model_id", "model_version", "weights_sha256")},
            "preprocess_fingerprint": card.preprocess_fingerprint,
        }


def claimed(settings: Backfill, manifest: ManifestFile, card: Card, cohort: IndexTimes | None) -> dict[str, Any]:
    """What must be the same for a resume."""
    return {
        "schema_version": schema.SCHEMA_VERSION,
        "dataset": manifest.dataset,
        "weights_sha256": card.weights_sha256,
        "preprocess_fingerprint": card.preprocess_fingerprint,
        "indicators_and_calibration": card.estimates_fingerprint,
        "granularity": settings.granularity,
        "shard_spans": settings.shard_spans,
        "shard_seconds": SHARD_SECONDS,
        "cohort": cohort.fingerprint if cohort else None,
        "row_groups": list(manifest.digests),
    }


def _report(counts: Counter[str], run: Run | None, where: str) -> None:
    """Print the counts and where the output is."""
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
    print(where)


def _check_errors(counts: Counter[str], max_error_rate: float) -> None:
    errors = Counter({s: counts[s] for s in ERRORS if counts[s]})
    if errors.total() > max_error_rate * counts.total():
        reasons = ", ".join(f"{n:,} {status}" for status, n in errors.most_common())
        raise JobError(
            f"{errors.total():,} of {counts.total():,} spans could not be scored ({reasons}); the column "
            "status_detail of staging says why, --max-error-rate allows more"
        )
