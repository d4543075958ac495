"""Batches out of several callers' windows: each caller gets its own rows, and batches are full while there is work."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from anyecg_ray.streams import Streams

BATCH = 4


class Doubling:
    """Streams that double what they get, and remember how many windows of each batch were nobody's (zeros)."""

    def __init__(self, n):
        self.streams = Streams([self] * n, BATCH)
        self.padding = []

    def __call__(self, batch):
        assert len(batch) == BATCH
        time.sleep(0.002)
        self.padding.append(int((batch == 0).sum()))
        if (batch < 0).any():
            raise MemoryError("no room")
        return 2 * batch


def computed(streams, windows):
    out = np.empty_like(windows)
    streams(windows, out)
    return out


@pytest.mark.parametrize("n", [1, 3, 4, 5, 8, 31])
@pytest.mark.parametrize("streams", [1, 3])
def test_every_window_comes_back_in_its_place(n, streams):
    doubling = Doubling(streams)
    windows = np.arange(1.0, n + 1)
    np.testing.assert_array_equal(computed(doubling.streams, windows), 2 * windows)
    assert sum(doubling.padding) == -n % BATCH
    assert doubling.streams.idle


def test_callers_beside_each_other_get_their_own_and_share_batches():
    doubling = Doubling(2)
    calls = [np.arange(1.0, 1 + n) + 1000 * i for i, n in enumerate([5, 7, 6, 9, 1, 13, 2, 30] * 5)]
    with ThreadPoolExecutor(2) as callers:
        answers = list(callers.map(lambda windows: computed(doubling.streams, windows), calls))
    for windows, answer in zip(calls, answers, strict=True):
        np.testing.assert_array_equal(answer, 2 * windows)
    alone = sum(-len(windows) % BATCH for windows in calls)
    assert sum(doubling.padding) < alone / 2  # the last windows of one go with the first of the next


def test_a_batch_that_fails_is_told_to_its_callers_alone():
    doubling = Doubling(2)
    with pytest.raises(MemoryError, match="no room"):
        computed(doubling.streams, np.array([1.0, 2, 3, 4, -5, 6, 7, 8, 9]))
    windows = np.arange(1.0, 10)
    np.testing.assert_array_equal(computed(doubling.streams, windows), 2 * windows)


def test_its_threads_end_with_it():
    before = threading.active_count()
    for _ in range(3):
        computed(Streams([np.copy] * 2, BATCH), np.ones(9))
    until = time.monotonic() + 10
    while threading.active_count() > before and time.monotonic() < until:
        time.sleep(0.05)
    assert threading.active_count() <= before
