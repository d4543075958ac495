"""Measure the stages, alone and end to end, in one run: figures from two runs are not comparable.

Every rate is of steady state. End to end is the very pipeline of `anyecg backfill`, its commits included, from its
first estimates on, before which little was read. The model alone is fed windows from memory, in turns with the
pipeline, which stands still meanwhile: what else a shared machine does then slows both alike. `published` is how
ECGFounder's own code does it (bench_ecgfounder.py). The same records go through all of them, from the page cache.
"""

import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import pyarrow.parquet as pq
from pydantic import Field, PositiveInt, model_validator
from pydantic_settings import CliPositionalArg

from anyecg_ray import (
    bench_backfill,
    bench_ecgfounder,
    bench_growth,
    bench_resume,
    bench_serve,
    bench_stages,
    bench_table,
    bench_train,
    json_file,
    storage,
)
from anyecg_ray.backends import Compute
from anyecg_ray.backfill import backfill
from anyecg_ray.bench_marks import WARM, Marks
from anyecg_ray.bench_setup import Setup
from anyecg_ray.config import InputError, Location
from anyecg_ray.machine import cores
from anyecg_ray.predict import Predict, Source
from anyecg_ray.resource_usage import Sampled, sampled
from anyecg_ray.warehouses import Kind
from anyecg_ray.warehouses.addresses import holds_secret

PUBLISHED_WINDOWS = 640
"""Windows of the published way, at least. Its loader reads ahead before the clock starts, which flatters short runs:
three batches of 512 (90 s) are short."""


class Bench(Compute):
    """Measure the stages, alone and end to end, and print a table."""

    what: CliPositionalArg[Literal["model", "preprocess", "read", "score", "growth", "train", "backfill", "serve"]]
    """model, preprocess, read: one stage alone, read from packs too. score: all of them and end to end, in one run.
    growth: end to end over more and more of something. train: training through Ray against a bare loop on the same
    tensors. backfill: what ledger and warehouse cost, and a resume. serve: the endpoint under the load of `hey`."""

    json_file: Location | None = Field(default=None, alias="json")
    """Write the figures here too."""

    archive: Location | None = None
    """Records to measure on; by default a synthetic archive is made for the run."""

    dataset: Literal["wfdb", "mc-med", "mimic-iv-ecg", "ptb-xl"] = "wfdb"
    """Kind of the archive."""

    bundle: Location | None = None
    """Model to measure; by default an untrained one of the full size that reads lead II."""

    windows: int = Field(20_000, ge=1)
    """Windows that go end to end: records are scored again and again until there are so many."""

    grow: list[str] = ["spans:1000:10000:100000"]
    """What grows, and through which values, in rising order: memory that a run took is not given back to the next.
    spans of the archive; workers of a cluster on this machine; of an archive and a model made for it: seconds of a
    record, leads, indicators."""

    published_batches: list[PositiveInt] = [512, 32]
    """Batch sizes of the published way; the first is the published one. Empty: leave it out."""

    train_encounters: int = Field(300, ge=1)
    """Synthetic visits to train on."""

    train_preset: Literal["tiny", "small", "full"] = "tiny"
    """Size of the network that is trained."""

    sinks: list[Kind] = ["parquet", "iceberg", "delta"]
    """Warehouses that backfill goes into."""

    postgres: str | None = None
    """For the warehouse postgres: the URI of a database that may be written into."""

    packed: Location | None = None
    """Where read packs the archive: a folder or s3:// prefix beside it; by default a temporary folder."""

    shards: list[PositiveInt] = [1_000, 10_000, 100_000]
    """Shards of the ledgers that are resumed."""

    finished: int = Field(1_000_000, ge=0)
    """Spans of a job of which all is done, which backfill finds out and status tells; 0: leave it out."""

    connections: list[PositiveInt] = [1, 8, 32, 128]
    """Connections that load the endpoint at a time."""

    load_seconds: float = Field(20, gt=0)
    """For so long each number of connections loads the endpoint."""

    ecg_seconds: int = Field(10, ge=10)
    """Of the ECG that a request holds; each ten seconds are a window."""

    soak_minutes: float = Field(2, ge=0)
    """For so long 32 connections load the endpoint while its memory is watched; 0: leave it out."""

    predict: Predict = Predict()
    """How the pipeline is laid out."""

    @model_validator(mode="after")
    def _holds_no_secret(self) -> Self:
        if holds_secret(self.postgres or ""):
            raise InputError("setting postgres: holds a password or a token; put it into PGPASSWORD or ~/.pgpass")
        return self


def bench(settings: Bench) -> dict[str, Any]:
    """Run it, print the table, and return the figures. Raises InputError where an input cannot be used."""
    if settings.json_file:
        storage.check_writable(settings.json_file)
    figures = {"machine": bench_table.machine(), "settings": settings.model_dump()}
    with tempfile.TemporaryDirectory() as folder, sampled() as use:
        measured = _MEASURES[settings.what](Setup(settings, folder))
    figures |= {**_used(use), **measured, "over_time": use.over_time}
    bench_table.show(figures)
    if settings.json_file:
        json_file.write(settings.json_file, figures)
    return figures


