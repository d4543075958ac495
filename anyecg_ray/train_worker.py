"""What one worker of Ray Train does: learn, validate, report, epoch by epoch, and go on where one before it died."""

import functools
import itertools
import math
import os
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import ray
import ray.train
import ray.train.torch
import torch
import torch.distributed
from ray.train import Checkpoint

from anyecg_ray import model, optimise, segments, train_loop
from anyecg_ray.augment import Augment
from anyecg_ray.config import JobError
from anyecg_ray.machine import cores
from anyecg_ray.net1d import Net1D
from anyecg_ray.net1d_sizes import Sizes
from anyecg_ray.owners import person
from anyecg_ray.segments import SegmentsCard
from anyecg_ray.train_loop import Batch, Learning, Trainer

BUFFER = 2048
"""Windows among which a worker shuffles; files come in another order each epoch besides."""

STATE = "state.pt"


@dataclass(frozen=True)
class Job:
    """What every worker is told."""

    segments: str
    card: SegmentsCard
    sizes: Sizes
    learning: Learning
    augment: Augment
    head_only: bool
    seed: int
    between: Callable[[], None] | None = None
    """Called after each epoch, before the next one."""


def learn(config: dict[str, Any]) -> None:
    """One worker: learn, validate, report, epoch by epoch, from the last checkpoint on where there is one."""
    job, notes = config["job"], config["notes"]
    card = job.card
    context = ray.train.get_context()
    rank, world = context.get_world_rank(), context.get_world_size()
    trainer = _prepared(job, ray.get(config["state"]), rank, world)
    epoch, best = _resumed(trainer)
    shard = ray.train.get_dataset_shard("train")
    upcoming = _begun(_batches(shard, job, epoch, rank))
    patients = _patients(job, rank, world)
    while epoch < job.learning.epochs and epoch - best["epoch"] <= job.learning.patience:
        show = functools.partial(_show, notes, epoch) if rank == 0 else None
        done = trainer.epoch(epoch, upcoming, show)
        upcoming = _begun(_batches(shard, job, epoch + 1, rank))  # its first batch is read beside the validation
        outputs = _gathered(trainer.logits(_validation(job, rank, world)), world)
        if len(outputs[0]) != card.windows["val"]:
            raise JobError(f"read {len(outputs[0])} of {card.windows['val']} validation windows")
        done.aurocs = train_loop.validation(outputs[0], outputs[1], trainer.is_value)
        score = done.macro if np.isfinite(done.macro) else -done.loss
        if score > best["score"]:
            best = {"epoch": epoch, "score": score}
        told = {
            "epoch": epoch, "loss": done.loss, "score": score, "best": best["epoch"] == epoch,
            "samples_per_s": world * done.samples / max(done.seconds, 1e-9), "lr": trainer.schedule.get_last_lr()[-1],
            "aurocs": dict(zip([i.key for i in card.indicators], done.aurocs, strict=True)),
        }  # fmt: skip
        epoch += 1
        if rank == 0:
            notes.ended.remote(told)
        _report_epoch(trainer, told, best, epoch, rank, (*outputs, patients))
        if job.between:
            job.between()


def _show(notes: Any, epoch: int, told: dict[str, float]) -> None:
    notes.show.remote({"epoch": epoch, **told})


