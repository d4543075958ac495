"""Each stage of a back-fill alone: the model and preprocessing on records in memory, reading from where they lie."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import numpy as np

from anyecg_ray import bench_ecgfounder, leads, storage, zips
from anyecg_ray.backends import Compute, Estimator, Precision
from anyecg_ray.bench_setup import Setup
from anyecg_ray.config import InputError, JobError
from anyecg_ray.manifest_file import read_rows
from anyecg_ray.pack import MANIFEST, Pack, pack
from anyecg_ray.predict import PIECE_WINDOWS, Source, fetch
from anyecg_ray.preprocess import filtered
from anyecg_ray.preprocess import preprocess as windows_of
from anyecg_ray.record import reads
from anyecg_ray.schema import Status
from anyecg_ray.spans import beside

STAGE_S = 5.0
"""Seconds for which a stage runs."""

SPANS = 256
"""Spans that are fetched together, as back-fill does with spans of ten seconds."""


def rate(work: Callable[[], int]) -> float:
    """Things per second: `work` does some and says how many; the first call, which may compile, is left out."""
    work()
    done, started = 0, time.perf_counter()
    while time.perf_counter() - started < STAGE_S:
        done += work()
    return done / (time.perf_counter() - started)


class Alone:
    """The model fed with windows from memory; all its rates are kept."""

    def __init__(self, setup: Setup, compute: Compute | None = None) -> None:
        started = time.perf_counter()
        self._estimator = Estimator(setup.bundle, compute or setup.settings)
        self._start_s = time.perf_counter() - started
        self._piece = setup.windows(PIECE_WINDOWS)
        self.rates: list[float] = []

    @property
    def precision(self) -> Precision:
        """In which it computes."""
        return self._estimator.choice.precision

    def measure(self) -> None:
        """Once more."""
        self.rates.append(rate(lambda: len(self._estimator.logits(self._piece))))

    def figures(self) -> dict[str, Any]:
        """Its figures."""
        how = {"model_start_s": self._start_s, "computed_by": str(self._estimator.choice)}
        return {"model_windows_per_s": float(np.mean(self.rates)), **how}


def model_each_way(setup: Setup) -> dict[str, Any]:
    """The model alone as it is asked for, and in each precision that this backend has."""
    alone = Alone(setup)
    alone.measure()
    figures = alone.figures()
    measured = {alone.precision: alone.rates}
    for precision in get_args(Precision):
        try:
            alone = Alone(setup, setup.settings.model_copy(update={"precision": precision}))
            if alone.precision in measured:  # asked for, or what it came down to
                alone.rates = measured[alone.precision]
            else:
                alone.measure()
                measured[alone.precision] = alone.rates
            figures[precision] = alone.figures()
        except (InputError, JobError) as error:
            figures[precision] = {"computed_by": f"nothing: {error}"}
    return figures


def preprocess(setup: Setup) -> dict[str, Any]:
    """Milliseconds for a lead and window: all of it, and the filters alone, ours and the published ones."""
    records = [f.record() for f in setup.fetched]
    raw = np.random.default_rng(0).standard_normal((64, 5000)).cumsum(axis=1)
    recipe = setup.source.recipe

    def ours() -> int:
        return sum(windows_of(record, recipe).x.shape[0] for record in records) * len(recipe.leads)

    def filter_alone() -> int:
        return len(filtered(raw, recipe))

    def theirs() -> int:
        bench_ecgfounder.filter_bandpass(raw[:8], 500)
        return 8

    whole, filters, published_way = (1000 / rate(work) for work in (ours, filter_alone, theirs))
    return {
        "preprocess_ms_per_lead_window": whole,
        "filters_ms_per_lead_window": filters,
        "published_filters_ms_per_lead_window": published_way,
        "published_over_filters": published_way / filters,
    }


def read(setup: Setup) -> dict[str, Any]:
    """Fetching the bytes of spans, and decoding them."""
    rows = setup.rows.slice(0, 64)
    fetched = setup.fetched
    size = sum(len(b) for f in fetched for b in f.blobs.values())
    fetching = rate(lambda: sum(len(b) for f in fetch(rows, setup.source) for b in f.blobs.values()))
    decoding = rate(lambda: sum(f.record().signals.nbytes and 1 for f in fetched))
    return {
        "fetch_mb_per_s": fetching / 1e6,
        "decode_spans_per_s": decoding,
        "decode_mb_per_s": decoding * size / len(fetched) / 1e6,
    }


def read_both(setup: Setup) -> dict[str, Any]:
    """The same, and the same spans from packs of the archive, and by the loop that one would write at first."""
    figures, source = read(setup), setup.source
    out = setup.settings.packed or str(Path(setup.folder, "packed"))
    pack(Pack(manifest=source.manifest, archive=source.archive, out=out))
    packed = Source(storage.join(out, MANIFEST), out, source.recipe)

    def fetching(of: Source) -> float:
        rows = read_rows(of.manifest, 0, 0, SPANS)
        return rate(lambda: len(fetch(rows, of)))

    before, packs, after = fetching(source), fetching(packed), fetching(source)
    plain, bare = (before + after) / 2, {}
    if _loop(source):
        loop = rate(lambda: _loop(source))
        bare = {"bare_loop_spans_per_s": loop, "fetch_over_bare_loop": plain / loop}
    return {
        **figures,
        **bare,
        "fetch_spans_per_s": plain,
        "fetch_before_after": [before, after],
        "fetch_packed_spans_per_s": packs,
        "packed_over_plain": packs / plain,
    }


def _loop(source: Source) -> int:
    """The same bytes of some of these spans, a request of s3fs after the other; returns how many spans."""
    fs, top = storage.filesystem(source.archive)
    rows = read_rows(source.manifest, 0, 0, SPANS // 8).to_pylist()
    spans = [row for row in rows if row["status"] == Status.OK and zips.MARK not in row["record_id"]]
    for row in spans:
        stop = row["start_sample"] + row["n_samples"]
        signals = leads.sufficient(tuple(row["leads"]), source.recipe.leads)
        for name, (start, size) in reads(row["header"], row["start_sample"], stop, signals).items():
            end = None if size is None else start + size
            fs.cat_file(storage.join(top, beside(row["record_id"], name)), start=start, end=end)
    return len(spans)
