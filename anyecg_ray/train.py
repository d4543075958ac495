"""Train a network on segments with Ray Train: any number of workers, CPUs or GPUs, from weights or from scratch.

Ray Data streams the training split; every worker goes through its part (train_loop.py), and gradients are averaged
by PyTorch. After each epoch the validation split is scored, every worker a share, and a checkpoint goes to
OUT/training: a worker that dies is replaced and goes on from there, and so does the same command after a crash of the
whole. The best epoch becomes the bundle, its calibration and thresholds fitted on the validation split.
"""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow.fs
import ray
import ray.train
import torch
import torch.distributed
from ray.train import Checkpoint, CheckpointConfig, DataConfig, FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer

from anyecg_ray import board, calibrate, cluster, model, optimise, segments, start, storage, train_loop
from anyecg_ray.augment import Augment
from anyecg_ray.backends import cores
from anyecg_ray.config import InputError, JobError, Settings, fingerprint
from anyecg_ray.model import Bundle, IndicatorCard
from anyecg_ray.net1d import Net1D
from anyecg_ray.segments import SegmentsCard
from anyecg_ray.train_loop import Batch, Learning, Trainer

BUFFER = 2048
"""Windows among which a worker shuffles; files come in another order each epoch besides."""

STATE = "state.pt"


class Train(Settings):
    """Train a network on segments and write the best epoch as a bundle."""

    segments: str
    """What `anyecg prepare` wrote."""

    out: str
    """Where the bundle goes; checkpoints and curves go below it, to `training`. The same command goes on with them."""

    init: str = "random"
    """random, a bundle, or an ECGFounder checkpoint (.pth) to start from."""

    preset: Literal["tiny", "small", "full"] = "small"
    """Size of the network where it starts at random."""

    train: Literal["all", "head"] = "all"
    """all: the whole network; head: a linear probe, everything below the head as it was."""

    learning: Learning = Learning()
    """How the network learns."""

    augment: Augment = Augment()
    """What happens to a window each time it is seen."""

    workers: int = 1
    """Copies that learn together."""

    cpus_per_worker: float = 0
    """0: the cluster's CPUs, less one for reading, shared out among the workers."""

    gpu: bool | None = None
    """Whether each worker has a GPU; by default where the cluster has enough of them."""

    max_failures: int = 3
    """Deaths of workers after which the job fails."""

    seed: int = 0
    """Of weights, shuffling and augmentation."""

    name: str | None = None
    """The bundle's model_id; by default made of the segments' data set and the size."""


def train(settings: Train) -> Bundle:
    """Train, write the bundle and return it. Raises InputError for what cannot be used, JobError where it failed."""
    # Ray Train gives its workers a folder of their own to run in
    settings = settings.model_copy(update={n: storage.absolute(getattr(settings, n)) for n in ("segments", "out")})
    card = _standardised(segments.read_card(settings.segments), settings.segments)
    _check(card, settings)
    began = start.state(settings.init, settings.preset, card, settings.seed)
    print(began.told, flush=True)
    name = fingerprint([settings.model_dump(exclude={"out", "workers", "cpus_per_worker", "gpu"}), card.fingerprint])
    with cluster.connected(), board.shown(storage.join(settings.out, "training"), settings.learning.epochs) as notes:
        result = _trainer(settings, card, began, name, notes).fit()
        if result.error:
            raise JobError(f"training failed: {str(result.error).splitlines()[-1]}; run the same command to go on")
        best = _best(result)
    bundle = _bundle(best, began, card, settings)
    model.save(bundle, settings.out)
    _report(bundle, best, settings)
    return bundle


def _check(card: SegmentsCard, settings: Train) -> None:
    for split in ("train", "val"):
        if not card.windows[split]:
            raise InputError(f"{settings.segments}: no windows to train on in split {split}")
    if settings.workers < 1:
        raise InputError(f"setting workers: {settings.workers}; give 1 or more")


def _standardised(card: SegmentsCard, uri: str) -> SegmentsCard:
    """The card with each value's mean and deviation over the training windows: what the network's 0 and 1 stand for."""
    values = [i.key for i in card.indicators if i.direction == "value"]
    if not values:
        return card
    columns = [segments.label(k) for k in values]
    y = np.concatenate([segments.labels(rows, values) for rows in segments.batches(uri, "train", 8192, columns)])
    mean = np.atleast_1d(np.nanmean(y, axis=0, dtype=np.float64))
    deviation = np.atleast_1d(np.nanstd(y, axis=0, dtype=np.float64))
    told = {k: {"offset": float(m), "scale": float(d) or 1.0} for k, m, d in zip(values, mean, deviation, strict=True)}
    return card.model_copy(update={"indicators": [i.model_copy(update=told.get(i.key, {})) for i in card.indicators]})


