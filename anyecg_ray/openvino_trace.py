"""A network traced into an OpenVINO graph that is laid out so that no activation is ever rearranged.

Between convolutions OpenVINO holds activations with the channels last. A mean over time and a padding of channels want
the samples last, and all that depends on one follows it, so that every block rearranged its activations twice: a
twelfth of the time in bfloat16. Here both become operations that work on either arrangement.
"""

import warnings
from typing import Any, cast

import numpy as np
import torch
from torch import nn

from anyecg_ray.int8 import in_int8
from anyecg_ray.net1d import SamePadConv, same_padded
from anyecg_ray.net1d_sizes import Shape
from anyecg_ray.pulses import Drawn, pulses


class _ByThrees(nn.Module):
    """The first convolution as a sum over three leads each: OpenVINO's in bfloat16 is wrong for 4 to 15 channels."""

    def __init__(self, whole: SamePadConv) -> None:
        super().__init__()
        conv = self.conv = whole.conv
        self.weights = nn.ParameterList(w.clone() for w in conv.weight.detach().split(3, dim=1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(batch, leads, samples) -> (batch, filters, ceil(samples / stride))."""
        stride = self.conv.stride[0]
        x = same_padded(x, self.conv.kernel_size[0], stride)
        parts = zip(x.split(3, dim=1), self.weights, strict=True)
        out = sum(nn.functional.conv1d(part, weight, stride=stride) for part, weight in parts)
        return cast(torch.Tensor, out + self.conv.bias[:, None])  # type: ignore[index]


def traced(net: nn.Module, shape: Shape, learnt: Drawn | None = None) -> Any:
    """The network as a graph of any batch size; of (channels, samples) windows.

    learnt: windows from which the convolutions learn their ranges, to run in int8; None: they stay as they are.
    """
    import openvino

    if learnt:
        net = in_int8(net, pulses(learnt, shape[0], shape[1]))
    first = getattr(net, "first_conv", None)
    if first is not None and 3 < shape[0] < 16:
        net.first_conv = _ByThrees(first)
    with warnings.catch_warnings():
        # the length is fixed here, so the padding that depends on it may well be a constant of the trace
        warnings.simplefilter("ignore", torch.jit._trace.TracerWarning)
        made = openvino.convert_model(net, example_input=torch.zeros(2, *shape), input=[-1, *shape])
    return _laid_out(made)


def _laid_out(made: Any) -> Any:
    """The graph without means over time and without bare paddings; it computes the same."""
    from openvino import opset13 as ops

    for node in made.get_ops():
        out = node.output(0)
        users = list(out.get_target_inputs())
        kinds = {user.get_node().get_type_name() for user in users}
        if node.get_type_name() == "ReduceMean":
            whole = [node.input_value(0).get_partial_shape()[2].get_length()]
            mean = ops.avg_pool(node.input_value(0), [1], [0], [0], whole, exclude_pad=True)
            out.replace(ops.squeeze(mean, ops.constant([2], np.int64)).output(0))
        elif node.get_type_name() == "Pad" and kinds <= {"Add", "MaxPool"}:
            # times one, channel by channel: a convolution takes the padding of time into itself
            ones = np.ones((out.get_partial_shape()[1].get_length(), 1, 1, 1), np.float32)
            same = ops.group_convolution(out, ops.constant(ones), [1], [0], [0], [1])
            for user in users:
                user.replace_source_output(same.output(0))
    made.validate_nodes_and_infer_types()
    return made
