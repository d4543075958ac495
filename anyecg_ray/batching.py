"""Batching of windows that wait for a model.

Used by the ingress (model_calls.py) and the model's replica (replicas.py).
"""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np

K = TypeVar("K")
A = TypeVar("A")


@dataclass(eq=False)
class Waiting(Generic[K, A]):
    """Windows of one sender."""

    x: np.ndarray
    """(windows, leads, samples) float32."""
    of: K
    """The same for all that are batched together."""
    answer: asyncio.Future[A]


def next_batch(waiting: deque[Waiting[K, A]], most: int) -> list[Waiting[K, A]]:
    """Take the next batch from the front: one entry at least, more only up to `most` windows in all.

    Its entries have the same `of`; those whose sender has gone are dropped.
    """
    batch: list[Waiting[K, A]] = []
    windows = 0
    while waiting:
        one = waiting[0]
        if batch and (one.of != batch[0].of or windows + len(one.x) > most) and not one.answer.done():
            break
        waiting.popleft()
        if not one.answer.done():
            batch.append(one)
            windows += len(one.x)
    return batch


def give(batch: Sequence[Waiting[K, A]], logits: np.ndarray | None, answer: Callable[[np.ndarray | None], A]) -> None:
    """Answer all of a batch, each with its rows of the logits. A sender may have gone meanwhile."""
    at = 0
    for one in batch:
        if not one.answer.done():
            one.answer.set_result(answer(None if logits is None else logits[at : at + len(one.x)]))
        at += len(one.x)


def fail(batch: Sequence[Waiting[K, A]], error: Exception) -> None:
    """Tell all of a batch that it failed."""
    for one in batch:
        if not one.answer.done():
            one.answer.set_exception(error)
