"""What lies behind the endpoint's door: copies of each model, the keeper of the counts, and who asks them."""

import asyncio
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
import ray
from ray import serve as rayserve
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError
from ray.serve.handle import DeploymentHandle

from anyecg_ray import telemetry
from anyecg_ray.backends import Compute, Estimator
from anyecg_ray.config import InputError
from anyecg_ray.counting import Snapshot
from anyecg_ray.estimating import CHUNK, Predicted
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


class Windows(NamedTuple):
    """What a model's replica is asked: windows, and which preprocessing made them."""

    x: np.ndarray
    fingerprint: str


class Model:
    """One copy of a model."""

    def __init__(self, compute: Compute, batch_windows: int, batch_wait_ms: float) -> None:
        self._compute = compute
        self._held: Estimator | None = None
        self._one_at_a_time = ThreadPoolExecutor(1)
        queue: Any = self._batched
        queue.set_max_batch_size(batch_windows)
        queue.set_batch_wait_timeout_s(batch_wait_ms / 1000)

    async def reconfigure(self, config: dict[str, str]) -> None:
        """Take another bundle; until it is ready the one before answers."""
        found = await asyncio.to_thread(_estimator, config["bundle"], config["sha256"], self._compute)
        self._held = found

    async def __call__(self, x: np.ndarray, sha256: str, fingerprint: str) -> Answered:
        """x: (windows, leads, samples), of the preprocessing with this fingerprint."""
        logits, card = await self._batched(Windows(x, fingerprint))
        return Answered(logits, None if card.weights_sha256 == sha256 else card.model_dump_json())

    @rayserve.batch(max_batch_size=CHUNK, batch_size_fn=lambda asked: sum(len(a.x) for a in asked))
    async def _batched(self, asked: list[Windows]) -> list[tuple[np.ndarray | None, Card]]:
        estimator = self._held
        assert estimator is not None  # reconfigure comes before the first request
        fits = [a.x if a.fingerprint == estimator.card.preprocess_fingerprint else None for a in asked]
        together = [x for x in fits if x is not None]
        loop = asyncio.get_running_loop()
        logits = await loop.run_in_executor(self._one_at_a_time, _timed, estimator, together) if together else None
        found, at = [], 0
        for x in fits:
            n = 0 if x is None else len(x)
            found.append((None if x is None or logits is None else logits[at : at + n], estimator.card))
            at += n
        return found

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
