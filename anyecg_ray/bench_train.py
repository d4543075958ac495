"""Measure training through Ray against a bare loop: the same trainer and windows, which the bare loop has in memory."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from anyecg_ray import bench_segments, board, optimise, segments, weights
from anyecg_ray.machine import cores
from anyecg_ray.manifest import Manifest, manifest
from anyecg_ray.net1d import Net1D
from anyecg_ray.prepare import prepare
from anyecg_ray.prepare_inputs import Prepare
from anyecg_ray.synthetic import write_archive
from anyecg_ray.train import Train, train
from anyecg_ray.train_loop import Batch, Learning, Trainer

KEYS, LEADS = ["potassium_high", "calcium_low"], ["II"]
LEARNING = Learning(epochs=6, patience=6)


def measured(folder: Path, encounters: int, preset: str) -> dict[str, Any]:
    """Windows per second of both, validation left out, and of reading the segments alone.

    In the worker itself an epoch of the bare loop follows each epoch through Ray, so that what else the machine does
    weighs on both alike: `over_bare` compares the medians of these. The bare loop also runs by itself, before and
    after, when no process of Ray's is there: `over_alone` compares with that, and so counts what Ray's idle
    processes take.
    """
    store = _store(folder, encounters)
    job = Train(segments=store, out=str(folder / "trained"), preset=preset, learning=LEARNING)  # type: ignore[arg-type]
    bare = _Bare(job, str(folder / "bare"))
    alone = [bare.epoch() for _ in range(LEARNING.epochs)]
    train(job, between=bare)
    alone += [bare.epoch() for _ in range(LEARNING.epochs)]
    epochs = json.loads((folder / "trained" / "training" / "tensorboard" / board.EPOCHS).read_text())
    through = [e["samples_per_s"] for e in epochs]
    between = [float(line) for line in (folder / "bare").read_text().splitlines()]
    # of each the first warms up
    ray, beside = float(np.median(through[1:])), float(np.median(between[1:]))
    by_itself = float(np.median([*alone[1 : LEARNING.epochs], *alone[LEARNING.epochs + 1 :]]))
    return {
        "train_ray_windows_per_s": ray,
        "train_bare_windows_per_s": beside,
        "train_alone_windows_per_s": by_itself,
        "train_ray_over_bare": ray / beside,
        "train_ray_over_alone": ray / by_itself,
        "train_ray_epochs": through,
        "train_bare_epochs": between,
        **bench_segments.measured(store, folder / "read"),
    }


class _Bare:
    """The bare loop: called, it goes through one epoch in the worker that calls it and notes its rate in a file."""

    def __init__(self, job: Train, notes: str) -> None:
        self._job, self._notes = job, notes
        self._made: tuple[Trainer, np.ndarray, np.ndarray] | None = None

    def __call__(self) -> None:
        rate = self.epoch()
        with open(self._notes, "a") as file:
            file.write(f"{rate}\n")

    def __getstate__(self) -> dict[str, Any]:
        return {"_job": self._job, "_notes": self._notes, "_made": None}

    def epoch(self) -> float:
        """Windows per second of one."""
        self._made = self._made or self._make()
        loop, x, y = self._made
        done = loop.epoch(0, _shuffled(x, y))
        return done.samples / done.seconds

    def _make(self) -> tuple[Trainer, np.ndarray, np.ndarray]:
        rows = list(segments.batches(self._job.segments, "train"))
        x = np.concatenate([segments.windows(r, len(LEADS)) for r in rows])
        y = np.concatenate([segments.labels(r, KEYS) for r in rows])
        net = Net1D(replace(weights.PRESET_SIZES[self._job.preset], in_channels=len(LEADS)), len(KEYS))
        optimiser = torch.optim.AdamW(net.parameters(), lr=LEARNING.lr)
        torch.set_num_threads(cores())
        course = optimise.schedule(optimiser, 1000, LEARNING.warmup)
        value, weight = [False] * len(KEYS), torch.ones(len(KEYS))
        return Trainer(net, optimiser, course, LEARNING, self._job.augment, value, weight, 500, 0), x, y


def _shuffled(x: np.ndarray, y: np.ndarray) -> Iterator[Batch]:
    """Batches of what lies in memory."""
    order = np.random.default_rng(0).permutation(len(x))
    for i in range(0, len(order), LEARNING.batch):
        rows = torch.from_numpy(order[i : i + LEARNING.batch])
        yield Batch(torch.from_numpy(x)[rows], torch.from_numpy(y)[rows])


def _store(folder: Path, encounters: int) -> str:
    archive, index, store = (str(folder / name) for name in ("visits", "visits.parquet", "segments"))
    write_archive(archive, encounters, seed=0, minutes=2)
    manifest(Manifest(archive=archive, dataset="mc-med", out=index, workers=0))
    prepare(Prepare(manifest=index, out=store, indicators=KEYS, leads=LEADS))
    return store
