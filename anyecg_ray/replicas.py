"""The actors behind the ingress: replicas of each model, and the keeper of all request counts."""

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from anyecg_ray import telemetry
from anyecg_ray.backends import Compute, Estimator
from anyecg_ray.batching import Waiting, fail, give, next_batch
from anyecg_ray.config import InputError
from anyecg_ray.model import Card, load
from anyecg_ray.request_metrics import Snapshot

WARM = 16
"""Batch sizes that a model reads once before its first request: OpenVINO compiles something for each."""


Outputs = tuple[np.ndarray | None, Card]
"""Logits, (windows, columns) float32, None where the windows were not made for this model; the model's card."""


class Answered(NamedTuple):
    """What a model's replica sends back."""

    logits: np.ndarray | None
    card: str | None
    """The model's, as JSON; None where it is the one that was asked for."""


class Model:
    """One replica of a model.

    Whenever the network is free it runs on all windows that wait, up to a batch: nothing waits for a batch to fill,
    and what comes while the network is at work is the next batch. Serve's own batching closes a batch after a fixed
    time, whether or not the network is free, so that under load it sends windows one by one: half the rate.
    """

    def __init__(self, compute: Compute, batch_windows: int) -> None:
        self._compute = compute
        self._held: Estimator | None = None
        self._batch_windows = batch_windows
        self._waiting: deque[Waiting[str, Outputs]] = deque()
        self._at_work: asyncio.Task[None] | None = None

    async def reconfigure(self, config: dict[str, str]) -> None:
        """Load another bundle; the one before answers until it is ready."""
        found = await asyncio.to_thread(_estimator, config["bundle"], config["sha256"], self._compute)
        self._held = found

    async def __call__(self, x: np.ndarray, sha256: str, fingerprint: str) -> Answered:
        """x: (windows, leads, samples), of the preprocessing with this fingerprint."""
        one = Waiting(x, fingerprint, asyncio.get_running_loop().create_future())
        self._waiting.append(one)
        if self._at_work is None:
            self._at_work = asyncio.create_task(self._work())
        logits, card = await one.answer
        as_asked = (card.weights_sha256, card.preprocess_fingerprint) == (sha256, fingerprint)
        return Answered(logits, None if as_asked else card.model_dump_json())

    async def _work(self) -> None:
        try:
            while batch := next_batch(self._waiting, self._batch_windows):
                try:
                    await self._predict(batch)
                except Exception as error:  # told to those who wait; the next batch may do better
                    fail(batch, error)
        finally:
            self._at_work = None

    async def _predict(self, batch: Sequence[Waiting[str, Outputs]]) -> None:
        estimator = self._held
        assert estimator is not None  # reconfigure comes before the first request
        logits = None
        if batch[0].of == estimator.card.preprocess_fingerprint:
            logits = await asyncio.to_thread(_timed, estimator, [one.x for one in batch])
        give(batch, logits, lambda part: (part, estimator.card))

    async def ping(self) -> bool:
        """Whether a bundle is held."""
        return self._held is not None


def _estimator(bundle: str, sha256: str, compute: Compute) -> Estimator:
    found = load(bundle)
    if found.card.weights_sha256 != sha256:
        raise InputError(f"{bundle}: is not the bundle that was asked for; it changed while it was loaded")
    estimator = Estimator(found, compute)
    for n in range(1, WARM + 1):
        estimator.logits(np.zeros((n, len(found.recipe.leads), found.recipe.samples), np.float32))
    return estimator


def _timed(estimator: Estimator, parts: Sequence[np.ndarray]) -> np.ndarray:
    windows = np.concatenate(parts)
    with telemetry.predicting(len(windows)):
        return estimator.logits(windows)


class CountsKeeper:
    """Keeps what every ingress replica has counted, so that any of them can tell the sum."""

    def __init__(self) -> None:
        self._snapshots: dict[str, Snapshot] = {}

    async def tell(self, who: str, snapshot: Snapshot) -> list[Snapshot]:
        """Take a replica's counts; returns everybody's. Those of a replica that is gone stay: counters never fall."""
        self._snapshots[who] = snapshot
        return list(self._snapshots.values())
