"""The page's ECG, read back from its pixels: the paper, the pulse, and that the trace is the record's own.

The record is the page's example; what is expected of a pixel follows from the record and from paper: 25 mm/s, 10 mm/mV,
and 96 CSS pixels to the inch.
"""

import base64
import io

import numpy as np
import pytest
from browser import visiting
from page_server import serving
from PIL import Image

from anyecg_ray import example
from anyecg_ray.leads import TWELVE_LEADS

MM = 96 / 25.4
NAME, MARGIN = 32, 32 + 9 * MM
"""Where the calibration pulse begins, right of the lead's name; where time does, at 100%."""

SECOND, MILLIVOLT = 25 * MM, 10 * MM


@pytest.fixture(scope="module")
def page(browser):
    with serving() as server, visiting(browser, server.url) as found:
        found.goto(server.url)
        found.get_by_role("button", name="Use the example").click()
        found.get_by_role("img").wait_for()
        yield found


def strip(page):
    return page.get_by_role("region", name="ECG strip")


def pixels(page, *keys):
    """(height, width, 3) of the canvas as it is drawn after these keys, pressed from the start at 100%."""
    for key in ("Home", "0", *keys):
        strip(page).press(key)
    page.evaluate("() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
    drawn = page.get_by_role("img").evaluate("canvas => canvas.toDataURL()")
    raw = base64.b64decode(drawn.partition(",")[2])
    return np.asarray(Image.open(io.BytesIO(raw)).convert("RGB")).astype(int)


def dark(drawn):
    """Where ink is, not grid."""
    return drawn.max(axis=2) < 150


def runs(column, least):
    """(first, last) of the stretches of True that have at least so many pixels."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], column.astype(int), [0]])))
    return [(a, b - 1) for a, b in zip(edges[::2], edges[1::2], strict=True) if b - a >= least]


def pulses(drawn, zoom=1.0):
    """(top, bottom) row of each lead's calibration pulse, by its right edge; the lower one is where the median lies."""
    column = round(NAME + 7 * MM * zoom - 0.5)
    return runs(dark(drawn)[:, column - 1 : column + 2].any(axis=1), 0.8 * MILLIVOLT * zoom)


def test_each_lead_has_a_pulse_of_one_millivolt(page):
    found = pulses(pixels(page))
    assert len(found) == len(TWELVE_LEADS)
    assert [bottom - top for top, bottom in found] == pytest.approx([MILLIVOLT] * 12, abs=1.5)


def test_the_paper_is_pink_with_a_thick_line_every_five_millimetres(page):
    drawn = pixels(page)
    pink = (drawn[..., 0] > 230) & (drawn[..., 0] - drawn[..., 1] > 30)
    left, right = round(MARGIN) + 2, drawn.shape[1] - 2
    share = pink[38:-6, left:right].mean(axis=0)  # of each column, from the top lead to the lowest
    lines = np.flatnonzero(share > 0.6) + left
    wanted = np.arange(1, len(lines) + 1) * 5 * MM + MARGIN
    assert len(lines) == int((right - MARGIN) / (5 * MM))
    assert lines == pytest.approx(wanted, abs=1)


@pytest.mark.parametrize("lead", TWELVE_LEADS)
def test_the_trace_is_the_record(page, lead):
    """In every column of pixels the ink reaches from the lowest to the highest sample there, within a pixel or two."""
    drawn, i = pixels(page), TWELVE_LEADS.index(lead)
    baseline = pulses(drawn)[i][1]
    signal = example.signals()[i]
    y = baseline - (signal - np.median(signal)) * MILLIVOLT
    x = MARGIN + np.arange(len(signal)) / example.FS * SECOND
    ink = dark(drawn)
    for column in range(round(MARGIN) + 3, drawn.shape[1] - 3):
        near = (x > column - 2) & (x < column + 3)
        top, bottom = y[near].min(), y[near].max()
        rows = np.flatnonzero(ink[round(top) - 3 : round(bottom) + 4, column])
        assert len(rows), f"no ink at column {column}"
        exact = y[(x >= column) & (x < column + 1)]
        assert rows.min() + round(top) - 3 <= exact.min() + 2
        assert rows.max() + round(top) - 3 >= exact.max() - 2


def test_beats_are_where_they_are_and_as_high_as_they_are(page):
    drawn, i = pixels(page), TWELVE_LEADS.index("II")
    top, bottom = pulses(drawn)[i]
    signal = example.signals()[i]
    shown = signal[: int((drawn.shape[1] - MARGIN) / SECOND * example.FS) - 25]
    peaks = [n for n in range(25, len(shown)) if shown[n] > 0.7 and shown[n] == shown[n - 25 : n + 26].max()]
    assert len(peaks) >= 6
    ink = dark(drawn)[top - 10 : bottom]
    for n in peaks:
        column = MARGIN + n / example.FS * SECOND
        around = ink[:, round(column) - 12 : round(column) + 13]
        row = np.flatnonzero(around.any(axis=1))[0]
        assert np.flatnonzero(around[row]).mean() + round(column) - 12 == pytest.approx(column, abs=1.5)
        high = bottom - (row + top - 10)
        assert high == pytest.approx((shown[n] - np.median(signal)) * MILLIVOLT, abs=2)


def test_a_window_that_was_not_used_is_shaded_and_named(page):
    def banner(drawn):
        """Where the dark bar above the leads is, as a share of the view."""
        return (np.abs(drawn[22] - (0x5B, 0x64, 0x70)).max(axis=1) < 12).mean()

    assert banner(pixels(page)) == 0
    assert banner(pixels(page, "End")) > 0.9
    start, end = pixels(page), pixels(page, "End")
    assert dark(start)[38:, round(MARGIN) + 5 :].any()
    left = round(MARGIN) + 5
    assert np.median(end[40:-10, left:]) < np.median(start[40:-10, left:]) - 15  # shaded


def test_zoomed_it_is_the_same_ecg_twice_as_large(page):
    doubled = pixels(page, "+", "+", "+")  # 1.25 each
    zoom = 1.25**3
    assert [bottom - top for top, bottom in pulses(doubled, zoom)] == pytest.approx([zoom * MILLIVOLT] * 12, abs=2)
    assert doubled.shape[0] > 1.8 * pixels(page).shape[0]
