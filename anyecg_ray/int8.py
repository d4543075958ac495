"""The network's convolutions in 8-bit integers, where there is no AMX: half of float32's time, or less.

Weights are rounded to 127 levels (−63 to 63), scaled per output channel by its largest weight; the input of a
convolution to 256 levels between the least and the most that ECG-like windows bring there. These windows are artificial
(pulses.py), because a bundle comes without records: on records of four archives they served as well as real ones did
(docs/benchmarks.md). The first convolution, which sees the signal itself, and all between convolutions stay as they
are.
"""

from typing import cast

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from anyecg_ray.net1d import SamePadConv, same_padded

BATCH = 8
"""Windows at a time while the ranges are learnt."""

WEIGHT_STEPS = 63
"""Steps of a weight on each side of zero. A processor without VNNI adds two products in 16 bits (AVX2's vpmaddubsw) and
cuts off without a word what does not fit: 2 × 255 × 63 fits, 2 × 255 × 127 does not. 127 were no closer to float32."""


def in_int8(net: nn.Module, windows: np.ndarray) -> nn.Module:
    """The network with all convolutions but the first rounded to integers, in place. It computes in float32 still.

    windows: (n, leads, samples) float32, from which the ranges are learnt. OpenVINO takes the roundings for what they
    mean and multiplies integers.
    """
    for name, (low, high) in _ranges(net, windows).items():
        parent, _, own = name.rpartition(".")
        setattr(net.get_submodule(parent), own, _Rounded(cast(SamePadConv, net.get_submodule(name)), low, high))
    return net


class _Rounded(nn.Module):
    """A convolution whose inputs and weights are rounded to integers."""

    def __init__(self, whole: SamePadConv, low: float, high: float) -> None:
        super().__init__()
        self.conv = whole.conv
        self.step = max(high - low, 1e-6) / 255
        self.zero = round(-low / self.step)
        """The integer that stands for 0.0, exactly: padding adds nothing."""
        self.steps = whole.conv.weight.detach().abs().amax(dim=(1, 2)).clamp_min(1e-12) / WEIGHT_STEPS
        self.zeros = torch.zeros(len(self.steps), dtype=torch.int32)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(batch, in, samples) -> (batch, out, ceil(samples / stride))."""
        conv = self.conv
        x = torch.fake_quantize_per_tensor_affine(x, self.step, self.zero, 0, 255)
        within = (-WEIGHT_STEPS, WEIGHT_STEPS)
        weight = torch.fake_quantize_per_channel_affine(conv.weight, self.steps, self.zeros, 0, *within)
        # padded after it was rounded: OpenVINO takes a padding into the convolution only where nothing lies between
        x = same_padded(x, conv.kernel_size[0], conv.stride[0])
        return functional.conv1d(x, weight, conv.bias, conv.stride, groups=conv.groups)


@torch.inference_mode()
def _ranges(net: nn.Module, windows: np.ndarray) -> dict[str, tuple[float, float]]:
    """The least and the most, 0 among them, that goes into each convolution but the first."""
    found: dict[str, tuple[float, float]] = {}

    def watch(name: str, conv: nn.Module) -> torch.utils.hooks.RemovableHandle:
        def see(_: nn.Module, inputs: tuple[torch.Tensor]) -> None:
            low, high = (float(x) for x in torch.aminmax(inputs[0]))
            least, most = found.get(name, (0.0, 0.0))
            found[name] = min(least, low), max(most, high)

        return conv.register_forward_pre_hook(see)

    convolutions = {name: m for name, m in net.named_modules() if isinstance(m, SamePadConv) and name != "first_conv"}
    watching = [watch(name, conv) for name, conv in convolutions.items()]
    for batch in torch.from_numpy(windows).split(BATCH):
        net(batch)
    for handle in watching:
        handle.remove()
    return found
