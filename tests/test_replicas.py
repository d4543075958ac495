"""What a copy of a model does with requests that come at once: it takes all that wait whenever the network is free."""

import asyncio
import threading

import numpy as np
import pytest

from anyecg_ray import weights
from anyecg_ray.backends import Compute
from anyecg_ray.model import Card
from anyecg_ray.replicas import Model

CARD = weights.untrained("tiny", ["calcium_low"], ["II"], "ecgfounder-finetune", 0).card


class Network:
    """Stands for the estimator: gives each window's first sample, and can be held up."""

    card = CARD

    def __init__(self) -> None:
        self.batches: list[int] = []
        self.free = threading.Event()

    def logits(self, x: np.ndarray) -> np.ndarray:
        self.batches.append(len(x))
        assert self.free.wait(10)
        if x[0, 0, 0] < 0:
            raise ValueError("no such window")
        return x[:, 0, :1]


def model(batch: int) -> tuple[Model, Network]:
    made, network = Model(Compute(), batch), Network()
    made._held = network
    return made, network


def ask(made: Model, value: float, n: int = 1, fingerprint: str = CARD.preprocess_fingerprint) -> asyncio.Task:
    x = np.full((n, 1, 10), value, np.float32)
    return asyncio.create_task(made(x, CARD.weights_sha256, fingerprint))


async def until(true) -> None:
    async with asyncio.timeout(10):
        while not true():
            await asyncio.sleep(0.001)


def test_what_comes_while_the_network_is_at_work_is_the_next_batch():
    async def run():
        made, network = model(batch=8)
        asked = [ask(made, 1)]
        await until(lambda: network.batches)
        asked += [ask(made, 2 + i, n) for i, n in enumerate([3, 4, 5, 2])]
        await until(lambda: len(made._waiting) == 4)
        network.free.set()
        return network.batches, await asyncio.gather(*asked)

    batches, answers = asyncio.run(run())
    assert batches == [1, 7, 7]
    assert [a.logits.tolist() for a in answers] == [[[1]], [[2]] * 3, [[3]] * 4, [[4]] * 5, [[5]] * 2]
    assert {a.card for a in answers} == {None}  # the one that was asked for


def test_a_request_larger_than_a_batch_is_a_batch_of_its_own():
    async def run():
        made, network = model(batch=4)
        network.free.set()
        return network.batches, await ask(made, 1, 9)

    batches, answer = asyncio.run(run())
    assert batches == [9]
    assert len(answer.logits) == 9


def test_a_sender_who_goes_away_takes_nobody_along():
    async def run():
        made, network = model(batch=8)
        first = ask(made, 1)
        await until(lambda: network.batches)
        gone, stays = ask(made, 2), ask(made, 3)
        await until(lambda: len(made._waiting) == 2)
        gone.cancel()
        first.cancel()
        await asyncio.sleep(0)
        network.free.set()
        return network.batches, await stays

    batches, answer = asyncio.run(run())
    assert batches == [1, 1]
    assert answer.logits.tolist() == [[3]]


def test_a_batch_that_fails_is_told_to_its_senders_and_to_nobody_else():
    async def run():
        made, network = model(batch=8)
        bad = ask(made, -1)
        await until(lambda: network.batches)
        good = ask(made, 1)
        network.free.set()
        with pytest.raises(ValueError, match="no such window"):
            await bad
        assert (await good).logits.tolist() == [[1]]
        return await ask(made, 2)

    assert asyncio.run(run()).logits.tolist() == [[2]]


def test_windows_of_another_preprocessing_are_not_read_and_the_card_is_sent_instead():
    async def run():
        made, network = model(batch=8)
        first = ask(made, 1)
        await until(lambda: network.batches)
        other, same = ask(made, 2, 1, "another"), ask(made, 3)
        network.free.set()
        return network.batches, await asyncio.gather(first, other, same)

    batches, (_, other, same) = asyncio.run(run())
    assert batches == [1, 1]
    assert other.logits is None
    assert Card.model_validate_json(other.card).preprocess_fingerprint == CARD.preprocess_fingerprint  # same weights
    assert same.logits.tolist() == [[3]]