def _trainer(settings: Train, card: SegmentsCard, began: start.Start, name: str, notes: Any) -> TorchTrainer:
    total = ray.cluster_resources()
    gpu = settings.gpu if settings.gpu is not None else total.get("GPU", 0) >= settings.workers
    cpus = settings.cpus_per_worker or max(1, (int(total.get("CPU", 1)) - 1) // settings.workers)
    if settings.workers * cpus > total.get("CPU", 0):
        raise InputError(f"setting workers: {settings.workers} workers of {cpus:g} CPUs do not fit the cluster")
    uri = storage.join(settings.out, "training")
    filesystem, path = storage.filesystem(uri)
    keys = [i.key for i in card.indicators]
    columns = ["scale", "samples", *(segments.label(k) for k in keys)]
    return TorchTrainer(
        _worker,
        train_loop_config={
            "settings": settings, "card": card, "state": ray.put(began.state), "sizes": began.sizes, "notes": notes,
        },
        scaling_config=ScalingConfig(
            num_workers=settings.workers, use_gpu=gpu, resources_per_worker={"CPU": cpus, **({"GPU": 1} if gpu else {})}
        ),
        run_config=RunConfig(
            name=f"run-{name}",
            storage_path=path,
            storage_filesystem=pyarrow.fs.PyFileSystem(pyarrow.fs.FSSpecHandler(filesystem)),
            failure_config=FailureConfig(max_failures=settings.max_failures),
            checkpoint_config=CheckpointConfig(
                num_to_keep=2, checkpoint_score_attribute="score", checkpoint_score_order="max"
            ),
        ),
        datasets={"train": segments.dataset(settings.segments, "train", columns, shuffle=True)},
        dataset_config=DataConfig(datasets_to_split=["train"]),
    )  # fmt: skip


def _worker(config: dict[str, Any]) -> None:
    """One worker: learn, validate, report, epoch by epoch, from the last checkpoint on where there is one."""
    settings, card, notes = config["settings"], config["card"], config["notes"]
    context = ray.train.get_context()
    rank, world = context.get_world_rank(), context.get_world_size()
    trainer = _prepared(settings, card, ray.get(config["state"]), config["sizes"], rank, world)
    epoch, best = _resumed(trainer)
    shard = ray.train.get_dataset_shard("train")
    while epoch < settings.learning.epochs and epoch - best["epoch"] <= settings.learning.patience:
        show = None
        if rank == 0:
            show = lambda told, at=epoch: notes.show.remote({"epoch": at, **told})  # noqa: E731
        done = trainer.epoch(epoch, _batches(shard, card, settings, epoch, rank), show)
        outputs = _gathered(trainer.logits(_validation(settings, card, rank, world)), world)
        if len(outputs[0]) != card.windows["val"]:
            raise JobError(f"read {len(outputs[0])} of {card.windows['val']} validation windows")
        done.aurocs = train_loop.validation(*outputs, trainer.is_value)
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
        _report_epoch(trainer, told, best, epoch, rank, outputs)


def _prepared(
    settings: Train, card: SegmentsCard, state: dict[str, torch.Tensor], sizes: Any, rank: int, world: int
) -> Trainer:
    """The network on this worker's device, its gradients averaged over all workers."""
    torch.manual_seed(settings.seed + rank)
    # reading takes a tenth of a core: the cores that are set aside for it learn too
    torch.set_num_threads(max(1, cores() // ray.train.get_context().get_local_world_size()))
    learning = settings.learning
    net: Any = Net1D(sizes, start.columns(card.indicators))
    net.load_state_dict(state, strict=True)
    net.to(ray.train.torch.get_device())
    groups = optimise.groups(net, learning.lr, learning.weight_decay, learning.layer_decay, settings.train == "head")
    optimiser = torch.optim.AdamW(groups)
    if world > 1:
        net = ray.train.torch.prepare_model(net, parallel_strategy_kwargs={"find_unused_parameters": True})
    steps = card.windows["train"] // (learning.batch * learning.accumulate * world) * learning.epochs
    return Trainer(
        net, optimiser, optimise.schedule(optimiser, steps, learning.warmup), learning, settings.augment,
        [i.direction == "value" for i in card.indicators], _weights(card, learning),
        card.preprocessing().fs, settings.seed * 1000 + rank,
    )  # fmt: skip


def _weights(card: SegmentsCard, learning: Learning) -> torch.Tensor:
    """Of positives, by indicator; for positive-unlabelled the prevalence that is assumed."""
    if learning.loss == "positive-unlabelled":
        return torch.full((len(card.indicators),), learning.prevalence)
    counts = [card.counts["train"][i.key] for i in card.indicators]
    odds = [c["negative"] / max(1, c["positive"]) for c in counts]
    return torch.tensor([min(max(o, 1.0), learning.positive_weight) for o in odds])


def _batches(shard: Any, card: SegmentsCard, settings: Train, epoch: int, rank: int) -> Iterator[Batch]:
    """This worker's training windows of one epoch, shuffled among BUFFER at a time."""
    rng = np.random.default_rng([settings.seed, epoch, rank])
    size = settings.learning.batch
    for rows in shard.iter_batches(batch_size=max(BUFFER, size), batch_format="pyarrow", prefetch_batches=1):
        x, y = _tensors(rows, card)
        order = torch.from_numpy(rng.permutation(len(x)))
        for i in range(0, len(x), size):
            some = order[i : i + size]
            yield Batch(x[some], y[some])


def _tensors(rows: Any, card: SegmentsCard) -> Batch:
    x = torch.from_numpy(segments.windows(rows, len(card.recipe["leads"])))
    y = segments.labels(rows, [i.key for i in card.indicators])
    for i, indicator in enumerate(card.indicators):
        if indicator.direction == "value":
            y[:, i] = (y[:, i] - indicator.offset) / indicator.scale
    return Batch(x, torch.from_numpy(y))


def _validation(settings: Train, card: SegmentsCard, rank: int, world: int) -> Iterator[Batch]:
    """This worker's share of the validation windows: every window is scored by one worker."""
    columns = ["scale", "samples", *(segments.label(i.key) for i in card.indicators)]
    for i, rows in enumerate(segments.batches(settings.segments, "val", 256, columns)):
        if i % world == rank:
            yield _tensors(rows, card)


def _gathered(mine: tuple[np.ndarray, np.ndarray], world: int) -> tuple[np.ndarray, np.ndarray]:
    """Outputs and labels of all workers' shares, in the order of the workers."""
    if world == 1:
        return mine
    all_of_them: list[Any] = [None] * world
    torch.distributed.all_gather_object(all_of_them, mine)
    return np.concatenate([a for a, _ in all_of_them]), np.concatenate([b for _, b in all_of_them])


def _report_epoch(
    trainer: Trainer,
    told: dict[str, Any],
    best: dict[str, Any],
    epoch: int,
    rank: int,
    outputs: tuple[np.ndarray, np.ndarray],
) -> None:
    """Tell Ray the score; the first worker adds the checkpoint, which is uploaded while the next epoch runs."""
    plain = {k: v for k, v in told.items() if k != "aurocs"} | {f"auroc:{k}": v for k, v in told["aurocs"].items()}
    if rank != 0:
        ray.train.report(plain)
        return
    folder = tempfile.mkdtemp()
    net = _plain(trainer.net)
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


def _plain(net: Any) -> Any:
    """The network without the wrapper that averages gradients."""
    return net.module if hasattr(net, "module") else net


def _resumed(trainer: Trainer) -> tuple[int, dict[str, Any]]:
    """The epoch to begin with and the best one so far: from Ray's last checkpoint, else from the start."""
    checkpoint = ray.train.get_checkpoint()
    if checkpoint is None:
        return 0, {"epoch": 0, "score": float("-inf")}
    with checkpoint.as_directory() as folder:
        saved = _read(folder)
    net = _plain(trainer.net)
    net.load_state_dict(saved["net"], strict=True)
    trainer.optimiser.load_state_dict(saved["optimiser"])
    trainer.schedule.load_state_dict(saved["schedule"])
    return saved["epoch"], saved["best"]


def _read(folder: str) -> dict[str, Any]:
    # our own file of this very run: tensors, numpy arrays and plain values
    content: dict[str, Any] = torch.load(Path(folder, STATE), map_location="cpu", weights_only=False)
    return content


def _best(result: Any) -> dict[str, Any]:
    """The state of the best epoch, with its validation outputs."""
    found = max(result.best_checkpoints, key=lambda pair: pair[1]["score"])[0]
    with found.as_directory() as folder:
        return _read(folder)


def _bundle(best: dict[str, Any], began: start.Start, card: SegmentsCard, settings: Train) -> Bundle:
    logits, labels = best["outputs"]
    indicators, column = [], 0
    for i, indicator in enumerate(card.indicators):
        indicators.append(_fitted(indicator, logits[:, column], labels[:, i]))
        column += 2 if indicator.direction == "value" else 1
    return model.make(
        best["net"],
        began.sizes,
        card.preprocessing(),
        indicators,
        model_id=settings.name or f"{card.dataset}-{settings.preset if settings.init == 'random' else 'finetuned'}",
        source=began.source,
        trained=True,
        licence="that of the data it was trained on",
        training={
            "segments_fingerprint": card.fingerprint,
            "dataset": card.dataset,
            "windows": card.windows,
            "patients": card.patients,
            "epoch": best["epoch"] - 1,
            "settings": settings.model_dump(),
        },
        metrics={"validation_macro_auroc": best["best"]["score"]},
    )


def _fitted(indicator: IndicatorCard, logits: np.ndarray, labels: np.ndarray) -> IndicatorCard:
    """The indicator with calibration and threshold fitted on validation outputs, and its AUROC there."""
    told = ~np.isnan(labels)
    if indicator.direction == "value" or not told.any():
        return indicator
    positive = labels[told] > 0
    calibration = calibrate.fit(logits[told], positive)
    threshold = calibrate.threshold(model.calibrated(logits[told], calibration), positive)
    return indicator.model_copy(update={"calibration": calibration, "threshold": threshold})


def _report(bundle: Bundle, best: dict[str, Any], settings: Train) -> None:
    score = best["best"]["score"]
    print(f"best epoch {best['epoch'] - 1}: validation macro AUROC {score:.4f}")
    print(f"{settings.out}: {bundle.card.model_id}, version {bundle.card.model_version}")
    print("how good it is on patients it has never seen: `anyecg evaluate --split test`")