def _score(setup: Setup) -> dict[str, Any]:
    stages = {**bench_stages.read(setup), **bench_stages.preprocess(setup)}
    model = bench_stages.Alone(setup)
    model.measure()
    whole = _end_to_end(setup, setup.spans(), model.measure)
    model.measure()
    theirs = _published(setup)
    before, *turns, after = model.rates
    alone = float(np.mean(turns or [before, after]))
    figures = {
        **stages,
        **model.figures(),
        "model_windows_per_s": alone,
        "model_before_after": [before, after],
        "model_in_turns": turns,
    }
    figures |= {**whole, "end_to_end_over_model": whole["end_to_end_windows_per_s"] / alone}
    if theirs:
        rates = {f"published_{batch}_windows_per_s": rate for batch, rate in theirs.items()}
        first, best = next(iter(theirs.values())), max(theirs.values())
        figures |= {**rates, "published_windows_per_s": first}
        figures["end_to_end_over_published"] = whole["end_to_end_windows_per_s"] / first
        figures["end_to_end_over_published_best"] = whole["end_to_end_windows_per_s"] / best
    return figures


def _growth(setup: Setup) -> dict[str, Any]:
    figures = {}
    for axis, values in [bench_growth.parsed(told) for told in setup.settings.grow]:
        for n in values:
            figures[f"{n}_{axis}"] = _GROW.get(axis, partial(_grown, axis=axis))(setup, n)
    return figures


def _on_workers(setup: Setup, n: int) -> dict[str, Any]:
    """On a cluster of so many workers, a copy of the model of one thread on each."""
    settings = setup.settings
    grown = settings.model_copy(update={"threads": 1, "predict": settings.predict.model_copy(update={"actors": n})})
    folder = Path(setup.folder, f"{n}-workers")
    folder.mkdir()
    one = Setup(grown, str(folder))
    with bench_growth.workers(n):
        return _end_to_end(one, one.spans())


def _grown(setup: Setup, n: int, axis: bench_growth.Axis) -> dict[str, Any]:
    folder = Path(setup.folder, f"{n}-{axis}")
    made = {
        "archive": bench_growth.archive(axis, n, folder / "archive"), "dataset": "wfdb",
        "bundle": bench_growth.bundle(axis, n, folder / "bundle"),
    }  # fmt: skip
    one = Setup(setup.settings.model_copy(update=made), str(folder))
    return _end_to_end(one, one.spans())


def _end_to_end(setup: Setup, spans: int, turn: Callable[[], object] | None = None) -> dict[str, Any]:
    """The back-fill's own pipeline and commits over a repeated manifest of so many spans.

    turn: what is measured in turns with it.
    """
    with sampled() as use:
        marks = Marks(use.leave_out(turn) if turn else None)
        spans_done = backfill(setup.job(spans, f"out-{spans}"), marks.watch).total()
    return {
        "end_to_end_windows_per_s": marks.rate(warm=0.0 if turn else WARM),
        "end_to_end_windows": marks.windows,
        "end_to_end_start_s": marks.first_s,
        "end_to_end_spans": spans_done,
        **_used(use),
    }


def _backfill(setup: Setup) -> dict[str, Any]:
    job = setup.job(setup.spans(), "out")
    source = Source(job.manifest, setup.source.archive, setup.source.recipe)
    asked: list[Kind] = [*setup.settings.sinks, *(["postgres"] if setup.settings.postgres else [])]  # type: ignore[list-item]
    kinds = list(dict.fromkeys(asked))
    figures = bench_backfill.measured(job, source, kinds, setup.settings.postgres)
    part = next(Path(job.out).rglob("staging/*/*/part-*.parquet"))
    rows = pq.read_table(part).slice(0, 100)
    for n in setup.settings.shards:
        figures[f"{n}_shards"] = bench_resume.resume(Path(setup.folder, f"ledger-{n}"), n, rows)
    if spans := setup.settings.finished:
        figures["finished"] = bench_resume.finished(setup.job(spans, "finished"), rows)
    return figures


def _train(setup: Setup) -> dict[str, Any]:
    return bench_train.measured(Path(setup.folder), setup.settings.train_encounters, setup.settings.train_preset)


def _serve(setup: Setup) -> dict[str, Any]:
    load, model = setup.settings, bench_stages.Alone(setup)
    model.measure()
    record = setup.fetched[0].record()
    figures = bench_serve.measured(
        setup.uri, load, record, load.ecg_seconds, Path(setup.folder), load.connections, load.load_seconds,
        load.soak_minutes,
    )  # fmt: skip
    model.measure()
    figures |= {**model.figures(), "model_before_after": model.rates}
    return figures | {"serve_over_model": figures["serve_windows_per_s"] / figures["model_windows_per_s"]}


def _used(use: Sampled) -> dict[str, Any]:
    figures = {"cpu_share": use.cpu_share, "driver_peak_mb": use.peak("driver_mb"), "all_peak_mb": use.peak("all_mb")}
    return figures | ({"gpu_share": use.gpu_share, "gpu_peak_mb": use.peak("gpu_mb")} if use.over_time["gpu"] else {})


def _published(setup: Setup) -> dict[int, float]:
    """Windows per second of the published way by batch size; none where the archive has no records that it can read."""
    strips, found = setup.strips(), {}
    if setup.settings.published_batches and not len(strips):
        print("the published way is left out: it reads records of 500 Hz, with the model's leads, that lie in a folder")
        return {}
    for batch in setup.settings.published_batches:
        some = np.resize(strips, batch * max(3, -(-PUBLISHED_WINDOWS // batch))).tolist()
        found[batch] = bench_ecgfounder.windows_per_s(setup.bundle, some, batch, cores())
    return found


_GROW: dict[str, Callable[[Setup, int], dict[str, Any]]] = {"spans": _end_to_end, "workers": _on_workers}

_MEASURES = {
    "model": bench_stages.model_each_way,
    "preprocess": bench_stages.preprocess,
    "read": bench_stages.read_both,
    "score": _score,
    "growth": _growth,
    "train": _train,
    "backfill": _backfill,
    "serve": _serve,
}
