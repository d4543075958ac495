"""A network cut between two of its stages, so that each part runs in a precision of its own."""

import torch
from torch import nn

from anyecg_ray.net1d import Net1D


class Stages(nn.Module):
    """Some of a network's stages: from the first with the convolution before it, to the last with the head."""

    def __init__(self, net: Net1D, first: int, last: int | None) -> None:
        super().__init__()
        self.first_conv = net.first_conv if first == 0 else None
        self.stage_list = net.stage_list[first:last]
        self.dense = net.dense if last is None else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(batch, in, samples) -> (batch, out, fewer), or (batch, columns) where the head is among them."""
        if self.first_conv is not None:
            x = nn.functional.silu(self.first_conv(x))
        for stage in self.stage_list:
            x = stage(x)
        return x if self.dense is None else self.dense(x.mean(-1))
