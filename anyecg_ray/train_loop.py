"""One worker's training, epoch by epoch, in plain PyTorch: it knows batches and tensors, neither Ray nor storage."""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from anyecg_ray import metrics
from anyecg_ray.augment import Augment, augmented
from anyecg_ray.config import Settings
from anyecg_ray.losses import Kind, multi_task


class Batch(NamedTuple):
    """Windows (n, leads, samples) float32 and labels (n, indicators) float32, NaN where not measured."""

    x: Tensor
    y: Tensor


class Learning(Settings):
    """How the network learns."""

    epochs: int = Field(20, ge=1)
    """At most; early stopping ends sooner."""

    patience: int = Field(5, ge=0)
    """Epochs without a better validation AUROC after which training stops."""

    batch: int = Field(64, ge=1)
    """Windows of one step of one worker."""

    accumulate: int = Field(1, ge=1)
    """Batches whose gradients make one step; what is left at the end of an epoch makes one too."""

    lr: float = Field(1e-3, gt=0)
    """Highest learning rate, of the head."""

    weight_decay: float = Field(0.01, ge=0)
    warmup: float = Field(0.05, ge=0, le=1)
    """Share of all steps over which the learning rate rises."""

    layer_decay: float = Field(1.0, gt=0, le=1)
    """Learning rate of each stage as a share of the one above; 0.75 suits fine-tuning."""

    clip: float = Field(1.0, gt=0)
    """Largest norm of a step's gradient."""

    loss: Kind = "bce"
    """bce, focal, asymmetric; positive-unlabelled for diagnoses of which a reader states some."""

    positive_weight: float = Field(1.0, gt=0)
    """bce: a positive weighs as many times as there are more negatives, at most so much; 1: as much as a negative."""

    prevalence: float = Field(0.1, gt=0, lt=1)
    """positive-unlabelled: the share of positives that is assumed of every indicator."""


@dataclass
class Epoch:
    """What one epoch came to."""

    number: int
    loss: float
    samples: int
    seconds: float
    aurocs: list[float] = field(default_factory=list)
    """By indicator on validation; of a value its correlation; NaN where it cannot be told."""

    @property
    def macro(self) -> float:
        """Mean over the indicators that can be told: what early stopping goes by."""
        told = [a for a in self.aurocs if np.isfinite(a)]
        return float(np.mean(told)) if told else float("nan")


class Trainer:
    """A network with its optimiser, on one device."""

    def __init__(
        self,
        net: nn.Module,
        optimiser: torch.optim.Optimizer,
        schedule: Any,
        learning: Learning,
        augment: Augment,
        is_value: Sequence[bool],
        weights: Tensor,
        fs: float,
        seed: int,
    ) -> None:
        self.net, self.optimiser, self.schedule = net, optimiser, schedule
        self.learning, self.augment, self.is_value, self.fs = learning, augment, is_value, fs
        self.device = next(net.parameters()).device
        self.weights = weights.to(self.device)
        self.generator = torch.Generator().manual_seed(seed)

    def epoch(
        self, number: int, batches: Iterable[Batch], show: Callable[[dict[str, float]], None] | None = None
    ) -> Epoch:
        """Go once through the batches. show: is told loss and samples per second now and then."""
        self.net.train()
        total, samples, steps, started, shown = 0.0, 0, 0, time.monotonic(), time.monotonic()
        for batch in batches:
            total, steps, samples = total + self._backward(batch), steps + 1, samples + len(batch.x)
            if steps % self.learning.accumulate == 0:
                self._step(self.learning.accumulate)
            if show and time.monotonic() - shown > 1:
                shown = time.monotonic()
                show({"loss": total / steps, "samples": samples, "samples_per_s": samples / (shown - started)})
        if left := steps % self.learning.accumulate:
            self._step(left)
        return Epoch(number, total / max(1, steps), samples, time.monotonic() - started)

    def _backward(self, batch: Batch) -> float:
        x = augmented(batch.x, self.augment, self.fs, self.generator).to(self.device)
        half = self.device.type == "cuda"
        with torch.autocast(self.device.type, torch.bfloat16, enabled=half):
            logits = self.net(x)
        y = batch.y.to(self.device)
        loss = multi_task(logits.float(), y, self.is_value, self.learning.loss, self.weights)
        loss.backward()
        return float(loss.detach())

    def _step(self, batches: int) -> None:
        """One step along the mean gradient of the last so many batches."""
        for parameter in self.net.parameters() if batches > 1 else ():
            if parameter.grad is not None:
                parameter.grad /= batches
        nn.utils.clip_grad_norm_(self.net.parameters(), self.learning.clip)
        self.optimiser.step()
        self.schedule.step()
        self.optimiser.zero_grad(set_to_none=True)

    @torch.inference_mode()
    def logits(self, batches: Iterable[Batch]) -> tuple[np.ndarray, np.ndarray]:
        """Outputs (n, columns) and labels (n, indicators) of batches, in float32 and without augmentation."""
        self.net.eval()
        out, y = [], []
        for batch in batches:
            out.append(self.net(batch.x.to(self.device)).float().cpu().numpy())
            y.append(batch.y.numpy())
        columns = sum(2 if v else 1 for v in self.is_value)
        if not out:
            return np.empty((0, columns), np.float32), np.empty((0, len(self.is_value)), np.float32)
        return np.concatenate(out), np.concatenate(y)


def validation(logits: np.ndarray, labels: np.ndarray, is_value: Sequence[bool]) -> list[float]:
    """AUROC of each indicator, the correlation of a value; NaN where a class is missing."""
    found, column = [], 0
    for i, value in enumerate(is_value):
        told = ~np.isnan(labels[:, i])
        score, y = logits[told, column], labels[told, i]
        found.append(metrics.errors(score, y).pearson if value else metrics.auroc(score, y > 0))
        column += 2 if value else 1
    return found
