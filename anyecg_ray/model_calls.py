"""Calls to a model's deployment, several requests' windows in one: a call costs more than an extra window in it."""

import asyncio
import contextvars
from collections import deque
from collections.abc import Sequence
from typing import Any

import numpy as np
import ray
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError
from ray.serve.handle import DeploymentHandle

from anyecg_ray.batching import Waiting, fail, give, next_batch
from anyecg_ray.estimating import Predicted
from anyecg_ray.http_problems import busy
from anyecg_ray.model import Card

Handle = DeploymentHandle[Any]

TOGETHER = 8
"""As many windows are sent at once, however many calls are under way: the batch at which a core is fastest."""

UNDER_WAY = 2
"""While fewer calls are under way, fewer windows are sent too: one call is computed, one is there to follow at once."""

Of = tuple[str, str]
"""Hash of the weights that are asked for, fingerprint of the preprocessing."""


class Asked:
    """A model, called through its deployment's handle.

    A few windows are sent at once while fewer than UNDER_WAY calls are under way; else they wait until they are
    TOGETHER, or an answer comes. So a lone request never waits, and under load eight windows share the half dozen
    milliseconds that a call takes.
    """

    def __init__(self, handle: Handle) -> None:
        self._handle = handle
        self._waiting: deque[Waiting[Of, Predicted]] = deque()
        self._calls: set[asyncio.Task[None]] = set()

    async def __call__(self, x: np.ndarray, card: Card) -> Predicted:
        """See estimating.Predict."""
        of = card.weights_sha256, card.preprocess_fingerprint
        one = Waiting(x, of, asyncio.get_running_loop().create_future())
        self._waiting.append(one)
        self._send()
        return await one.answer

    def _send(self) -> None:
        while self._waiting and (len(self._calls) < UNDER_WAY or sum(len(one.x) for one in self._waiting) >= TOGETHER):
            batch = next_batch(self._waiting, TOGETHER)
            if batch:
                # in a context of its own: Serve cancels the calls of a request whose client goes away
                call = asyncio.get_running_loop().create_task(self._call(batch), context=contextvars.Context())
                self._calls.add(call)
                call.add_done_callback(self._done)

    def _done(self, call: asyncio.Task[None]) -> None:
        self._calls.discard(call)
        self._send()

    async def _call(self, batch: Sequence[Waiting[Of, Predicted]]) -> None:
        try:
            logits, card = await self._answered(np.concatenate([one.x for one in batch]), batch[0].of)
        except Exception as error:
            fail(batch, error)
        else:
            give(batch, logits, lambda part: Predicted(part, card))

    async def _answered(self, x: np.ndarray, of: Of) -> Predicted:
        """Where a replica dies, another is asked: predicting twice is harmless. Raises Problem (503)."""
        for attempt in range(3):
            try:
                got = await self._handle.remote(x, *of)
            except BackPressureError:
                raise busy("the model has more to do than it takes on") from None
            except (ray.exceptions.RayActorError, DeploymentUnavailableError):
                await asyncio.sleep(0.2 * 2**attempt)
            else:
                return Predicted(got.logits, None if got.card is None else Card.model_validate_json(got.card))
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
