"""Archives, bundles and clusters in which one thing grows: a record's length, the leads, the indicators, the workers.

The network is the tiny one, so that what is measured is everything but the model.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from anyecg_ray import example, model, weights
from anyecg_ray.config import InputError
from anyecg_ray.leads import TWELVE_LEADS
from anyecg_ray.model import IndicatorCard

Axis = Literal["spans", "seconds", "leads", "indicators", "workers"]

FS = 500
SECONDS, INDICATORS = 60, 5
"""Of a record and of a model where something else grows."""


def parsed(text: str) -> tuple[Axis, list[int]]:
    """`seconds:10:600` as what grows, and through which values. Raises InputError."""
    name, *values = text.split(":")
    axis = next((axis for axis in get_args(Axis) if axis == name), None)
    if axis is None or not values or not all(value.isdecimal() and int(value) for value in values):
        raise InputError(f"setting grow: {text!r}; give {', '.join(get_args(Axis))} with numbers, as in seconds:10:600")
    return axis, [int(value) for value in values]


@contextmanager
def workers(n: int) -> Iterator[None]:
    """A cluster of a head that runs no work and n workers, all on this machine; the block's jobs go there."""
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    before = os.environ.get("RAY_ADDRESS")
    try:
        for _ in range(n):
            cluster.add_node(num_cpus=2)  # one for the model, one for what feeds it
        cluster.wait_for_nodes()
        os.environ["RAY_ADDRESS"] = cluster.address
        yield
    finally:
        os.environ.pop("RAY_ADDRESS")
        if before is not None:
            os.environ["RAY_ADDRESS"] = before
        cluster.shutdown()


def archive(axis: Axis, value: int, folder: Path) -> str:
    """A folder with one record of 12 leads at 500 Hz in format 16, as long as is asked for."""
    folder.mkdir(parents=True)
    n = (value if axis == "seconds" else SECONDS) * FS
    block = np.repeat(example.signals()[:, : 20 * int(example.FS)], FS // int(example.FS), axis=1)
    whole = np.round(block.T * example.GAIN).astype("<i2")
    with (folder / "r.dat").open("wb") as file:
        for start in range(0, n, len(whole)):
            whole[: n - start].tofile(file)
    lines = [f"r 12 {FS} {n}", *(f"r.dat 16 {example.GAIN}/mV 16 0 0 0 0 {lead}" for lead in TWELVE_LEADS)]
    (folder / "r.hea").write_text("\n".join(lines) + "\n")
    return str(folder)


def bundle(axis: Axis, value: int, folder: Path) -> str:
    """A tiny untrained bundle, of as many leads or indicators as are asked for."""
    n = value if axis == "indicators" else INDICATORS
    leads = TWELVE_LEADS[:value] if axis == "leads" and value > 1 else ("II",)
    cards = [IndicatorCard(key=f"analyte{i}_high", analyte=None, name="grown", direction="high") for i in range(n)]
    sizes = replace(weights.PRESET_SIZES["tiny"], in_channels=len(leads))
    state = weights.random_state(sizes, n, 0)
    recipe = weights.named_recipe(weights.DEFAULT_RECIPE, leads)
    made = model.make(
        state, sizes, recipe, cards, model_id="grown", source="random weights", trained=False, licence="Apache-2.0"
    )
    model.save(made, str(folder))
    return str(folder)
