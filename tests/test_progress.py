"""One line on a terminal, plain lines in a log, and nothing at all for what is quick."""

import io
import time

import pytest

from anyecg_ray import progress
from anyecg_ray.progress import Progress


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def clock(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


def run(monkeypatch, clock, stream, seconds):
    monkeypatch.setattr(progress.sys, "stderr", stream)
    shown = Progress(1000, "spans")

    def parts():
        for _ in range(10):
            clock[0] += seconds
            yield [0] * 100

    assert sum(len(part) for part in shown.watched(parts())) == 1000
    return stream.getvalue()


def test_a_terminal_has_one_line_that_rewrites_itself(monkeypatch, clock):
    text = run(monkeypatch, clock, Terminal(), 2)
    assert text.count("\r") == 10
    assert text.count("\n") == 1
    assert "500 of 1,000 spans, 50/s, 10 s left" in text


def test_a_log_has_a_line_a_minute(monkeypatch, clock):
    lines = run(monkeypatch, clock, io.StringIO(), 20).splitlines()
    assert len(lines) == 3
    assert lines[0] == "300 of 1,000 spans, 5/s, 2 min 20 s left"


def test_what_is_quick_says_nothing(monkeypatch, clock):
    assert run(monkeypatch, clock, io.StringIO(), 0.01) == ""