def _prepared(job: Job, state: dict[str, torch.Tensor], rank: int, world: int) -> Trainer:
    """The network on this worker's device, its gradients averaged over all workers."""
    card = job.card
    torch.manual_seed(job.seed + rank)
    # reading takes a tenth of a core: the cores that are set aside for it learn too
    torch.set_num_threads(max(1, cores() // ray.train.get_context().get_local_world_size()))
    learning = job.learning
    net: Any = Net1D(job.sizes, model.first_columns(card.indicators)[-1])
    net.load_state_dict(state, strict=True)
    net.to(ray.train.torch.get_device())
    groups = optimise.groups(net, learning.lr, learning.weight_decay, learning.layer_decay, job.head_only)
    optimiser = torch.optim.AdamW(groups)
    if world > 1:
        net = ray.train.torch.prepare_model(net, parallel_strategy_kwargs={"find_unused_parameters": True})
    total = steps(card.windows["train"] // world, learning) * learning.epochs
    return Trainer(
        net, optimiser, optimise.schedule(optimiser, total, learning.warmup), learning, job.augment,
        [i.direction == "value" for i in card.indicators], _weights(card, learning),
        card.preprocessing().fs, job.seed * 1000 + rank,
    )  # fmt: skip


def _weights(card: SegmentsCard, learning: Learning) -> torch.Tensor:
    """The weight of positives, by indicator; for positive-unlabelled the prevalence that is assumed."""
    if learning.loss == "positive-unlabelled":
        return torch.full((len(card.indicators),), learning.prevalence)
    counts = [card.counts["train"][i.key] for i in card.indicators]
    odds = [c["negative"] / max(1, c["positive"]) for c in counts]
    return torch.tensor([min(max(o, 1.0), learning.positive_weight) for o in odds])


def _batches(shard: Any, job: Job, epoch: int, rank: int) -> Iterator[Batch]:
    """This worker's training windows of one epoch, shuffled among BUFFER at a time."""
    rng = np.random.default_rng([job.seed, epoch, rank])
    size = job.learning.batch
    for rows in shard.iter_batches(batch_size=max(BUFFER, size), batch_format="pyarrow", prefetch_batches=1):
        x, y = _tensors(rows, job.card)
        order = torch.from_numpy(rng.permutation(len(x)))
        for i in range(0, len(x), size):
            some = order[i : i + size]
            yield Batch(x[some], y[some])


def steps(windows: int, learning: Learning) -> int:
    """Optimiser steps in one epoch of a worker with so many windows; the last batch of each buffer may be smaller."""
    buffers, rest = divmod(windows, max(BUFFER, learning.batch))
    batches = buffers * math.ceil(max(BUFFER, learning.batch) / learning.batch) + math.ceil(rest / learning.batch)
    return math.ceil(batches / learning.accumulate)


def _begun(batches: Iterator[Batch]) -> Iterator[Batch]:
    """The same batches; the first is being fetched when this returns, because Ray's reader takes a while to start."""
    pool = ThreadPoolExecutor(1)
    first = pool.submit(next, batches, None)
    pool.shutdown(wait=False)

    def each() -> Iterator[Batch]:
        if (batch := first.result()) is not None:
            yield batch
            yield from batches

    return each()


def _tensors(rows: Any, card: SegmentsCard) -> Batch:
    x = torch.from_numpy(segments.windows(rows, len(card.recipe["leads"])))
    y = segments.labels(rows, [i.key for i in card.indicators])
    for i, indicator in enumerate(card.indicators):
        if indicator.direction == "value":
            y[:, i] = (y[:, i] - indicator.offset) / indicator.scale
    return Batch(x, torch.from_numpy(y))


def _validation(job: Job, rank: int, world: int) -> Iterator[Batch]:
    """This worker's share of the validation windows: every window is scored by one worker."""
    columns = ["scale", "samples", *(segments.label(i.key) for i in job.card.indicators)]
    return (_tensors(rows, job.card) for rows in _share(job, columns, rank, world))


def _share(job: Job, columns: list[str], rank: int, world: int) -> Iterator[Any]:
    return itertools.islice(segments.batches(job.segments, "val", 256, columns), rank, None, world)


def _patients(job: Job, rank: int, world: int) -> np.ndarray:
    """Whose the validation windows are, numbered, in the order of `_gathered` outputs."""
    columns = ["encounter_id", "patient_id", "record_id"]
    mine = [owner for rows in _share(job, columns, rank, world) for owner in _owners(rows, columns)]
    (everyone,) = _gathered((np.array(mine, object),), world)
    return np.unique(everyone.astype(str), return_inverse=True)[1]


def _owners(rows: Any, columns: list[str]) -> list[str]:
    return [person(*who) for who in zip(*(rows.column(name).to_pylist() for name in columns), strict=True)]


def _gathered(mine: tuple[np.ndarray, ...], world: int) -> tuple[np.ndarray, ...]:
    """Arrays of all workers' shares, in the order of the workers."""
    if world == 1:
        return mine
    all_of_them: list[Any] = [None] * world
    torch.distributed.all_gather_object(all_of_them, mine)
    return tuple(np.concatenate(parts) for parts in zip(*all_of_them, strict=True))


def _report_epoch(
    trainer: Trainer,
    told: dict[str, Any],
    best: dict[str, Any],
    epoch: int,
    rank: int,
    outputs: tuple[np.ndarray, ...],
) -> None:
    """Tell Ray the score; the first worker adds the checkpoint, which is uploaded while the next epoch runs."""
    plain = {k: v for k, v in told.items() if k != "aurocs"} | {f"auroc:{k}": v for k, v in told["aurocs"].items()}
    if rank != 0:
        ray.train.report(plain)
        return
    folder = tempfile.mkdtemp()
    net: Any = getattr(trainer.net, "module", trainer.net)  # without the wrapper that averages gradients
    torch.save(
        {
            "net": net.state_dict(), "optimiser": trainer.optimiser.state_dict(),
            "schedule": trainer.schedule.state_dict(), "epoch": epoch, "best": best, "outputs": outputs,
        },
        os.path.join(folder, STATE),
    )  # fmt: skip
    ray.train.report(
        plain,
        checkpoint=Checkpoint.from_directory(folder),
        checkpoint_upload_mode=ray.train.CheckpointUploadMode.ASYNC,
        delete_local_checkpoint_after_upload=True,
    )


def _resumed(trainer: Trainer) -> tuple[int, dict[str, Any]]:
    """The epoch to begin with and the best one so far: from Ray's last checkpoint, else from the start."""
    checkpoint = ray.train.get_checkpoint()
    if checkpoint is None:
        return 0, {"epoch": 0, "score": float("-inf")}
    with checkpoint.as_directory() as folder:
        saved = read_state(folder)
    net: Any = getattr(trainer.net, "module", trainer.net)
    net.load_state_dict(saved["net"], strict=True)
    trainer.optimiser.load_state_dict(saved["optimiser"])
    trainer.schedule.load_state_dict(saved["schedule"])
    return saved["epoch"], saved["best"]


def read_state(folder: str) -> dict[str, Any]:
    """A checkpoint's content."""
    # our own file of this very run: tensors, numpy arrays and plain values
    content: dict[str, Any] = torch.load(Path(folder, STATE), map_location="cpu", weights_only=False)
    return content
