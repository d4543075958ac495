"""What was not measured weighs nothing, and each loss is what its paper says where that can be written down."""

import numpy as np
import pytest
import torch
from torch.nn import functional

from anyecg_ray.losses import asymmetric, focal, gaussian, multi_task, positive_unlabelled

NAN = float("nan")


def total(logits, labels, kind="bce", is_value=(False, False), weights=(1.0, 1.0)):
    return multi_task(torch.tensor(logits), torch.tensor(labels), is_value, kind, torch.tensor(weights))


@pytest.mark.parametrize("kind", ["bce", "focal", "asymmetric", "positive-unlabelled"])
def test_what_is_missing_has_no_gradient(kind):
    logits = torch.randn(6, 2, requires_grad=True)
    labels = torch.tensor([[1.0, NAN]] * 3 + [[0.0, NAN]] * 3)
    multi_task(logits, labels, (False, False), kind, torch.tensor([0.3, 0.3])).backward()
    assert (logits.grad[:, 1] == 0).all()
    assert (logits.grad[:, 0] != 0).any()


def test_indicators_weigh_alike_however_often_they_were_measured():
    plain = functional.binary_cross_entropy_with_logits
    logits, labels = [[0.3, -1.0], [2.0, 0.5]], [[1.0, NAN], [0.0, 1.0]]
    first = plain(torch.tensor([0.3, 2.0]), torch.tensor([1.0, 0.0]))
    second = plain(torch.tensor([0.5]), torch.tensor([1.0]))
    torch.testing.assert_close(total(logits, labels), (first + second) / 2)


def test_a_batch_without_labels_is_no_loss():
    logits = torch.zeros(2, 2, requires_grad=True)
    loss = multi_task(logits, torch.full((2, 2), NAN), (False, False), "bce", torch.ones(2))
    loss.backward()
    assert loss.item() == 0
    assert (logits.grad == 0).all()


def test_positives_weigh_what_they_are_told_to():
    once, thrice = total([[0.4, 0.0]], [[1.0, NAN]]), total([[0.4, 0.0]], [[1.0, NAN]], weights=(3.0, 1.0))
    torch.testing.assert_close(thrice, 3 * once)


def test_focal_and_asymmetric_spare_what_is_sure():
    sure, unsure, zero = torch.tensor([-6.0]), torch.tensor([0.0]), torch.tensor([0.0])
    for loss in (focal, asymmetric):
        assert loss(sure, zero) < 1e-4 < loss(unsure, zero)
    torch.testing.assert_close(focal(unsure, zero), torch.tensor([0.25 * np.log(2)], dtype=torch.float32))
    torch.testing.assert_close(asymmetric(unsure, torch.ones(1)), torch.tensor([np.log(2)], dtype=torch.float32))


def test_positive_unlabelled_finds_the_positives_that_nobody_stated():
    torch.manual_seed(0)
    hidden = torch.rand(4000) < 0.3
    x = torch.randn(4000) + torch.where(hidden, 2.0, -2.0)
    stated = (hidden & (torch.rand(4000) < 0.4)).float()[:, None]

    def mean_probability(kind):
        w = torch.zeros(2, requires_grad=True)
        optimiser = torch.optim.Adam([w], lr=0.1)
        for _ in range(300):
            optimiser.zero_grad()
            logits = (w[0] * x + w[1])[:, None]
            multi_task(logits, stated, (False,), kind, torch.tensor([0.3 if "unlabelled" in kind else 1.0])).backward()
            optimiser.step()
        return torch.sigmoid(w[0] * x + w[1]).mean().item()

    assert mean_probability("bce") == pytest.approx(0.12, abs=0.02)  # what was stated
    assert mean_probability("positive-unlabelled") == pytest.approx(0.3, abs=0.04)  # what is


def test_positive_unlabelled_is_never_negative():
    stated = torch.tensor([1.0, 0, 0, 0])
    assert positive_unlabelled(torch.full((4,), -9.0), stated, torch.tensor(0.9), torch.ones(4))[0] >= 0


def test_gaussian_is_the_likelihood_and_its_variance_is_bounded():
    value, mean, deviation = torch.tensor([1.0]), torch.tensor([0.2]), 1.7
    expected = -torch.distributions.Normal(mean, deviation).log_prob(value) - 0.5 * np.log(2 * np.pi)
    torch.testing.assert_close(gaussian(mean, torch.tensor([2 * np.log(deviation)]).float(), value), expected)
    assert torch.isfinite(gaussian(mean, torch.tensor([-1e9]), value)).all()


def test_a_value_takes_two_columns():
    loss = total([[0.0, 0.5, 0.0]], [[NAN, 0.5]], is_value=(False, True))
    torch.testing.assert_close(loss, torch.tensor(0.0))
