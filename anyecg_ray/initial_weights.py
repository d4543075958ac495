"""The weights that training starts from: random ones, a bundle's, or a published checkpoint's.

Everything below the head is taken whole or not at all; the head is taken where it means the same indicators, else it
starts at random. One line says which it was.
"""

from dataclasses import dataclass, field, replace

import torch

from anyecg_ray import model, segments, weights
from anyecg_ray.net1d_sizes import Sizes
from anyecg_ray.segments import SegmentsCard

HEAD = "dense."


@dataclass(frozen=True)
class Start:
    """Where training begins."""

    state: dict[str, torch.Tensor]
    sizes: Sizes
    source: str
    """For the card."""
    told: str
    """For the user."""
    learnt_from: list[str | None] = field(default_factory=list)
    """Fingerprints of the segments that these weights have seen; None for data of which nothing is known."""


def state(init: str, preset: str, card: SegmentsCard, seed: int) -> Start:
    """Weights for the segments' leads and indicators. Raises InputError where the given ones do not fit them."""
    leads, n = len(card.recipe["leads"]), model.first_columns(card.indicators)[-1]
    if init == "random":
        sizes = replace(weights.PRESET_SIZES[preset], in_channels=leads)
        told = f"starting at random, size {preset}, seed {seed}"
        return Start(weights.random_state(sizes, n, seed), sizes, told, told)
    if init.endswith((".pth", ".pt")):
        found, sizes, same = weights.read_checkpoint(init), Sizes(in_channels=leads), False
        learnt_from: list[str | None] = [None]
    else:
        bundle = model.load(init)
        segments.check_preprocessing(card, bundle, init)
        found, sizes = bundle.state(), model.sizes(bundle.card.encoder)
        same = [i.key for i in bundle.card.indicators] == [i.key for i in card.indicators]
        learnt_from = bundle.card.learnt_from
    return replace(_joined(found, sizes, same, n, init, seed), learnt_from=learnt_from)


def _joined(found: dict[str, torch.Tensor], sizes: Sizes, same: bool, n: int, init: str, seed: int) -> Start:
    """The body that was found, with its head or a new one."""
    fresh = weights.random_state(sizes, n, seed)
    body = {k: v for k, v in found.items() if same or not k.startswith(HEAD)}
    merged = {**fresh, **body}
    kept = {k: v for k, v in fresh.items() if k.startswith(HEAD) and not same}
    weights.check_fits({**body, **kept}, sizes, n, init)
    head = "its head too" if same else f"a new head for {n} outputs"
    return Start(merged, sizes, f"started from {init}", f"starting from {init}: {len(body)} tensors, {head}")
