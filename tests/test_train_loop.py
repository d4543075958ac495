"""As many steps as the schedule was told, and all that was read counts."""

from types import SimpleNamespace

import pytest
import torch

from anyecg_ray import optimise, train_worker
from anyecg_ray.augment import Augment
from anyecg_ray.train_loop import Batch, Learning, Trainer


def trainer(learning, steps):
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 1))
    optimiser = torch.optim.SGD(net.parameters(), lr=learning.lr)
    schedule = optimise.schedule(optimiser, steps, learning.warmup)
    return Trainer(net, optimiser, schedule, learning, Augment(shift=0, noise=0), [False], torch.ones(1), 500, 0)


def batches(n, size=8):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn((n, size, 1, 4), generator=generator)
    return [Batch(each, (each[:, 0, :1] > 0).float()) for each in x]


def test_what_is_left_at_the_end_of_an_epoch_makes_a_step_as_large_as_any():
    """5 batches of 8 are one step; its gradient is theirs, not a fraction of it because 8 were hoped for."""
    few, alone = (trainer(Learning(accumulate=a, clip=1e9), 1) for a in (8, 5))
    before = few.net[1].weight.clone()
    for each in (few, alone):
        each.epoch(0, batches(5))
    assert not torch.equal(few.net[1].weight, before)
    torch.testing.assert_close(few.net[1].weight, alone.net[1].weight)
    assert few.schedule.last_epoch == 1


@pytest.mark.parametrize(
    ("windows", "batch", "accumulate"),
    [
        (60, 64, 1),
        (400, 64, 8),
        (400, 64, 1),
        (900, 64, 8),
        (5000, 600, 1),
        (5000, 600, 4),
        (2500, 3000, 2),
        (4096, 64, 8),
    ],
)
def test_the_schedule_has_the_steps_that_are_taken(monkeypatch, windows, batch, accumulate):
    monkeypatch.setattr(
        train_worker, "_tensors", lambda rows, card: Batch(torch.zeros(rows, 1, 4), torch.zeros(rows, 1))
    )
    learning = Learning(batch=batch, accumulate=accumulate)

    def read(batch_size, **_):
        return (min(batch_size, windows - at) for at in range(0, windows, batch_size))

    job = SimpleNamespace(seed=0, learning=learning, card=None)
    found = trainer(learning, train_worker.steps(windows, learning))
    found.epoch(0, train_worker._batches(SimpleNamespace(iter_batches=read), job, 0, 0))
    assert found.schedule.last_epoch == train_worker.steps(windows, learning) > 0
