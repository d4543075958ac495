"""What a stretch of work takes of the machine, sampled over time: processor, and memory of driver and workers."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import psutil

EVERY_S = 0.5


@dataclass
class Sampled:
    """Samples of one stretch, complete once it has ended."""

    cpu: list[float] = field(default_factory=list)
    """Share of all cores that was busy, one each half second."""
    driver_mb: float = 0.0
    """Peak resident memory of this process."""
    all_mb: float = 0.0
    """Peak of this process and all that it started; what they share counts once for each."""

    def cpu_share(self) -> float:
        """Median share of all cores that was busy, the first fifth left out."""
        steady = sorted(self.cpu[len(self.cpu) // 5 :])
        return steady[len(steady) // 2] if steady else 0.0


@contextmanager
def sampled() -> Iterator[Sampled]:
    """Sample while the block runs."""
    found, stop = Sampled(), threading.Event()
    thread = threading.Thread(target=_sample, args=(found, stop), daemon=True)
    psutil.cpu_percent()  # sets the start of the first interval
    thread.start()
    try:
        yield found
    finally:
        stop.set()
        thread.join()


def _sample(found: Sampled, stop: threading.Event) -> None:
    me = psutil.Process()
    while not stop.is_set():
        time.sleep(EVERY_S)
        found.cpu.append(psutil.cpu_percent() / 100)
        found.driver_mb = max(found.driver_mb, _resident_mb(me))
        found.all_mb = max(found.all_mb, all_mb(me))


def all_mb(process: psutil.Process) -> float:
    """Resident memory of a process and of all that it started; what they share counts once for each."""
    return sum(_resident_mb(p) for p in [process, *process.children(recursive=True)])


def _resident_mb(process: psutil.Process) -> float:
    try:
        return float(process.memory_info().rss) / 1e6
    except psutil.Error:  # it has ended meanwhile
        return 0.0
