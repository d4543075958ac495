"""Numbers for Prometheus, through Ray's own exporter: every node serves its own, docs/operations.md says where.

ray_anyecg_spans_total{status}            spans that were made durable, by status (driver)
ray_anyecg_windows_total                  windows that the model has read
ray_anyecg_bytes_read_total               bytes fetched from the archive
ray_anyecg_stage_seconds_total{stage}     seconds spent in fetch, preprocess, model and commit, over all processes
ray_anyecg_model_windows_per_second       of each copy of the model, over its last quarter of a second or more

A driver counts in the thread that shuts Ray down: a metric that another thread touches in the middle of that ends the
whole process (Ray 2.60), with exit code 1 and without a word.
"""

import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache

import ray
from ray.util.metrics import Counter, Gauge

RATE_S = 0.25
"""Seconds of the model that make a rate: the last windows of a piece are a matter of milliseconds."""


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
    if rate := _recent.rate(windows, seconds):
        _rate().set(rate)


class _Recent:
    """Windows and seconds that are too few yet for a rate."""

    def __init__(self) -> None:
        self._lock, self._windows, self._seconds = threading.Lock(), 0, 0.0

    def rate(self, windows: int, seconds: float) -> float | None:
        """Windows per second with those of the calls before that gave none."""
        if not ray.is_initialized():
            return None
        with self._lock:
            self._windows, self._seconds = self._windows + windows, self._seconds + seconds
            if self._seconds < RATE_S:
                return None
            rate, self._windows, self._seconds = self._windows / self._seconds, 0, 0.0
            return rate


_recent = _Recent()


class Busy:
    """Seconds in which work was going on, however much of it at a time; from any thread."""

    def __init__(self) -> None:
        self._lock, self._going, self._since, self._seconds = threading.Lock(), 0, 0.0, 0.0

    def begin(self) -> None:
        """One more piece of work begins."""
        with self._lock:
            self._pass()
            self._going += 1

    def end(self) -> float:
        """One of them ends. Returns the seconds that no end has told before."""
        with self._lock:
            self._pass()
            self._going -= 1
            seconds, self._seconds = self._seconds, 0.0
            return seconds

    def _pass(self) -> None:
        now = time.perf_counter()
        self._seconds += now - self._since if self._going else 0.0
        self._since = now


_busy = Busy()


@contextmanager
def predicting(windows: int) -> Iterator[None]:
    """Count windows that the model of this process reads in the block; blocks may overlap."""
    _busy.begin()
    try:
        yield
    finally:
        seconds = _busy.end()
    predicted(windows, seconds)


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
