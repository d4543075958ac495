"""What lies behind the endpoint's door: copies of each model, the keeper of the counts, and who asks them."""

import asyncio
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import ray
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError
from ray.serve.handle import DeploymentHandle

from anyecg_ray import telemetry
from anyecg_ray.backends import Compute, Estimator
from anyecg_ray.config import InputError
from anyecg_ray.counting import Snapshot
from anyecg_ray.estimating import Predicted
from anyecg_ray.model import Card, load
from anyecg_ray.problems import busy

Handle = DeploymentHandle[Any]

WARM = 16
"""Batch sizes that a model reads once before its first request: OpenVINO compiles something for each."""


class Answered(NamedTuple):
    """What a model's replica sends back."""

    logits: np.ndarray | None
    card: str | None
    """As JSON, where it is not the one that was asked for."""


@dataclass(eq=False)
class Waiting:
    """What a model's replica is asked: windows, which preprocessing made them, and who waits for the outputs."""

    x: np.ndarray
    fingerprint: str
    answer: asyncio.Future[tuple[np.ndarray | None, Card]]


class Model:
    """One copy of a model.

    Whenever the network is free it takes all that waits, up to a batch: nothing waits for a batch to fill, and
    what comes while the network is at work is the next batch. Serve's own batching closes a batch after a fixed
    time, whether or not the network is free, and so sends it window after window alone under load: half the rate.
    """

    def __init__(self, compute: Compute, batch_windows: int) -> None:
        self._compute = compute
        self._held: Estimator | None = None
        self._batch_windows = batch_windows
        self._waiting: deque[Waiting] = deque()
        self._at_work: asyncio.Task[None] | None = None

    async def reconfigure(self, config: dict[str, str]) -> None:
        """Take another bundle; until it is ready the one before answers."""
        found = await asyncio.to_thread(_estimator, config["bundle"], config["sha256"], self._compute)
        self._held = found

    async def __call__(self, x: np.ndarray, sha256: str, fingerprint: str) -> Answered:
        """x: (windows, leads, samples), of the preprocessing with this fingerprint."""
        one = Waiting(x, fingerprint, asyncio.get_running_loop().create_future())
        self._waiting.append(one)
        if self._at_work is None:
            self._at_work = asyncio.create_task(self._work())
        logits, card = await one.answer
        return Answered(logits, None if card.weights_sha256 == sha256 else card.model_dump_json())

    async def _work(self) -> None:
        try:
            while self._waiting:
                batch = self._next()
                try:
                    await self._predict(batch)
                except Exception as error:  # told to those who wait; the next batch may do better
                    for one in batch:
                        if not one.answer.done():
                            one.answer.set_exception(error)
        finally:
            self._at_work = None

    def _next(self) -> list[Waiting]:
        """As many as make a batch, one at least, without those whose sender has gone."""
        batch: list[Waiting] = []
        windows = 0
        while self._waiting and (not batch or windows + len(self._waiting[0].x) <= self._batch_windows):
            one = self._waiting.popleft()
            if not one.answer.done():
                batch.append(one)
                windows += len(one.x)
        return batch

    async def _predict(self, batch: Sequence[Waiting]) -> None:
        estimator = self._held
        assert estimator is not None  # reconfigure comes before the first request
        fits = [one for one in batch if one.fingerprint == estimator.card.preprocess_fingerprint]
        logits = await asyncio.to_thread(_timed, estimator, [one.x for one in fits]) if fits else np.empty(0)
        at = 0
        for one in batch:
            n = len(one.x) if one.fingerprint == estimator.card.preprocess_fingerprint else 0
            if not one.answer.done():  # its sender may have gone meanwhile
                one.answer.set_result((logits[at : at + n] if n else None, estimator.card))
            at += n

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
    started = time.perf_counter()
    logits = estimator.logits(np.concatenate(parts))
    telemetry.predicted(len(logits), time.perf_counter() - started)
    return logits


class Tally:
    """Keeps what every ingress replica has counted, so that any of them can tell the sum."""

    def __init__(self) -> None:
        self._told: dict[str, Snapshot] = {}

    async def tell(self, who: str, snapshot: Snapshot) -> list[Snapshot]:
        """Take a replica's counts; returns everybody's. Those of a replica that is gone stay: counters never fall."""
        self._told[who] = snapshot
        return list(self._told.values())


class Asked:
    """A model behind its deployment."""

    def __init__(self, handle: Handle) -> None:
        self._handle = handle

    async def __call__(self, x: np.ndarray, card: Card) -> Predicted:
        """See estimating.Predict. A replica that dies is asked again elsewhere: predicting twice is harmless."""
        for attempt in range(3):
            try:
                got = await self._handle.remote(x, card.weights_sha256, card.preprocess_fingerprint)
            except BackPressureError:
                raise busy("the model has more to do than it takes on") from None
            except (ray.exceptions.RayActorError, DeploymentUnavailableError):
                await asyncio.sleep(0.2 * 2**attempt)
            else:
                other = None if got.card is None else Card.model_validate_json(got.card)
                return Predicted(got.logits, other)
        raise busy("the model does not answer", 5)

    async def answers(self) -> bool:
        """Whether the model answers within five seconds, or is too busy to."""
        try:
            async with asyncio.timeout(5):
                return bool(await self._handle.ping.remote())
        except BackPressureError:
            return True
        except (TimeoutError, ray.exceptions.RayError, DeploymentUnavailableError):
            return False
