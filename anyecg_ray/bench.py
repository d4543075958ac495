"""Measure the stages, alone and end to end, in one run: figures from two runs are not comparable.

Every rate is of steady state: the model alone is fed windows from memory; end to end is timed at the
driver from the moment a fifth of the spans has arrived, when all queues are full; `published` is how
ECGFounder's own code does it (published.py). The same records go through all of them.
"""

import itertools
import json
import platform
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import ray
import torch
from pydantic_settings import CliPositionalArg

from anyecg_ray import __version__, cluster, published, storage, weights
from anyecg_ray.backends import Compute, Estimator
from anyecg_ray.backfill import plan
from anyecg_ray.config import Settings
from anyecg_ray.manifest import Manifest, manifest, open_manifest, read_rows, write_manifest
from anyecg_ray.model import Bundle, load
from anyecg_ray.predict import Predict, Shard, Source, estimates, fetch, windows_of
from anyecg_ray.preprocess import preprocess
from anyecg_ray.record import decode
from anyecg_ray.synthetic import Synth, synth


class Bench(Settings):
    """Measure the stages, alone and end to end, and print a table."""

    what: CliPositionalArg[Literal["model", "preprocess", "read", "score"]]
    """model, preprocess and read: one stage alone. score: all of them, and end to end, in one run."""

    json_: str | None = None
    """Write the figures here too."""

    archive: str | None = None
    """Records to measure on; by default a synthetic archive is made for the run."""

    dataset: str = "wfdb"
    """Kind of the archive."""

    bundle: str | None = None
    """Model to measure; by default an untrained one of the full size, single lead."""

    seconds: float = 60
    """How long end to end runs in steady state, about."""

    published_batches: list[int] = [512, 32]
    """Batch sizes of the published way; the first is the published one. Empty: leave it out."""

    predict: Predict = Predict()
    """How the pipeline is laid out."""

    compute: Compute = Compute()
    """How the model is run."""
