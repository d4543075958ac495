"""Convolutions in integers: OpenVINO really multiplies them, and computes what the roundings say."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from anyecg_ray import backends
from anyecg_ray.int8 import in_int8
from anyecg_ray.net1d import SamePadConv
from anyecg_ray.openvino_graph import LEARNT, graph, openvino_core
from anyecg_ray.pulses import Drawn, pulses
from anyecg_ray.runners import OnOpenVINO
from anyecg_ray.weights import untrained

openvino = pytest.importorskip("openvino")
native = pytest.mark.skipif(not backends._int8_is_native(), reason="this processor does not multiply int8, or wrongly")

OTHERS = Drawn(n=8, seed=5)


@pytest.fixture(autouse=True)
def nothing_kept(monkeypatch, tmp_path):
    """No graph of an earlier version of the code."""
    monkeypatch.setenv("ANYECG_CACHE", str(tmp_path))


@pytest.fixture(params=["tiny", "small"])
def bundle(request):
    return untrained(request.param, ["potassium_high", "calcium_low"], ["II"], "ecgfounder-finetune", 3)


def rounded(bundle):
    return in_int8(bundle.network(), pulses(LEARNT, 1, 5000))


def run(net, x):
    with torch.inference_mode():
        return net(torch.from_numpy(x)).numpy()


@native
def test_every_convolution_but_the_first_multiplies_integers(bundle):
    made = graph(bundle.network, (1, 5000), bundle.card.weights_sha256, integers=True)
    made.reshape([8, 1, 5000])
    compiled = openvino_core().compile_model(made, "CPU", {"PERF_COUNT": True, "INFERENCE_PRECISION_HINT": "f32"})
    request = compiled.create_infer_request()
    request.infer({0: pulses(OTHERS, 1, 5000)})
    # the identity's padding is a convolution by one, channel by channel: it stays as it is
    ran = [
        p.exec_type for p in request.get_profiling_info() if "Convolution" in p.node_type and "_dw_" not in p.exec_type
    ]
    integers = [how for how in ran if how.endswith("I8")]
    blocks = sum(len(stage.block_list) for stage in bundle.network().stage_list)
    assert (len(integers), len(ran)) == (3 * blocks, 3 * blocks + 1)


@native
@pytest.mark.parametrize("height", [1, 20], ids=["as learnt", "far beyond"])
def test_openvino_computes_what_the_roundings_say(bundle, height):
    """Beyond what was learnt a value is held at the end of its range; it does not begin again at the other end."""
    x = pulses(OTHERS, 1, 5000) * np.float32(height)
    integers = OnOpenVINO(bundle.network, (1, 5000), False, 1, bundle.card.weights_sha256, integers=True)(x)
    right, exact = run(rounded(bundle), x), run(bundle.network(), x)
    assert np.abs(right - exact).max() > 1e-5  # rounded indeed
    spread = np.abs(exact - exact.mean(axis=0)).max()
    np.testing.assert_allclose(integers, right, atol=0.02 * spread)


def test_a_window_that_was_learnt_from_is_hardly_moved(bundle):
    x = pulses(LEARNT, 1, 5000)
    right = run(bundle.network(), x)
    assert np.abs(run(rounded(bundle), x) - right).mean() < 0.02 * right.std(axis=0).max()


def test_padding_adds_nothing(bundle):
    """Zero is one of the steps."""
    found = [m for m in rounded(bundle).modules() if hasattr(m, "zero")]
    assert found
    for conv in found:
        still = conv(torch.zeros(1, conv.conv.in_channels, 32))
        torch.testing.assert_close(still, conv.conv.bias[None, :, None].expand_as(still))


def test_the_first_convolution_stays_as_it_is(bundle):
    kept = [name for name, m in rounded(bundle).named_modules() if isinstance(m, SamePadConv)]
    assert kept == ["first_conv"]


def test_a_channel_without_weights_and_an_input_without_signal(bundle):
    net = bundle.network()
    for p in net.parameters():
        p.zero_()
    x = np.zeros((2, 1, 5000), np.float32)
    assert np.isfinite(run(in_int8(net, x), x)).all()


class Tall(nn.Module):
    """Every weight the largest there is: what is added up goes as high as it can."""

    def __init__(self):
        super().__init__()
        self.first_conv = SamePadConv(1, 64, 1, 1)
        self.dense, self.grouped = SamePadConv(64, 64, 1, 1), SamePadConv(64, 64, 16, 1, groups=4)
        for p in self.parameters():
            nn.init.constant_(p, float(p.dim() > 1))

    def forward(self, x):
        return self.grouped(functional.silu(self.dense(functional.silu(self.first_conv(x)))))


def test_two_products_fit_the_16_bits_in_which_some_processors_add_them(bundle):
    for conv in (m for m in rounded(bundle).modules() if hasattr(m, "steps")):
        steps = (conv.conv.weight / conv.steps[:, None, None]).abs().max().round().item()
        assert 2 * 255 * steps < 2**15


@native
def test_no_sum_is_cut_off():
    """Two products of 8 bits do not fit into the 16 in which a processor without VNNI adds them."""
    x = np.linspace(0, 10, 512, dtype=np.float32)[None, None].repeat(8, axis=0)
    right = run(in_int8(Tall(), pulses(LEARNT, 1, 512)), x)
    integers = OnOpenVINO(Tall, (1, 512), False, 1, "tall", integers=True)(x)
    np.testing.assert_allclose(integers, right, atol=0.01 * right.max())
