"""Train a network on segments with Ray Train: any number of workers, CPUs or GPUs, from weights or from scratch.

Ray Data streams the training split; every worker goes through its part (train_worker.py), and gradients are averaged by
PyTorch. After each epoch the validation split is scored, every worker a share, and a checkpoint goes to
OUT/training: a worker that dies is replaced and goes on from there, and so does the same command after a crash of the
whole. The best epoch becomes the bundle, its calibration and thresholds fitted on the validation split.
"""

from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import pyarrow.fs
import ray
import ray.data
import ray.train
from pydantic import Field
from ray.train import CheckpointConfig, DataConfig, FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer

from anyecg_ray import board, calibrate, cluster, initial_weights, model, segments, storage
from anyecg_ray.augment import Augment
from anyecg_ray.config import InputError, JobError, Location, LocationOrWord, Settings, fingerprint
from anyecg_ray.model import Bundle, IndicatorCard
from anyecg_ray.segments import SegmentsCard
from anyecg_ray.train_loop import Learning
from anyecg_ray.train_worker import Job, learn, read_state


class Train(Settings):
    """Train a network on segments and write the best epoch as a bundle."""

    segments: Location
    """What `anyecg prepare` wrote."""

    out: Location
    """Where the bundle goes; checkpoints and curves go below it, to `training`. The same command goes on with them."""

    init: LocationOrWord = "random"
    """random, a bundle, or an ECGFounder checkpoint (.pth) to start from."""

    preset: Literal["tiny", "small", "full"] = "small"
    """Size of the network where it starts at random."""

    train: Literal["all", "head"] = "all"
    """all: the whole network; head: a linear probe, everything below the head as it was."""

    learning: Learning = Learning()
    """How the network learns."""

    augment: Augment = Augment()
    """What happens to a window each time it is seen."""

    workers: int = Field(1, ge=1)
    """Copies that learn together."""

    cpus_per_worker: float = Field(0, ge=0)
    """0: the cluster's CPUs, less one for reading, shared out among the workers."""

    gpu: bool | None = None
    """Whether each worker has a GPU; by default where the cluster has enough of them."""

    max_failures: int = Field(3, ge=0)
    """Deaths of workers after which the job fails."""

    seed: int = Field(0, ge=0)
    """Of weights, shuffling and augmentation."""

    name: str | None = None
    """The bundle's model_id; by default made of the segments' data set and the size."""


def train(settings: Train, between: Callable[[], None] | None = None) -> Bundle:
    """Train, write the bundle and return it. Raises InputError for what cannot be used, JobError where it failed.

    between: is called in each worker after each epoch; the benchmark measures there.
    """
    # Ray Train gives its workers a folder of their own to run in
    settings = settings.model_copy(update={n: storage.absolute(getattr(settings, n)) for n in ("segments", "out")})
    card = _standardised(segments.read_card(settings.segments), settings.segments)
    _check(card, settings)
    began = initial_weights.state(settings.init, settings.preset, card, settings.seed)
    print(began.told, flush=True)
    name = fingerprint([settings.model_dump(exclude={"out", "workers", "cpus_per_worker", "gpu"}), card.fingerprint])
    with cluster.connected(), board.shown(storage.join(settings.out, "training"), settings.learning.epochs) as notes:
        result = _trainer(settings, card, began, name, notes, between).fit()
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


def _trainer(
    settings: Train,
    card: SegmentsCard,
    began: initial_weights.Start,
    name: str,
    notes: Any,
    between: Callable[[], None] | None,
) -> TorchTrainer:
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
        learn,
        train_loop_config={
            "job": Job(
                settings.segments, card, began.sizes, settings.learning, settings.augment, settings.train == "head",
                settings.seed, between,
            ),
            "state": ray.put(began.state), "notes": notes,
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
        datasets={"train": segments.dataset(settings.segments, "train", columns, shuffle=settings.seed)},
        # in the order that the seed made of them, not that in which reading ended
        dataset_config=DataConfig(["train"], ray.data.ExecutionOptions(preserve_order=True)),
    )  # fmt: skip


def _best(result: Any) -> dict[str, Any]:
    """The state of the best epoch, with its validation outputs."""
    found = max(result.best_checkpoints, key=lambda pair: pair[1]["score"])[0]
    with found.as_directory() as folder:
        return read_state(folder)


def _bundle(best: dict[str, Any], began: initial_weights.Start, card: SegmentsCard, settings: Train) -> Bundle:
    logits, labels, patient = best["outputs"]
    first = model.first_columns(card.indicators)
    indicators = [_fitted(one, logits[:, first[i]], labels[:, i], patient) for i, one in enumerate(card.indicators)]
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
            "started_from": began.learnt_from,
            "dataset": card.dataset,
            "windows": card.windows,
            "patients": card.patients,
            "epoch": best["epoch"] - 1,
            "settings": settings.model_dump(),
        },
        metrics={"validation_macro_auroc": best["best"]["score"]},
    )


def _fitted(indicator: IndicatorCard, logits: np.ndarray, labels: np.ndarray, patient: np.ndarray) -> IndicatorCard:
    """The indicator with calibration and threshold fitted on validation outputs."""
    told = ~np.isnan(labels)
    if indicator.direction == "value" or not told.any():
        return indicator
    positive = labels[told] > 0
    calibration = calibrate.fit(logits[told], positive, patient[told])
    threshold = calibrate.threshold(model.calibrated(logits[told], calibration), positive)
    return indicator.model_copy(update={"calibration": calibration, "threshold": threshold})


def _report(bundle: Bundle, best: dict[str, Any], settings: Train) -> None:
    score = best["best"]["score"]
    print(f"best epoch {best['epoch'] - 1}: validation macro AUROC {score:.4f}")
    print(f"{settings.out}: {bundle.card.model_id}, version {bundle.card.model_version}")
    print("how good it is on patients it has never seen: `anyecg evaluate --split test`")
