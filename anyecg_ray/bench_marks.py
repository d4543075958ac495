"""How fast windows come out of a pipeline, and something else measured in turns with it, while it stands still."""

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress

import psutil
import pyarrow as pa

from anyecg_ray.config import InputError

EVERY_S = 15.0
"""Seconds of the pipeline's time after which something else has its turn."""

WARM = 0.2
"""Share of the windows that go by before the clock starts, where reading is what is waited for. Where the model is, it
starts with the first of them: reading runs ahead, and would be over before a fifth has come."""


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
        began, processes = time.perf_counter(), psutil.Process().children(recursive=True)
        if not any(process.name() == "raylet" for process in processes):
            self._turn = None  # Ray runs elsewhere, or was started by somebody else: it would not stand still
            return
        with _stopped(processes):
            turn()
        self._stood += time.perf_counter() - began
        self._next = self.now() + EVERY_S

    @property
    def windows(self) -> int:
        """All that came."""
        return self._marks[-1][1]

    @property
    def first_s(self) -> float:
        """Seconds until the first of them."""
        return self._marks[0][0] - self.started

    def rate(self, ended: float | None = None, warm: float = WARM) -> float:
        """Windows per second once this share of them has come, to the last of them or to `ended`.

        Raises InputError where they were too few for that.
        """
        if len(self._marks) < 3:
            raise InputError("setting windows: too few to reach a steady state; give 3000")
        then, before = next(mark for mark in self._marks if mark[1] >= warm * self.windows)
        return (self.windows - before) / ((ended or self._marks[-1][0]) - then)


@contextmanager
def _stopped(processes: list[psutil.Process]) -> Iterator[None]:
    """Processes stopped where they are: Ray's, workers and all, so that nothing else computes."""
    try:
        for process in processes:
            with suppress(psutil.NoSuchProcess):
                process.suspend()
        yield
    finally:
        for process in processes:
            with suppress(psutil.NoSuchProcess):
                process.resume()
