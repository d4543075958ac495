"""Draw an ECG as a cardiologist reads it: 25 mm/s, 10 mm/mV, on millimetre paper, with the estimates beside it."""

from collections.abc import Sequence
from typing import IO

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

MM = 1 / 25.4
"""Inches: the picture is true to scale when it is printed."""
SPEED, GAIN = 25, 10  # mm a second, mm a millivolt
CLIP = 2.0
"""Millivolts each way that the paper shows; what is beyond is cut and the trace touches the edge."""


def draw(
    millivolts: np.ndarray, fs: float, title: str, estimates: Sequence[tuple[str, str]], note: str, out: IO[bytes]
) -> None:
    """Write a PNG of one lead, (samples,) in millivolts at `fs` Hz, with name and figure of each estimate."""
    seconds = len(millivolts) / fs
    width, height, side = seconds * SPEED, 2 * CLIP * GAIN, 95
    figure = Figure(figsize=((width + side + 18) * MM, (height + 34) * MM), dpi=120)
    total_w, total_h = width + side + 18, height + 34
    paper = figure.add_axes((9 / total_w, 18 / total_h, width / total_w, height / total_h))
    _grid(paper, seconds)
    time = np.arange(len(millivolts)) / fs
    paper.plot(time, np.clip(millivolts - np.nanmedian(millivolts), -CLIP, CLIP), color="black", lw=0.7)
    figure.text(9 / total_w, 1 - 9 / total_h, title, fontsize=10, weight="bold", va="center")
    figure.text(9 / total_w, 6 / total_h, note, fontsize=8, va="center", color="#444444")
    left, top = (width + 15) / total_w, 1 - 9 / total_h
    figure.text(left, top, "Estimates", fontsize=10, weight="bold", va="center")
    for i, (name, value) in enumerate(estimates):
        y = top - (9 + 6 * i) / total_h
        figure.text(left, y, name, fontsize=9, va="center")
        figure.text(1 - 6 / total_w, y, value, fontsize=9, va="center", ha="right", family="monospace")
    FigureCanvasAgg(figure).print_png(out)


def _grid(axes: Axes, seconds: float) -> None:
    """Millimetre paper: a thin line every millimetre, a thicker one every five."""
    for step, width in ((1, 0.25), (5, 0.7)):
        axes.vlines(np.arange(0, seconds * SPEED + 0.5, step) / SPEED, -CLIP, CLIP, color="#e9a5a5", lw=width)
        axes.hlines(np.arange(-CLIP * GAIN, CLIP * GAIN + 0.5, step) / GAIN, 0, seconds, color="#e9a5a5", lw=width)
    axes.set(xlim=(0, seconds), ylim=(-CLIP, CLIP), xticks=np.arange(0, seconds + 0.5), yticks=[])
    axes.tick_params(length=0, labelsize=7, labelcolor="#666666")
    axes.set_frame_on(False)
    axes.set_xlabel("seconds · 25 mm/s · 10 mm/mV", fontsize=7, color="#666666", loc="right")
