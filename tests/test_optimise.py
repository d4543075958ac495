"""Who learns how fast, and how that changes."""

import pytest
import torch

from anyecg_ray.net1d import Net1D
from anyecg_ray.net1d_sizes import Sizes
from anyecg_ray.optimise import groups, schedule

NET = Net1D(Sizes(base_filters=16, filters=(16, 32, 32), blocks=(1, 1, 2)), 2)


def rates(**settings):
    given = {"lr": 1.0, "weight_decay": 0.1, "layer_decay": 1.0, "head_only": False} | settings
    net = Net1D(Sizes(base_filters=16, filters=(16, 32, 32), blocks=(1, 1, 2)), 2)
    by_parameter = {id(p): (g["lr"], g["weight_decay"]) for g in groups(net, **given) for p in g["params"]}
    return {name: by_parameter.get(id(p)) for name, p in net.named_parameters()}, net


def test_every_parameter_is_in_one_group():
    found, _ = rates()
    assert None not in found.values()


def test_each_stage_learns_slower_than_the_one_above():
    found, _ = rates(layer_decay=0.5)
    assert found["dense.weight"][0] == 1
    assert found["stage_list.2.block_list.1.conv2.conv.weight"][0] == 0.5
    assert found["stage_list.0.block_list.0.conv1.conv.weight"][0] == 0.125
    assert found["first_conv.conv.weight"][0] == 0.0625


def test_decay_is_for_weights_alone():
    found, _ = rates()
    assert found["dense.weight"][1] == 0.1
    assert found["dense.bias"][1] == 0
    assert found["first_bn.weight"][1] == 0
    assert found["stage_list.0.block_list.0.bn1.weight"][1] == 0


def test_a_probe_freezes_everything_below_the_head():
    found, net = rates(head_only=True)
    assert {n for n, p in net.named_parameters() if p.requires_grad} == {"dense.weight", "dense.bias"}
    assert {n for n, g in found.items() if g} == {"dense.weight", "dense.bias"}


def test_the_rate_rises_and_then_falls():
    optimiser = torch.optim.AdamW(NET.parameters(), lr=1.0)
    course = schedule(optimiser, 100, 0.1)
    seen = []
    for _ in range(100):
        seen.append(course.get_last_lr()[0])
        optimiser.step()
        course.step()
    assert max(seen) == pytest.approx(1.0)
    assert seen.index(max(seen)) in (9, 10)
    assert seen[0] == pytest.approx(0.1)
    assert 0.01 <= seen[-1] < 0.02
