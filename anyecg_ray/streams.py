"""Full batches out of the windows that several callers bring at once, one stream of computation a core.

A caller's last windows seldom fill a batch, and while they are computed alone the other cores wait. Here a batch takes
them together with the first windows of the caller after it.
"""

import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, InvalidStateError, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from queue import SimpleQueue

import numpy as np

Computed = Callable[[np.ndarray], np.ndarray]
"""From a batch of windows of the one size to its outputs; of one stream, and for one thread at a time."""


@dataclass(eq=False)
class _Call:
    """Windows of one caller, and where their outputs go."""

    windows: np.ndarray
    out: np.ndarray
    taken: int = 0
    left: int = 0
    done: "Future[None]" = field(default_factory=Future)


_Part = tuple[_Call, slice, slice]
"""Of a caller's windows, and where in the batch they lie."""


class Streams:
    """Callable from several threads at once; each returns when its own windows are computed."""

    def __init__(self, streams: Sequence[Computed], batch: int) -> None:
        """batch: windows that each of the streams takes, no more and no less."""
        self._batch, self._streams = batch, len(streams)
        self._free: SimpleQueue[Computed] = SimpleQueue()
        for stream in streams:
            self._free.put(stream)
        self._pool = ThreadPoolExecutor(len(streams), "stream")
        self._lock = threading.Lock()
        self._calls: deque[_Call] = deque()

    def __call__(self, windows: np.ndarray, out: np.ndarray) -> None:
        """windows: (n, …), n > 0. out: (n, …), which is written to. Raises what a stream raises."""
        call = _Call(windows, out, left=len(windows))
        with self._lock:
            self._calls.append(call)
        for _ in range(min(self._streams, -(-len(windows) // self._batch))):
            self._pool.submit(self._compute)
        call.done.result()

    def _compute(self) -> None:
        """With one stream, until no windows are left, whoever brought them."""
        stream = self._free.get()
        try:
            while parts := self._next():
                try:
                    self._give(parts, stream(self._together(parts)))
                except BaseException as error:  # whatever it was, the callers wait for it
                    for call, _, _ in parts:
                        _end(call, error)
                    parts.clear()  # which the error's traceback holds
        finally:
            self._free.put(stream)

    def _next(self) -> list[_Part]:
        """What goes into the next batch, in the order in which it came."""
        parts: list[_Part] = []
        with self._lock:
            room = self._batch
            while room and self._calls:
                call = self._calls[0]
                n = min(room, len(call.windows) - call.taken)
                at = self._batch - room
                parts.append((call, slice(call.taken, call.taken + n), slice(at, at + n)))
                call.taken += n
                room -= n
                if call.taken == len(call.windows):
                    self._calls.popleft()
        return parts

    def _together(self, parts: list[_Part]) -> np.ndarray:
        """The batch; nothing is copied where one caller fills it."""
        (call, theirs, _), *others = parts
        if not others and theirs.stop - theirs.start == self._batch:
            return call.windows[theirs]
        batch = np.zeros((self._batch, *call.windows.shape[1:]), call.windows.dtype)
        for call, theirs, here in parts:
            batch[here] = call.windows[theirs]
        return batch

    def _give(self, parts: list[_Part], outputs: np.ndarray) -> None:
        for call, theirs, here in parts:
            call.out[theirs] = outputs[here]
            with self._lock:
                call.left -= theirs.stop - theirs.start
                complete = call.left == 0
            if complete:
                _end(call)


def _end(call: _Call, error: BaseException | None = None) -> None:
    with suppress(InvalidStateError):  # another batch has ended it already, with an error
        call.done.set_result(None) if error is None else call.done.set_exception(error)
