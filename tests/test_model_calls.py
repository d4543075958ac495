"""How requests go to a model together: who waits for whom, and what each of them gets of the answer."""

import asyncio
import contextvars

import numpy as np
import pytest
import ray
from ray.serve.exceptions import BackPressureError

from anyecg_ray import weights
from anyecg_ray.http_problems import Problem
from anyecg_ray.model_calls import TOGETHER, UNDER_WAY, Asked
from anyecg_ray.replicas import Answered

CARD = weights.untrained("tiny", ["calcium_low"], ["II"], "ecgfounder-finetune", 0).card
OTHER = CARD.model_copy(update={"weights_sha256": "another"})

WHOSE = contextvars.ContextVar("whose", default="nobody's")


class Handle:
    """Stands for Serve's: gives each window's first sample once it may answer."""

    def __init__(self, *errors: Exception) -> None:
        self.calls: list[int] = []
        self.contexts: list[str] = []
        self.errors = list(errors)
        self.free = asyncio.Event()

    async def remote(self, x: np.ndarray, sha256: str, fingerprint: str) -> Answered:
        self.calls.append(len(x))
        self.contexts.append(WHOSE.get())
        if self.errors:
            raise self.errors.pop(0)
        await self.free.wait()
        return Answered(x[:, 0, :1], None if sha256 == CARD.weights_sha256 else OTHER.model_dump_json())


def ask(asked: Asked, value: float, n: int = 1, card=CARD) -> asyncio.Task:
    return asyncio.create_task(asked(np.full((n, 1, 10), value, np.float32), card))


async def settled() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


async def under_load() -> tuple[Handle, Asked, list[asyncio.Task]]:
    """A model that is asked as many lone requests as go at once, and has not answered them."""
    handle = Handle()
    asked = Asked(handle)
    first = [ask(asked, i) for i in range(UNDER_WAY)]
    await settled()
    return handle, asked, first


def test_a_lone_request_goes_at_once_and_under_load_they_go_together():
    async def run():
        handle, asked, alone = await under_load()
        assert handle.calls == [1] * UNDER_WAY
        few = [ask(asked, 10 + i) for i in range(TOGETHER - 1)]
        await settled()
        assert handle.calls == [1] * UNDER_WAY  # these wait
        few.append(ask(asked, 30))
        await settled()
        assert handle.calls == [1] * UNDER_WAY + [TOGETHER]
        rest = [ask(asked, 40), ask(asked, 41, 3)]
        await settled()
        handle.free.set()
        return handle.calls, await asyncio.gather(*alone, *few, *rest)

    calls, answers = asyncio.run(run())
    assert calls == [1] * UNDER_WAY + [TOGETHER, 4]
    wanted = [[i] for i in range(UNDER_WAY)] + [[10 + i] for i in range(TOGETHER - 1)] + [[30], [40]]
    assert [a.logits.tolist() for a in answers] == [[x] for x in wanted] + [[[41]] * 3]
    assert {a.card for a in answers} == {None}


def test_windows_for_another_model_go_apart_and_say_whose_they_are():
    async def run():
        handle, asked, first = await under_load()
        one, other = ask(asked, 1), ask(asked, 2, card=OTHER)
        handle.free.set()
        await asyncio.gather(*first)
        return handle.calls, await one, await other

    calls, one, other = asyncio.run(run())
    assert calls == [1] * (UNDER_WAY + 2)
    assert one.card is None
    assert one.logits.tolist() == [[1]]
    assert other.card.weights_sha256 == "another"
    assert other.logits.tolist() == [[2]]


def test_a_sender_who_goes_away_takes_nobody_along():
    async def run():
        handle, asked, first = await under_load()
        WHOSE.set("the one who goes")  # as Serve marks whose call it is, to cancel it with its request
        going = [ask(asked, 1, TOGETHER // 2), ask(asked, 2)]
        WHOSE.set("somebody else")
        staying = ask(asked, 3, TOGETHER // 2 - 1)
        await settled()
        gone_before = ask(asked, 4)
        await settled()
        for task in (*going, gone_before):
            task.cancel()
        await settled()
        handle.free.set()
        await asyncio.gather(*first)
        return handle, await staying

    handle, answer = asyncio.run(run())
    assert handle.calls == [1] * UNDER_WAY + [TOGETHER]
    assert set(handle.contexts) == {"nobody's"}
    assert answer.logits.tolist() == [[3]] * (TOGETHER // 2 - 1)


def test_a_replica_that_died_is_asked_again_and_one_that_stays_away_is_told_to_all():
    async def run(deaths: int):
        handle = Handle(*[ray.exceptions.ActorDiedError() for _ in range(deaths)])
        handle.free.set()
        asked = Asked(handle)
        return await asyncio.gather(*(ask(asked, i, TOGETHER) for i in range(2)), return_exceptions=True)

    assert [a.logits[0].tolist() for a in asyncio.run(run(2))] == [[0], [1]]
    answers = asyncio.run(run(6))
    assert all(isinstance(a, Problem) and a.status == 503 for a in answers)


def test_a_full_queue_is_told_and_what_follows_is_answered():
    async def run():
        handle = Handle(BackPressureError(num_queued_requests=9, max_queued_requests=9))
        handle.free.set()
        asked = Asked(handle)
        with pytest.raises(Problem, match="overloaded") as told:
            await ask(asked, 0)
        return told.value, await ask(asked, 1)

    problem, answer = asyncio.run(run())
    assert problem.status == 503
    assert answer.logits.tolist() == [[1]]
