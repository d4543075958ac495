"""The network must be ECGFounder's, tensor by tensor and number by number."""

import json

import numpy as np
import pytest
import torch
from golden_rule import rule_state

from anyecg_ray.net1d import Net1D
from anyecg_ray.net1d_sizes import Sizes, shapes


@pytest.mark.parametrize("leads", [1, 12])
def test_state_dict_has_the_published_names_and_shapes(golden, leads):
    published = json.loads((golden / f"state_dict_{leads}_lead.json").read_text())
    ours = {k: list(v.shape) for k, v in Net1D(Sizes(in_channels=leads), 150).state_dict().items()}
    assert ours == published


@pytest.mark.parametrize(
    "sizes",
    [Sizes(), Sizes(in_channels=12), Sizes(base_filters=5, filters=(40, 17), blocks=(2, 1), kernel_size=3, stride=1)],
)
def test_the_tensors_are_known_without_a_network(sizes):
    assert shapes(sizes, 7) == {k: tuple(v.shape) for k, v in Net1D(sizes, 7).state_dict().items()}


@pytest.mark.parametrize(
    "wrong",
    [
        {"filters": ()}, {"blocks": (1,)}, {"filters": (8,) * 7}, {"filters": (50,) * 7}, {"groups_width": 0},
        {"stride": 0}, {"in_channels": 0}, {"kernel_size": 16.0},
    ],
)  # fmt: skip
def test_sizes_that_no_network_has(wrong):
    with pytest.raises(ValueError, match=r"each stage has one of both|every size is a whole|are not groups of"):
        Sizes(**wrong)


@pytest.mark.parametrize("leads", [1, 12])
def test_logits_and_features_equal_the_golden_arrays(golden, leads):
    arrays = np.load(golden / "net1d.npz")
    net = Net1D(Sizes(in_channels=leads), 150)
    net.load_state_dict(rule_state(leads), strict=True)
    x = torch.from_numpy(arrays[f"x_{leads}"])
    with torch.inference_mode():
        for ours, name in ((net.features(x), "features"), (net(x), "logits")):
            expected = arrays[f"{name}_{leads}"]
            assert np.abs(ours.numpy() - expected).max() <= 1e-4 * np.abs(expected).max()


@pytest.mark.parametrize("samples", [1, 15, 16, 255, 1250, 5001])
def test_any_length_gives_one_row_of_logits(samples):
    net = Net1D(Sizes(base_filters=16, filters=(16, 32), blocks=(1, 2)), 3)
    assert net(torch.zeros(2, 1, samples)).shape == (2, 3)
