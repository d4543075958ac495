"""How fast windows come out of a pipeline, and something else measured in turns with it, while it stands still."""

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress

import psutil
import pyarrow as pa

EVERY_S = 15.0
"""Seconds of the pipeline's time after which something else has its turn."""

WARM = 0.2
"""Share of the windows that go by before the clock starts."""


class Marks:
    """When how many windows had come out of the pipeline, by a clock that stands still while the pipeline does."""

    def __init__(self, turn: Callable[[], object] | None = None) -> None:
        """turn: something that is measured in turns with the pipeline, which is stopped meanwhile."""
        self._turn, self._stood = turn, 0.0
        self._marks: list[tuple[float, int]] = []
        self.started = self.now()
        self._next = self.started + EVERY_S

    def now(self) -> float:
        """Seconds of this clock."""
        return time.perf_counter() - self._stood

    def watch(self, blocks: Iterable[pa.Table]) -> Iterator[pa.Table]:
        """Pass the blocks on."""
        for block in blocks:
            values = block.column("values").combine_chunks().flatten()
            before = self._marks[-1][1] if self._marks else 0
            self._marks.append((self.now(), before + len(values) - values.null_count))
            if self._turn and self._marks[-1][0] >= self._next:
                self._take_turn(self._turn)
            yield block

    def _take_turn(self, turn: Callable[[], object]) -> None:
        began = time.perf_counter()
        with _ray_stopped():
            turn()
        self._stood += time.perf_counter() - began
        self._next = self.now() + EVERY_S

    @property
    def windows(self) -> int:
        """All that came."""
        return self._marks[-1][1]

    @property
    def pieces(self) -> int:
        """Blocks that came."""
        return len(self._marks)

    @property
    def first_s(self) -> float:
        """Seconds until the first of them."""
        return self._marks[0][0] - self.started

    def rate(self, ended: float | None = None) -> float:
        """Windows per second once warm, to the last of them or to `ended`."""
        then, before = next(mark for mark in self._marks if mark[1] >= WARM * self.windows)
        return (self.windows - before) / ((ended or self._marks[-1][0]) - then)


@contextmanager
def _ray_stopped() -> Iterator[None]:
    """All of Ray's processes on this machine, stopped where they are for some seconds: nothing else computes."""
    processes = psutil.Process().children(recursive=True)
    try:
        for process in processes:
            with suppress(psutil.NoSuchProcess):
                process.suspend()
        yield
    finally:
        for process in processes:
            with suppress(psutil.NoSuchProcess):
                process.resume()
