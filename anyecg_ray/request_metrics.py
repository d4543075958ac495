"""What the endpoint did, in Prometheus' text format: requests by route and status, their seconds, ECGs by status.

Every ingress replica counts for itself and sends its counts to one keeper (replicas.py); /metrics is their sum,
whichever replica is asked.
"""

from collections.abc import Callable, Iterable, Mapping

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
"""Seconds: from one window on a GPU to ten minutes of twelve leads on a laptop."""

METHODS = ("GET", "POST", "HEAD", "OPTIONS", "PUT", "PATCH", "DELETE")

Snapshot = list[tuple[str, str, str, list[tuple[str, tuple[tuple[str, str], ...], float]]]]
"""(name, documentation, type, samples: (name, labels, value)): plain values, which travel."""


class Counts:
    """Counters of one process."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._requests = Counter(
            "anyecg_requests", "Requests by route, method, HTTP status and problem code.",
            ("route", "method", "status", "code"), registry=self.registry,
        )  # fmt: skip
        self._seconds = Histogram(
            "anyecg_request_seconds", "Seconds from a request's headers to the end of its answer.",
            ("route",), registry=self.registry, buckets=BUCKETS,
        )  # fmt: skip
        self._ecgs = Counter(
            "anyecg_ecgs", "ECGs that were answered, by model and status.",
            ("model", "version", "status"), registry=self.registry,
        )  # fmt: skip
        self._windows = Counter("anyecg_served_windows", "Windows that a model has read.", registry=self.registry)

    def request(self, route: str, method: str, status: int, code: str, seconds: float) -> None:
        """Count one request. status 0: its sender went away."""
        method = method if method in METHODS else "other"
        self._requests.labels(route, method, str(status or 499), code).inc()
        self._seconds.labels(route).observe(seconds)

    def ecg(self, model: str, version: str, status: str, windows: int) -> None:
        """Count one ECG that was answered."""
        self._ecgs.labels(model, version, status).inc()
        self._windows.inc(windows)

    def snapshot(self) -> Snapshot:
        """All numbers as they are."""
        return [
            (m.name, m.documentation, m.type,
             [(s.name, tuple(sorted(s.labels.items())), s.value) for s in m.samples if not s.name.endswith("_created")])
            for m in self.registry.collect()
        ]  # fmt: skip


def text(snapshots: Iterable[Snapshot]) -> bytes:
    """The sum of what several processes counted, as Prometheus reads it."""
    registry = CollectorRegistry()
    registry.register(_Summed(list(snapshots)))
    return generate_latest(registry)


class _Summed(Collector):
    def __init__(self, snapshots: list[Snapshot]) -> None:
        self._snapshots = snapshots

    def collect(self) -> Iterable[Metric]:
        families: dict[str, Metric] = {}
        sums: dict[str, dict[tuple[str, tuple[tuple[str, str], ...]], float]] = {}
        for snapshot in self._snapshots:
            for name, told, kind, samples in snapshot:
                families.setdefault(name, FAMILIES[kind](name, told))
                of_family = sums.setdefault(name, {})
                for sample, labels, value in samples:
                    of_family[sample, labels] = of_family.get((sample, labels), 0.0) + value
        for name, family in families.items():
            for (sample, labels), value in sums[name].items():
                family.add_sample(sample, dict(labels), value)
            yield family


FAMILIES: Mapping[str, Callable[[str, str], Metric]] = {
    "counter": CounterMetricFamily,
    "histogram": HistogramMetricFamily,
}
