"""AdamW over groups by depth, and the learning rate's course: a linear warm-up, then half a cosine."""

import math
import re

import torch
from torch import nn

UNDECAYED = re.compile(r"\bbn\d|_bn\b|bias$")
"""Weight decay is for weights alone."""


def groups(net: nn.Module, lr: float, weight_decay: float, layer_decay: float, head_only: bool) -> list[dict]:  # type: ignore[type-arg]
    """Parameter groups for AdamW: the head at `lr`, each stage below it at `layer_decay` times the one above.

    head_only: the rest is frozen, a linear probe.
    """
    stages = 1 + max((int(m.group(1)) for n, _ in net.named_parameters() if (m := _STAGE.match(n))), default=-1)
    found: dict[tuple[int, bool], list[nn.Parameter]] = {}
    for name, parameter in net.named_parameters():
        depth = _depth(name, stages)
        if head_only and depth <= stages:
            parameter.requires_grad_(False)
            continue
        found.setdefault((depth, bool(UNDECAYED.search(name))), []).append(parameter)
    return [
        {
            "params": parameters,
            "lr": lr * layer_decay ** (stages + 1 - depth),
            "weight_decay": 0.0 if undecayed else weight_decay,
        }
        for (depth, undecayed), parameters in sorted(found.items(), key=lambda item: item[0])
    ]


_STAGE = re.compile(r"stage_list\.(\d+)\.")


def _depth(name: str, stages: int) -> int:
    """0 for the first convolution, then one for each stage, the head last."""
    stage = _STAGE.match(name)
    return stages + 1 if name.startswith("dense.") else int(stage.group(1)) + 1 if stage else 0


def schedule(optimiser: torch.optim.Optimizer, steps: int, warmup: float) -> torch.optim.lr_scheduler.LambdaLR:
    """A factor on each learning rate: up to 1 over the share `warmup` of all steps, then along a cosine to 0.01."""
    rising = max(1, round(warmup * steps))

    def factor(step: int) -> float:
        if step < rising:
            return (step + 1) / rising
        along = min(1.0, (step - rising) / max(1, steps - rising))
        return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * along))

    return torch.optim.lr_scheduler.LambdaLR(optimiser, factor)
