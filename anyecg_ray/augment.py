"""Make a training window a little different each time it is seen, in ways that leave its labels true."""

import torch
from pydantic import Field
from torch import Tensor

from anyecg_ray.config import Settings


class Augment(Settings):
    """What happens to a training window; 0 leaves a step out."""

    shift: float = Field(1.0, ge=0)
    """Seconds by which the window is moved at most, going on where it began."""

    scale: float = Field(0.2, ge=0, le=1)
    """Share by which its amplitude changes at most."""

    noise: float = Field(0.05, ge=0)
    """Standard deviation of white noise, as a share of the window's."""

    lead: float = Field(0.0, ge=0, le=1)
    """Probability that all leads but one are blanked, for a model that is to read any single lead."""


def augmented(x: Tensor, settings: Augment, fs: float, generator: torch.Generator) -> Tensor:
    """A changed copy of windows, (n, leads, samples)."""
    n, leads, samples = x.shape

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(shape, generator=generator)

    if settings.shift:
        by = torch.round(uniform(-settings.shift, settings.shift, n) * fs).long()
        places = (torch.arange(samples)[None] - by[:, None]) % samples
        x = x.gather(2, places[:, None].expand(n, leads, samples).to(x.device))
    if settings.scale:
        x = x * uniform(1 - settings.scale, 1 + settings.scale, n, 1, 1).to(x.device)
    if settings.noise:
        x = x + settings.noise * torch.randn(x.shape, generator=generator).to(x.device)
    if settings.lead and leads > 1:
        alone = torch.nn.functional.one_hot(torch.randint(leads, (n,), generator=generator), leads)
        kept = torch.where(uniform(0, 1, n, 1) < settings.lead, alone, torch.ones_like(alone))
        x = x * kept[:, :, None].to(x.device, x.dtype)
    return x
