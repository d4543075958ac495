"""What a stretch of work takes of the machine, sampled over time: processors, memory, and GPUs where there are any."""

import shutil
import statistics
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import psutil

EVERY_S = 1.0

COUNTERS = ("seconds", "cpu", "driver_mb", "all_mb", "gpu", "gpu_mb")


@dataclass
class Sampled:
    """Samples of one stretch, complete once it has ended."""

    over_time: dict[str, list[float | None]] = field(default_factory=lambda: {name: [] for name in COUNTERS})
    """A value each second: `seconds` since the stretch began; `cpu`, the share of all cores that was busy;
    `driver_mb` and `all_mb`, resident memory of this process, and with all that it started (what they share counts
    once for each); `gpu` and `gpu_mb`, share of time and memory of the busiest GPU: empty where there is none, None
    where it did not answer."""
    _aside: bool = False

    @property
    def cpu_share(self) -> float:
        """Median share of all cores that was busy, the first fifth left out."""
        return _median(self.over_time["cpu"])

    @property
    def gpu_share(self) -> float:
        """The same of the busiest GPU; 0 where there is none."""
        return _median(self.over_time["gpu"])

    def peak(self, name: str) -> float:
        """The highest of these samples."""
        return max((x for x in self.over_time[name] if x is not None), default=0.0)

    def leave_out(self, work: Callable[[], object]) -> Callable[[], None]:
        """The same work, during which nothing is sampled."""

        def aside() -> None:
            self._aside = True
            try:
                work()
            finally:
                self._aside = False

        return aside


@contextmanager
def sampled() -> Iterator[Sampled]:
    """Sample while the block runs."""
    found, stop = Sampled(), threading.Event()
    thread = threading.Thread(target=_sample, args=(found, stop), daemon=True)
    thread.start()
    try:
        yield found
    finally:
        stop.set()
        thread.join()


def _sample(found: Sampled, stop: threading.Event) -> None:
    me, began, aside = psutil.Process(), time.monotonic(), False
    smi = shutil.which("nvidia-smi")
    psutil.cpu_percent()  # sets the start of this thread's first interval
    while not stop.wait(EVERY_S):
        cpu, before, aside = psutil.cpu_percent() / 100, aside, found._aside
        if aside or before:  # the interval had a part of what is left out
            continue
        values = [time.monotonic() - began, cpu, _resident_mb(me), all_mb(me), *(_gpu(smi) if smi else ())]
        for name, value in zip(COUNTERS, values, strict=False):
            found.over_time[name].append(value)


def _gpu(smi: str) -> tuple[float | None, float | None]:
    """Share of time in which it computes, and MB in use, of the busiest GPU."""
    line = [smi, "--query-gpu=utilization.gpu,memory.used", "--format=csv,noheader,nounits"]
    try:
        said = subprocess.run(line, capture_output=True, text=True, timeout=5, check=True).stdout
        busiest = max(tuple(float(x) for x in row.split(",")) for row in said.splitlines() if row.strip())
    except (OSError, subprocess.SubprocessError, ValueError):
        return None, None
    return busiest[0] / 100, busiest[1] * 2**20 / 1e6


def _median(samples: list[float | None]) -> float:
    steady = [x for x in samples[len(samples) // 5 :] if x is not None]
    return statistics.median(steady) if steady else 0.0


def all_mb(process: psutil.Process) -> float:
    """Resident memory of a process and of all that it started; what they share counts once for each."""
    return sum(_resident_mb(p) for p in [process, *process.children(recursive=True)])


def _resident_mb(process: psutil.Process) -> float:
    try:
        return float(process.memory_info().rss) / 1e6
    except psutil.Error:  # it has ended meanwhile
        return 0.0
