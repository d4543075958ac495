"""Net1D, the ECGFounder encoder: a one-dimensional residual network with grouped convolutions.

Names and shapes of all modules are those of the published checkpoints, so their state dicts load as
they are. That is why the batch-norm modules exist: the published network was trained with them switched
off, their tensors are in the checkpoint all the same, and the forward pass never calls them.
Source: ECGFounder (Li et al., NEJM AI 2025), architecture by Hong et al.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from anyecg_ray.net1d_sizes import Sizes


def same_padding(length: int, kernel_size: int, stride: int) -> tuple[int, int]:
    """Zeros to put left and right of `length` samples so that ceil(length / stride) come out."""
    out = (length + stride - 1) // stride
    total = max(0, (out - 1) * stride + kernel_size - length)
    return total // 2, total - total // 2


def same_padded(x: Tensor, kernel_size: int, stride: int) -> Tensor:
    """(…, samples) with these zeros at both ends."""
    padding = same_padding(x.shape[-1], kernel_size, stride)
    return functional.pad(x, padding) if any(padding) else x


class SamePadConv(nn.Module):
    """Convolution with TensorFlow's SAME padding; its parameters live under `.conv`, as in the checkpoint."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, stride: int, groups: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv1d(in_channels, out_channels, kernel_size, stride, groups=groups)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, in, samples) -> (batch, out, ceil(samples / stride))."""
        return self.conv(same_padded(x, self.conv.kernel_size[0], self.conv.stride[0]))


class Block(nn.Module):
    """Pre-activated bottleneck: 1×1, grouped k, 1×1, squeeze-and-excitation, plus the identity.

    The identity is max-pooled where the block halves the time axis, and padded with zero channels on both
    sides where the block widens: there is no projection.
    """

    def __init__(self, in_channels: int, out_channels: int, sizes: Sizes, stride: int, first: bool) -> None:
        super().__init__()
        groups = out_channels // sizes.groups_width
        self.stride, self.first, self.widening = stride, first, out_channels - in_channels
        self.bn1 = nn.BatchNorm1d(in_channels)
        self.conv1 = SamePadConv(in_channels, out_channels, 1, 1)
        self.bn2 = nn.BatchNorm1d(out_channels)
        self.conv2 = SamePadConv(out_channels, out_channels, sizes.kernel_size, stride, groups)
        self.bn3 = nn.BatchNorm1d(out_channels)
        self.conv3 = SamePadConv(out_channels, out_channels, 1, 1)
        self.se_fc1 = nn.Linear(out_channels, out_channels // 2)
        self.se_fc2 = nn.Linear(out_channels // 2, out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, in, samples) -> (batch, out, ceil(samples / stride))."""
        out = self.conv1(x if self.first else functional.silu(x))
        out = self.conv2(functional.silu(out))
        out = self.conv3(functional.silu(out))
        gate = torch.sigmoid(self.se_fc2(functional.silu(self.se_fc1(out.mean(-1)))))
        return torch.addcmul(self._identity(x), out, gate.unsqueeze(-1))

    def _identity(self, x: Tensor) -> Tensor:
        if self.stride > 1:
            x = functional.max_pool1d(same_padded(x, self.stride, self.stride), self.stride, self.stride)
        if self.widening:
            left = self.widening // 2
            x = functional.pad(x, (0, 0, left, self.widening - left))
        return x


class Stage(nn.Module):
    """Blocks of one width; the first of them halves the time axis."""

    def __init__(self, in_channels: int, out_channels: int, blocks: int, sizes: Sizes, first: bool) -> None:
        super().__init__()
        self.block_list = nn.ModuleList(
            Block(
                out_channels if i else in_channels,
                out_channels,
                sizes,
                stride=1 if i else sizes.stride,
                first=first and i == 0,
            )
            for i in range(blocks)
        )

    def forward(self, x: Tensor) -> Tensor:
        """(batch, in, samples) -> (batch, out, ceil(samples / stride))."""
        for block in self.block_list:
            x = block(x)
        return x


class Net1D(nn.Module):
    """ECGFounder's network: any number of samples in, `n_classes` logits out."""

    def __init__(self, sizes: Sizes, n_classes: int) -> None:
        super().__init__()
        widths = (sizes.base_filters, *sizes.filters)
        self.first_conv = SamePadConv(sizes.in_channels, sizes.base_filters, sizes.kernel_size, sizes.stride)
        self.first_bn = nn.BatchNorm1d(sizes.base_filters)
        self.stage_list = nn.ModuleList(
            Stage(widths[i], widths[i + 1], blocks, sizes, first=i == 0) for i, blocks in enumerate(sizes.blocks)
        )
        self.dense = nn.Linear(widths[-1], n_classes)

    def features(self, x: Tensor) -> Tensor:
        """(batch, leads, samples) -> (batch, filters[-1]), the mean over time of the last stage."""
        x = functional.silu(self.first_conv(x))
        for stage in self.stage_list:
            x = stage(x)
        return x.mean(-1)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, leads, samples) -> (batch, n_classes) logits."""
        return self.dense(self.features(x))
