"""Measure training through Ray against a bare loop: the same network and windows, which the bare loop has in memory."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from anyecg_ray import board, optimise, segments, weights
from anyecg_ray.backends import cores
from anyecg_ray.cohort import Prepare
from anyecg_ray.manifest import Manifest, manifest
from anyecg_ray.net1d import Net1D
from anyecg_ray.prepare import prepare
from anyecg_ray.synthetic import write_archive
from anyecg_ray.train import Train, train
from anyecg_ray.train_loop import Learning, Trainer, in_memory

KEYS, LEADS = ["potassium_high", "calcium_low"], ["II"]
LEARNING = Learning(epochs=6, patience=6)


def measured(folder: Path, encounters: int, preset: str) -> dict[str, Any]:
    """Windows per second of both, the bare loop before and after, validation left out.

    The best epoch of each is compared, as timeit does: what else runs on the machine only ever slows an epoch. The
    medians stand beside it.
    """
    store = _store(folder, encounters)
    job = Train(segments=store, out=str(folder / "trained"), preset=preset, learning=LEARNING)  # type: ignore[arg-type]
    rows = list(segments.batches(store, "train"))
    x = np.concatenate([segments.windows(r, len(LEADS)) for r in rows])
    y = np.concatenate([segments.labels(r, KEYS) for r in rows])
    bare = _bare(x, y, job)
    train(job)
    bare += _bare(x, y, job)
    epochs = json.loads((folder / "trained" / "training" / "tensorboard" / board.EPOCHS).read_text())
    through = [e["samples_per_s"] for e in epochs[1:]]
    return {
        "train_windows": len(x),
        "train_ray_windows_per_s": max(through),
        "train_bare_windows_per_s": max(bare),
        "train_ray_median_windows_per_s": float(np.median(through)),
        "train_bare_median_windows_per_s": float(np.median(bare)),
        "train_ray_over_bare": max(through) / max(bare),
    }


def _store(folder: Path, encounters: int) -> str:
    archive, index, store = (str(folder / name) for name in ("visits", "visits.parquet", "segments"))
    write_archive(archive, encounters, seed=0, minutes=2)
    manifest(Manifest(archive=archive, dataset="mc-med", out=index, workers=0))
    prepare(Prepare(manifest=index, out=store, indicators=KEYS, leads=LEADS))
    return store


def _bare(x: np.ndarray, y: np.ndarray, job: Train) -> list[float]:
    net = Net1D(replace(weights.PRESET_SIZES[job.preset], in_channels=len(LEADS)), len(KEYS))
    optimiser = torch.optim.AdamW(net.parameters(), lr=LEARNING.lr)
    torch.set_num_threads(cores())
    course = optimise.schedule(optimiser, 1000, LEARNING.warmup)
    alone = Trainer(net, optimiser, course, LEARNING, job.augment, [False] * len(KEYS), torch.ones(len(KEYS)), 500, 0)
    epochs = [alone.epoch(i, in_memory(x, y, LEARNING.batch, i)) for i in range(4)]
    return [e.samples / e.seconds for e in epochs[1:]]  # the first warms up
