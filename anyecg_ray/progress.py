"""How far a job is: one line that rewrites itself on a terminal, a plain line a minute in a log."""

import sys
import time
from collections.abc import Iterable, Iterator, Sized
from typing import TypeVar

T = TypeVar("T", bound=Sized)


class Progress:
    """Rate and time left of a job over `total` things, on stderr. The rate is of the last minute or so."""

    def __init__(self, total: int, things: str) -> None:
        self._total, self._things, self._done = total, things, 0
        self._terminal = sys.stderr.isatty()
        self._marks = [(time.monotonic(), 0)]
        self._next = self._marks[0][0] + self._every()

    def watched(self, parts: Iterable[T]) -> Iterator[T]:
        """The parts as they come, counted by their length."""
        for part in parts:
            self.reach(self._done + len(part))
            yield part
        self.close()

    def reach(self, done: int) -> None:
        """Say that so many are done in all."""
        self._done = done
        if time.monotonic() >= self._next:
            self._show()

    def close(self) -> None:
        """Leave the terminal's line, where one was written."""
        if self._terminal and len(self._marks) > 1:
            print(file=sys.stderr)

    def _every(self) -> float:
        return 1 if self._terminal else 60

    def _show(self) -> None:
        now = time.monotonic()
        self._next = now + self._every()
        # the first mark is from before anything came: once there are others it would drag the rate down
        self._marks = [*self._marks[-60 // int(self._every()) :], (now, self._done)]
        (then, before), rate = self._marks[0], 0.0
        if now > then:
            rate = (self._done - before) / (now - then)
        left = duration((self._total - self._done) / rate) if rate else "?"
        line = f"{self._done:,} of {self._total:,} {self._things}, {rate:,.0f}/s, {left} left"
        ends = ("\r", "   ") if self._terminal else ("", "\n")
        print(ends[0] + line, end=ends[1], file=sys.stderr, flush=True)


def duration(seconds: float) -> str:
    """For people: 3 h 05 min."""
    minutes, s = divmod(round(seconds), 60)
    hours, m = divmod(minutes, 60)
    return f"{hours} h {m:02} min" if hours else f"{m} min {s:02} s" if m else f"{s} s"
