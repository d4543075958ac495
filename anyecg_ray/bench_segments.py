"""Measure how fast Ray Data reads a segment store back, beside reading the same files and doing nothing with them."""

import os
import statistics
import time
from pathlib import Path
from typing import Any

from anyecg_ray import cluster, segments

SIZE = 2 << 30
"""Bytes that are read: the same parts again and again under other names, from the page cache."""

PASSES = 4


def measured(store: str, folder: Path) -> dict[str, Any]:
    """Megabytes and windows per second of the training split. store: a folder."""
    files = _repeated(store, folder)
    size = sum(file.stat().st_size for file in files)
    plain, through, windows = [], [], 0
    with cluster.connected():
        for _ in range(PASSES):
            plain.append(size / _plain(files))
            seconds, windows = _through(str(folder))
            through.append(size / seconds)
    rate = statistics.median(through[1:])  # the first starts Ray's processes
    return {
        "segments_mb_per_s": rate / 1e6,
        "segments_plain_mb_per_s": statistics.median(plain[1:]) / 1e6,
        "segments_windows_per_s": windows * rate / size,
    }


def _repeated(store: str, folder: Path) -> list[Path]:
    split = folder / "split=train"
    split.mkdir(parents=True)
    parts = [Path(part) for part in segments.parts(store, "train")]
    times = max(1, SIZE // sum(part.stat().st_size for part in parts))
    for k in range(times):
        for part in parts:
            os.link(part, split / f"part-{k:05d}-{part.name}")
    return sorted(split.iterdir())


def _plain(files: list[Path]) -> float:
    """Seconds to read the files' bytes."""
    started = time.perf_counter()
    for path in files:
        with path.open("rb", buffering=0) as file:
            while file.read(8 << 20):
                pass
    return time.perf_counter() - started


def _through(store: str) -> tuple[float, int]:
    """Seconds to get all windows as Arrow blocks from Ray Data, and how many there were."""
    started, windows = time.perf_counter(), 0
    blocks = segments.dataset(store, "train", shuffle=0).iter_batches(batch_size=None, batch_format="pyarrow")
    for block in blocks:
        windows += len(block)
    return time.perf_counter() - started, windows
