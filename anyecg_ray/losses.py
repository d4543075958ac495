"""Losses over many indicators at once, each masked where it was not measured.

Every loss takes logits (n, columns), labels (n, indicators) with NaN for missing, and gives the mean over all that
was measured, indicators weighing alike. A batch in which nothing was measured gives 0 with a gradient of 0.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

Kind = Literal["bce", "focal", "asymmetric", "positive-unlabelled"]

LOG_VARIANCE = (-10.0, 10.0)
"""Bounds within which a value's log variance counts: exp(10) standard deviations are no estimate any more."""


def multi_task(logits: Tensor, labels: Tensor, is_value: Sequence[bool], kind: Kind, weights: Tensor) -> Tensor:
    """The mean over indicators of each one's masked loss.

    is_value: by indicator, whether it takes two columns (mean, log variance). weights: (indicators,), of positives;
    for positive-unlabelled the prevalence that is assumed, in (0, 1).
    """
    told = ~torch.isnan(labels)
    labels = torch.nan_to_num(labels)
    losses, column = [], 0
    for i, value in enumerate(is_value):
        if value:
            each = gaussian(logits[:, column], logits[:, column + 1], labels[:, i])
            column += 2
        else:
            each = _binary(logits[:, column], labels[:, i], kind, weights[i], told[:, i])
            column += 1
        losses.append((each * told[:, i]).sum() / told[:, i].sum().clamp(min=1))
    measured = told.any(dim=0)
    return (torch.stack(losses) * measured).sum() / measured.sum().clamp(min=1)


def _binary(logit: Tensor, label: Tensor, kind: Kind, weight: Tensor, told: Tensor) -> Tensor:
    if kind == "focal":
        return focal(logit, label)
    if kind == "asymmetric":
        return asymmetric(logit, label)
    if kind == "positive-unlabelled":
        return positive_unlabelled(logit, label, weight, told)
    return functional.binary_cross_entropy_with_logits(logit, label, pos_weight=weight, reduction="none")


def focal(logit: Tensor, label: Tensor, gamma: float = 2.0) -> Tensor:
    """Cross-entropy, less for what is already sure (Lin et al., 2017). (n,) each; returns (n,)."""
    plain = functional.binary_cross_entropy_with_logits(logit, label, reduction="none")
    return (1 - torch.exp(-plain)) ** gamma * plain


def asymmetric(logit: Tensor, label: Tensor, gamma: float = 4.0, margin: float = 0.05) -> Tensor:
    """Focal on negatives alone, and none for those below a margin (Ridnik et al., 2021). (n,) each; returns (n,)."""
    p = torch.sigmoid(logit)
    spared = (p - margin).clamp(min=0)
    positive = -functional.logsigmoid(logit)
    negative = -torch.log1p(-spared.clamp(max=1 - 1e-6)) * spared**gamma
    return label * positive + (1 - label) * negative


def positive_unlabelled(logit: Tensor, label: Tensor, prevalence: Tensor, told: Tensor) -> Tensor:
    """Non-negative risk where a 0 means "not stated", as in diagnoses that a reader need not have written down.

    Kiryo et al., 2017, with all that was read as the unlabelled sample; ECGFounder trains on such labels. The risk
    is the batch's, given back evenly as (n,).
    """
    positive = label * told
    n_positive, n_told = positive.sum().clamp(min=1), told.sum().clamp(min=1)
    as_positive, as_negative = -functional.logsigmoid(logit), -functional.logsigmoid(-logit)
    of_positives = prevalence * (as_positive * positive).sum() / n_positive
    on_all, on_positives = (as_negative * told).sum() / n_told, (as_negative * positive).sum() / n_positive
    of_negatives = on_all - prevalence * on_positives
    risk = of_positives + of_negatives.clamp(min=0)
    return risk.expand_as(logit)


def gaussian(mean: Tensor, log_variance: Tensor, value: Tensor) -> Tensor:
    """Negative log likelihood of a value, without the constant. (n,) each; returns (n,)."""
    log_variance = log_variance.clamp(*LOG_VARIANCE)
    return 0.5 * (log_variance + (value - mean) ** 2 * torch.exp(-log_variance))
