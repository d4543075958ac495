"""Numbers for Prometheus, through Ray's own exporter: every node serves its own, docs/operations.md says where.

ray_anyecg_spans_total{status}            spans that were made durable, by status (driver)
ray_anyecg_windows_total                  windows that the model has read
ray_anyecg_bytes_read_total               bytes fetched from the archive
ray_anyecg_stage_seconds_total{stage}     seconds spent in fetch, preprocess, model and commit, over all processes
ray_anyecg_model_windows_per_second       of each copy of the model, over its last piece

A driver counts in the thread that shuts Ray down: a metric that another thread touches in the middle of that ends the
whole process (Ray 2.60), with exit code 1 and without a word.
"""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache

import ray
from ray.util.metrics import Counter, Gauge


@lru_cache
def _counter(name: str, told: str, *tags: str) -> Counter:
    return Counter(f"anyecg_{name}", description=told, tag_keys=tags)


@lru_cache
def _rate() -> Gauge:
    return Gauge("anyecg_model_windows_per_second", description="Windows per second of one copy of the model.")


def spans(by_status: Mapping[str, int]) -> None:
    """Count spans that were made durable."""
    for status, n in by_status.items():
        _add(_counter("spans_total", "Spans made durable, by status.", "status"), n, {"status": status})


def read(size: int) -> None:
    """Count bytes fetched."""
    _add(_counter("bytes_read_total", "Bytes fetched from the archive."), size)


def predicted(windows: int, seconds: float) -> None:
    """Count windows that the model read, and its seconds, and say how fast that was."""
    spent("model", seconds)
    _add(_counter("windows_total", "Windows that the model has read."), windows)
    if ray.is_initialized() and seconds > 0:
        _rate().set(windows / seconds)


@contextmanager
def stage(name: str) -> Iterator[None]:
    """Count the seconds of the block."""
    started = time.perf_counter()
    try:
        yield
    finally:
        spent(name, time.perf_counter() - started)


def spent(name: str, seconds: float) -> None:
    """Count seconds of a stage."""
    _add(_counter("stage_seconds_total", "Seconds spent, by stage.", "stage"), seconds, {"stage": name})


def _add(counter: Counter, n: float, tags: dict[str, str] | None = None) -> None:
    if n > 0 and ray.is_initialized():  # the same functions run without Ray too
        counter.inc(n, tags=tags or {})
