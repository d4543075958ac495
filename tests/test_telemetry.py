"""What Prometheus reads from a node while a back-fill's own functions run on it."""

import re
import time
import urllib.request

import ray

from anyecg_ray import telemetry


def exported(port):
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        return answer.read().decode()


def number(text, name, *tags):
    """The sum over the lines of a metric that bear these tags."""
    lines = [line for line in text.splitlines() if line.startswith(f"{name}{{") and all(t in line for t in tags)]
    return sum(float(re.split(r"\s+", line)[1]) for line in lines) if lines else None


def test_counters_and_the_gauge_reach_the_exporter(on_ray):
    @ray.remote
    def work():
        telemetry.spans({"ok": 5, "flat": 2})
        telemetry.read(1000)
        telemetry.predicted(20, 0.5)
        with telemetry.stage("fetch"):
            time.sleep(0.01)
        time.sleep(12)  # a process reports every ten seconds

    ray.get(work.remote())
    (node,) = ray.nodes()
    until = time.monotonic() + 60
    text = exported(node["MetricsExportPort"])
    while number(text, "ray_anyecg_windows_total") is None and time.monotonic() < until:
        time.sleep(1)
        text = exported(node["MetricsExportPort"])
    assert number(text, "ray_anyecg_spans_total", 'status="ok"') == 5
    assert number(text, "ray_anyecg_spans_total", 'status="flat"') == 2
    assert number(text, "ray_anyecg_bytes_read_total") == 1000
    assert number(text, "ray_anyecg_windows_total") == 20
    assert number(text, "ray_anyecg_stage_seconds_total", 'stage="fetch"') >= 0.01
    assert number(text, "ray_anyecg_stage_seconds_total", 'stage="model"') == 0.5
    assert number(text, "ray_anyecg_model_windows_per_second") == 40


def test_without_ray_nothing_is_counted_and_nothing_fails():
    if not ray.is_initialized():
        telemetry.spans({"ok": 1})
        with telemetry.stage("fetch"):
            telemetry.predicted(1, 1.0)
    assert telemetry.read(0) is None


def test_what_overlaps_is_counted_once(monkeypatch):
    clock = iter([0.0, 4.0, 5.0, 10.0, 20.0, 21.0])
    monkeypatch.setattr(telemetry.time, "perf_counter", lambda: next(clock))
    busy = telemetry.Busy()
    busy.begin()  # a piece from 0 to 10
    busy.begin()  # another from 4 to 5
    assert busy.end() == 5.0
    assert busy.end() == 5.0
    busy.begin()
    assert busy.end() == 1.0


def test_a_rate_is_of_more_than_a_moment(monkeypatch):
    monkeypatch.setattr(telemetry.ray, "is_initialized", lambda: True)
    recent = telemetry._Recent()
    assert recent.rate(256, 1.0) == 256
    assert recent.rate(30, 0.001) is None  # the end of a piece
    assert recent.rate(226, 0.999) == 256
