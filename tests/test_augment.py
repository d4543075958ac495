"""Changes stay within what they say, and 0 changes nothing."""

import torch

from anyecg_ray.augment import Augment, augmented

X = torch.randn(8, 3, 1000)
NOTHING = Augment(shift=0, scale=0, noise=0, lead=0)


def changed(**settings):
    return augmented(X, NOTHING.model_copy(update=settings), 500, torch.Generator().manual_seed(0))


def test_nothing_changes_nothing():
    assert torch.equal(changed(), X)


def test_shift_moves_all_leads_alike_and_loses_nothing():
    out = changed(shift=0.5)
    assert not torch.equal(out, X)
    for before, after in zip(X, out, strict=True):
        (by,) = [k for k in range(-250, 251) if torch.equal(torch.roll(before, k, 1), after)]
        assert abs(by) <= 250


def test_scale_and_noise_stay_in_bounds():
    ratio = changed(scale=0.2) / X
    assert ((ratio > 0.8 - 1e-5) & (ratio < 1.2 + 1e-5)).all()
    assert 0.04 < (changed(noise=0.05) - X).std() < 0.06


def test_lead_projection_keeps_one_lead():
    kept = (changed(lead=1.0) != 0).any(dim=2).sum(dim=1)
    assert (kept == 1).all()
    assert augmented(X[:, :1], NOTHING.model_copy(update={"lead": 1.0}), 500, torch.Generator()).equal(X[:, :1])


def test_the_same_seed_gives_the_same_windows():
    settings = Augment(lead=0.5)
    a, b = (augmented(X, settings, 500, torch.Generator().manual_seed(7)) for _ in range(2))
    assert torch.equal(a, b)
