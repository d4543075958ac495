"""How large a Net1D is, and the tensors that it then has. Without PyTorch, which takes two seconds to load: a card is
read, and weights are checked, in processes that have no other use for it."""

from collections.abc import Mapping
from dataclasses import dataclass

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Sizes:
    """What tells one Net1D from another. The defaults are ECGFounder's 30.8 million parameters.

    Raises ValueError for sizes that no network can have.
    """

    in_channels: int = 1
    base_filters: int = 64
    filters: tuple[int, ...] = (64, 160, 160, 400, 400, 1024, 1024)
    blocks: tuple[int, ...] = (2, 2, 2, 3, 3, 4, 4)
    kernel_size: int = 16
    stride: int = 2
    groups_width: int = 16

    def __post_init__(self) -> None:
        if not self.filters or len(self.filters) != len(self.blocks):
            raise ValueError(f"{len(self.filters)} filters and {len(self.blocks)} blocks; each stage has one of both")
        others = (self.in_channels, self.base_filters, self.kernel_size, self.stride, self.groups_width)
        if not all(type(n) is int and n >= 1 for n in (*others, *self.filters, *self.blocks)):
            raise ValueError("every size is a whole number from 1")
        if any(n < self.groups_width or n % (n // self.groups_width) for n in self.filters):
            raise ValueError(f"filters: {self.filters} are not groups of {self.groups_width} or a little more")


def shapes(sizes: Sizes, columns: int) -> dict[str, Shape]:
    """Names and shapes of all tensors of a network with so many outputs, as its state dict has them."""
    found: dict[str, Shape] = {}

    def layer(name: str, *weight: int) -> None:
        found.update({f"{name}.weight": weight, f"{name}.bias": weight[:1]})

    def norm(name: str, channels: int) -> None:
        layer(name, channels)
        found.update({f"{name}.running_mean": (channels,), f"{name}.running_var": (channels,)})
        found[f"{name}.num_batches_tracked"] = ()

    layer("first_conv.conv", sizes.base_filters, sizes.in_channels, sizes.kernel_size)
    norm("first_bn", sizes.base_filters)
    before = sizes.base_filters
    for i, (width, blocks) in enumerate(zip(sizes.filters, sizes.blocks, strict=True)):
        for j in range(blocks):
            block = f"stage_list.{i}.block_list.{j}"
            norm(f"{block}.bn1", before)
            layer(f"{block}.conv1.conv", width, before, 1)
            norm(f"{block}.bn2", width)
            layer(f"{block}.conv2.conv", width, width // (width // sizes.groups_width), sizes.kernel_size)
            norm(f"{block}.bn3", width)
            layer(f"{block}.conv3.conv", width, width, 1)
            layer(f"{block}.se_fc1", width // 2, width)
            layer(f"{block}.se_fc2", width, width // 2)
            before = width
    layer("dense", columns, before)
    return found


def misfit(found: Mapping[str, Shape], wanted: Mapping[str, Shape]) -> str:
    """Every tensor that is missing, unexpected or of another shape; an empty string where they agree."""
    problems = {
        "missing": sorted(wanted.keys() - found.keys()),
        "unexpected": sorted(found.keys() - wanted.keys()),
        "of another shape": [f"{k} {found[k]} for {v}" for k, v in wanted.items() if k in found and found[k] != v],
    }
    return "; ".join(f"{len(names)} {what}: {', '.join(names)}" for what, names in problems.items() if names)
