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
        self.go = threading.Event()
        self.go.set()

    def __call__(self, batch):
        assert len(batch) == BATCH
        assert self.go.wait(10)
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


def beside(doubling, *calls):
    """What each caller gets, windows or an error, where all are there before the one stream has done anything."""

    def one(windows):
        try:
            return computed(doubling.streams, windows)
        except MemoryError as error:
            return error

    doubling.go.clear()
    with ThreadPoolExecutor(len(calls)) as callers:
        answers = []
        for windows in calls:
            answers.append(callers.submit(one, windows))
            until = time.monotonic() + 10
            # the first has more windows than fill the batch that waits
            while not any(call.windows is windows for call in doubling.streams._calls) and time.monotonic() < until:
                time.sleep(0.001)
        doubling.go.set()
        return [answer.result(10) for answer in answers]


def test_callers_beside_each_other_get_their_own_and_share_batches():
    doubling = Doubling(1)
    calls = [np.arange(1.0, 1 + n) + 1000 * i for i, n in enumerate([5, 7, 6, 9, 1, 13, 2])]
    for windows, answer in zip(calls, beside(doubling, *calls), strict=True):
        np.testing.assert_array_equal(answer, 2 * windows)
    assert doubling.padding == [0] * 10 + [1]  # 43 windows: the last ones of a call go with the first of the next


def test_many_callers_for_a_while():
    doubling = Doubling(3)
    calls = [np.arange(1.0, 1 + n) + 1000 * i for i, n in enumerate([5, 7, 6, 9, 1, 13, 2, 30] * 20)]
    with ThreadPoolExecutor(4) as callers:
        answers = list(callers.map(lambda windows: computed(doubling.streams, windows), calls))
    for windows, answer in zip(calls, answers, strict=True):
        np.testing.assert_array_equal(answer, 2 * windows)


def test_a_batch_that_fails_is_told_to_its_callers_alone():
    doubling = Doubling(1)
    # the batch of the fifth to the eighth has windows of the first two callers
    first, second, third = np.arange(1.0, 7), np.array([7.0, -8, 9, 10]), np.arange(11.0, 20)
    told, told_too, answer = beside(doubling, first, second, third)
    assert isinstance(told, MemoryError)
    assert isinstance(told_too, MemoryError)
    np.testing.assert_array_equal(answer, 2 * third)
    np.testing.assert_array_equal(computed(doubling.streams, third), 2 * third)


def test_its_threads_end_with_it():
    before = threading.active_count()
    for _ in range(3):
        computed(Streams([np.copy] * 2, BATCH), np.ones(9))
    until = time.monotonic() + 10
    while threading.active_count() > before and time.monotonic() < until:
        time.sleep(0.05)
    assert threading.active_count() <= before
