"""Every backend gives the network's own numbers, whatever the batch, and one that does not is not believed."""

import os
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch

from anyecg_ray import backends, openvino_trace, runners
from anyecg_ray.backends import Compute, Estimator, choose
from anyecg_ray.config import InputError, JobError
from anyecg_ray.machine import cores, may_have_gpu
from anyecg_ray.weights import untrained

openvino = pytest.importorskip("openvino")


@pytest.fixture(scope="module", params=[1, 2, 5, 12])
def bundle(request):
    leads = ["I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6"][: request.param]
    return untrained("tiny", ["potassium_high", "calcium_value"], leads, "ecgfounder-finetune", 0)


def windows(bundle, n):
    return np.random.default_rng(1).standard_normal((n, len(bundle.recipe.leads), 5000), np.float32)


def expected(bundle, x):
    with torch.inference_mode():
        return bundle.network()(torch.from_numpy(x)).numpy()


@pytest.mark.parametrize(
    ("backend", "precision", "within"),
    [
        ("torch", "float32", 1e-5), ("torch", "bfloat16", 0.05),
        ("openvino", "float32", 1e-5), ("openvino", "bfloat16", 0.05), ("openvino", "int8", 0.05),
    ],
)  # fmt: skip
def test_logits_are_the_networks(bundle, backend, precision, within):
    native = {"float32": True, "bfloat16": backends._bfloat16_is_native(), "int8": backends._int8_is_native()}
    if not native[precision]:
        pytest.skip(f"this processor does not multiply {precision}")
    x = windows(bundle, 21)
    estimator = Estimator(bundle, Compute(backend=backend, precision=precision))
    assert (estimator.choice.backend, estimator.choice.precision) == (backend, precision)
    right = expected(bundle, x)
    np.testing.assert_allclose(estimator.logits(x), right, atol=within * np.abs(right).max())


@pytest.mark.parametrize("n", [0, 1, 7, 8, 15, 16, 17, 40])
def test_every_size_of_batch(n):
    bundle = untrained("tiny", ["potassium_high"], ["II"], "ecgfounder-finetune", 0)
    x = windows(bundle, n)
    got = Estimator(bundle, Compute(precision="float32", threads=2)).logits(x)
    assert got.shape == (n, 1)
    if n:
        np.testing.assert_allclose(got, expected(bundle, x), atol=1e-5)


def test_estimates_are_decoded_logits():
    bundle = untrained("tiny", ["potassium_high"], ["II"], "ecgfounder-finetune", 0)
    estimator, x = Estimator(bundle), windows(bundle, 3)
    np.testing.assert_allclose(estimator.estimate(x), 1 / (1 + np.exp(-estimator.logits(x))), atol=1e-6)


def wrong_in(by, *precisions):
    """_network that adds `by` to the logits in some precisions: a backend with a fault."""
    right = backends._network

    def made(bundle, choice):
        run = right(bundle, choice)
        return (lambda x: run(x) + by) if choice.precision in precisions else run

    return made


@pytest.fixture
def everything_native(monkeypatch, tmp_path):
    """A processor that multiplies everything and has no AMX, on which nothing was measured yet."""
    monkeypatch.setenv("ANYECG_CACHE", str(tmp_path))
    for native in ("_bfloat16_is_native", "_int8_is_native"):
        monkeypatch.setattr(backends, native, lambda: True)
    monkeypatch.setattr(backends, "_amx", lambda: False)


COARSE, WRONG = 0.05, 1.0


@pytest.mark.parametrize(
    ("asked", "coarse", "taken", "left", "by"),
    [
        ("auto", ["bfloat16"], "int8", [], COARSE), ("auto", ["int8"], "bfloat16", ["int8"], COARSE),
        ("auto", ["int8", "bfloat16"], "float32", ["int8", "bfloat16"], WRONG),
        ("auto", ["int8", "bfloat16"], "float32", ["int8", "bfloat16"], float("nan")),
        ("int8", ["int8", "bfloat16"], "float32", ["int8", "bfloat16"], COARSE),
    ],
)  # fmt: skip
def test_what_the_model_does_not_bear_is_left(monkeypatch, everything_native, by, asked, coarse, taken, left):
    bundle = untrained("tiny", ["potassium_high"], ["II"], "ecgfounder-finetune", 0)
    monkeypatch.setattr(backends, "_network", wrong_in(by, *coarse))
    choice = Estimator(bundle, Compute(precision=asked)).choice
    assert choice.precision == taken
    assert [p for p in ("int8", "bfloat16") if f"{p} throughout moves" in choice.note] == left


def test_what_was_found_too_coarse_is_not_even_loaded_again(monkeypatch, everything_native):
    monkeypatch.setattr(backends, "_network", wrong_in(0.05, "int8", "bfloat16"))
    bundle = untrained("tiny", ["potassium_high"], ["II"], "ecgfounder-finetune", 0)
    Estimator(bundle, Compute())
    made, make = [], backends._network
    monkeypatch.setattr(backends, "_network", lambda b, choice: made.append(choice.precision) or make(b, choice))
    assert Estimator(bundle, Compute()).choice.precision == "float32"
    assert made == ["float32"]


def test_int8_is_left_for_float32_where_bfloat16_is_not_native(monkeypatch, everything_native):
    monkeypatch.setattr(backends, "_bfloat16_is_native", lambda: False)
    monkeypatch.setattr(backends, "_network", wrong_in(0.05, "int8"))
    bundle = untrained("tiny", ["potassium_high"], ["II"], "ecgfounder-finetune", 0)
    assert Estimator(bundle, Compute()).choice.precision == "float32"


@pytest.mark.parametrize("by", [1.0, float("nan")])
def test_bfloat16_that_was_asked_for_and_is_wrong_is_refused(monkeypatch, everything_native, by):
    monkeypatch.setattr(backends, "_network", wrong_in(by, "bfloat16"))
    bundle = untrained("tiny", ["potassium_high"], ["II"], "ecgfounder-finetune", 0)
    with pytest.raises(JobError, match=r"in bfloat16 computes this model wrongly"):
        Estimator(bundle, Compute(precision="bfloat16"))


@pytest.mark.parametrize(
    ("int8", "bfloat16", "amx", "fastest"),
    [
        (True, True, False, "int8"), (True, False, False, "int8"), (False, True, True, "bfloat16"),
        (False, True, False, "bfloat16"), (False, False, False, "float32"),
    ],
)  # fmt: skip
def test_the_fastest_that_the_processor_multiplies(monkeypatch, int8, bfloat16, amx, fastest):
    monkeypatch.setattr(backends, "_int8_is_native", lambda: int8)
    monkeypatch.setattr(backends, "_bfloat16_is_native", lambda: bfloat16)
    monkeypatch.setattr(backends, "_amx", lambda: amx)
    assert choose(Compute()).precision == fastest
    assert ("does not multiply" in choose(Compute()).note) == (fastest == "float32")
    assert choose(Compute(backend="torch")).precision == ("bfloat16" if bfloat16 else "float32")
    # OpenVINO would compute it in float32 and not say so
    asked = choose(Compute(backend="openvino", precision="int8"))
    why = "wrongly with AMX" if amx else "does not multiply int8"
    assert (asked.precision, why in asked.note) == (("int8", False) if int8 else (fastest, True))
    asked = choose(Compute(backend="openvino", precision="bfloat16"))
    assert (asked.precision, "does not multiply" in asked.note) == (
        ("bfloat16", False) if bfloat16 else ("float32", True)
    )


def test_what_the_processor_multiplies_is_what_pytorch_says():
    own = backends._int8_is_native(), backends._bfloat16_is_native(), backends._amx()
    amx = own[2]  # PyTorch asks for its tiles alone
    assert torch.cpu._is_amx_tile_supported() or not amx
    assert own == (torch.cpu._is_avx2_supported() and not amx, amx or torch.cpu._is_avx512_bf16_supported(), amx)


@pytest.mark.parametrize(
    ("shown", "may"),
    [
        ("dev/null", False), ("dev/nvme0", False), ("dev/nvidiactl", True), ("dev/nvidia0", True), ("dev/kfd", True),
        ("proc/driver/nvidia/version", True), ("dev/dxg", True),
    ],
)  # fmt: skip
def test_where_there_may_be_a_gpu(tmp_path, shown, may):
    (tmp_path / shown).parent.mkdir(parents=True)
    (tmp_path / shown).touch()
    assert may_have_gpu(str(tmp_path)) is may


@pytest.mark.parametrize("backend", ["torch", "openvino"])
def test_bfloat16_in_the_early_stages_alone(monkeypatch, backend):
    if not backends._bfloat16_is_native():
        pytest.skip("this processor does not multiply bfloat16")
    bundle = untrained("tiny", ["potassium_high"], [*["I", "II", "V1", "V2", "V3", "V4"]], "ecgfounder-finetune", 0)
    monkeypatch.setattr(backends, "CLOSE", 0.0)
    estimator = Estimator(bundle, Compute(precision="bfloat16", backend=backend))
    assert estimator.choice.stages == backends.EARLY
    x = windows(bundle, 70)
    right = expected(bundle, x)
    np.testing.assert_allclose(estimator.logits(x), right, atol=0.05 * np.abs(right).max())


@pytest.mark.parametrize("by", [1.0, float("nan")])
def test_a_backend_that_is_wrong_is_refused(monkeypatch, tmp_path, by):
    monkeypatch.setenv("ANYECG_CACHE", str(tmp_path))
    bundle = untrained("tiny", ["potassium_high"], ["II"], "ecgfounder-finetune", 0)
    monkeypatch.setattr(backends, "_network", wrong_in(by, "float32"))
    with pytest.raises(JobError, match=r"wrongly on this machine .*--backend"):
        Estimator(bundle, Compute(precision="float32"))


def test_without_openvino(monkeypatch):
    monkeypatch.setattr(backends, "openvino_core", lambda: None)
    assert choose(Compute()).backend == "torch"
    assert "pip install" in choose(Compute()).note
    with pytest.raises(InputError, match="not installed"):
        choose(Compute(backend="openvino"))
    with pytest.raises(InputError, match="int8 is computed by OpenVINO"):
        choose(Compute(precision="int8"))


@pytest.mark.skipif(cores() == 1, reason="there is one core")
def test_no_thread_is_bound_to_a_core_that_another_copy_may_want():
    """OpenVINO pins threads to the machine's first cores: two copies of one thread each took half of what they can."""
    bundle = untrained("tiny", ["potassium_high"], ["II"], "ecgfounder-finetune", 7)
    estimator, x, bound = Estimator(bundle, Compute(backend="openvino", threads=1)), windows(bundle, 800), 0
    estimator.logits(x[:8])  # compiled
    busy = threading.Thread(target=estimator.logits, args=(x,))
    busy.start()
    while busy.is_alive():
        tasks = [int(task.name) for task in Path("/proc/self/task").iterdir()]
        with suppress(ProcessLookupError):  # ended meanwhile
            bound += sum(len(os.sched_getaffinity(task)) < cores() for task in tasks)
    assert bound == 0


def test_the_graph_is_kept_and_a_cache_that_cannot_be_written_does_no_harm(monkeypatch, tmp_path):
    bundle = untrained("tiny", ["potassium_high"], ["II"], "ecgfounder-finetune", 7)
    monkeypatch.setenv("ANYECG_CACHE", str(tmp_path))
    way = Compute(backend="openvino", precision="float32")
    first = Estimator(bundle, way)
    (kept,) = tmp_path.glob("*.xml")
    monkeypatch.setattr(openvino_trace, "traced", lambda *_: pytest.fail("traced again"))
    x = windows(bundle, 3)
    np.testing.assert_array_equal(Estimator(bundle, way).logits(x), first.logits(x))
    monkeypatch.undo()
    monkeypatch.setenv("ANYECG_CACHE", "/proc/nowhere")
    assert Estimator(bundle, way).logits(x).shape == (3, 1)
    assert kept.exists()


@pytest.mark.parametrize("compiled", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_the_lines_for_a_gpu_on_this_processor(compiled):
    bundle = untrained("tiny", ["potassium_high", "calcium_value"], ["II"], "ecgfounder-finetune", 0)
    x = windows(bundle, runners.CUDA_BATCH + 3)
    run = runners.on_cuda(bundle.network(), half=False, compiled=compiled, device="cpu")
    np.testing.assert_allclose(run(x), expected(bundle, x), atol=1e-5)


def test_a_gpu_is_chosen_where_there_is_one(monkeypatch):
    monkeypatch.setattr(backends, "may_have_gpu", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    choice = choose(Compute(compiled=True))
    assert (choice.backend, choice.device, choice.precision, choice.compiled) == ("torch", "cuda", "bfloat16", True)
    assert choose(Compute(backend="openvino")).device == "cpu"


def test_what_a_model_was_found_to_be_off_is_measured_once_on_a_machine(monkeypatch, tmp_path):
    bundle = untrained("tiny", ["potassium_high"], ["II"], "ecgfounder-finetune", 8)
    monkeypatch.setenv("ANYECG_CACHE", str(tmp_path))
    measured, whole = [], backends._apart
    monkeypatch.setattr(backends, "_apart", lambda *a: measured.append(a) or whole(*a))
    for _ in range(2):
        Estimator(bundle, Compute(precision="float32"))
    assert len(measured) == 1
    Estimator(bundle, Compute(precision="float32", backend="torch"))
    Estimator(untrained("tiny", ["potassium_high"], ["II"], "ecgfounder-finetune", 9), Compute(precision="float32"))
    assert len(measured) == 3
    monkeypatch.setattr(backends.cache, "_machine", lambda: ("another processor",))
    Estimator(bundle, Compute(precision="float32"))
    assert len(measured) == 4
    monkeypatch.setenv("ANYECG_CACHE", "/proc/nowhere")
    assert Estimator(bundle, Compute(precision="float32")).logits(windows(bundle, 1)).shape == (1, 1)


TWO_CALLERS = """
import sys
from concurrent.futures import ThreadPoolExecutor
import numpy as np
from anyecg_ray.backends import Compute, Estimator
from anyecg_ray.weights import untrained

bundle = untrained("tiny", ["potassium_high"], ["II"], "ecgfounder-finetune", 0)
estimator = Estimator(bundle, Compute(backend=sys.argv[1], threads=2), together=True)
x = np.random.default_rng(0).standard_normal((58, 1, 5000)).astype(np.float32)
calls = [x[:37], x[37:], x[:1], x[5:25]]
with ThreadPoolExecutor(2) as callers:
    beside = list(callers.map(estimator.logits, calls))
alone = estimator.logits(x)
for got, right in zip(beside, [alone[:37], alone[37:], alone[:1], alone[5:25]], strict=True):
    np.testing.assert_allclose(got, right, rtol=0, atol=float(sys.argv[2]) * np.abs(alone).max())
"""


@pytest.mark.parametrize(("backend", "within"), [("openvino", 0.0), ("torch", 0.02)])
def test_callers_beside_each_other_get_what_each_gets_alone(backend, within, tmp_path):
    """From their first windows on, which is where OpenVINO's Python can stand still: so in a process of its own.

    In OpenVINO an output depends on its window alone, not on what else is in the batch, nor where.
    """
    line = [sys.executable, "-c", TWO_CALLERS, backend, str(within)]
    subprocess.run(line, check=True, timeout=120, env={**os.environ, "ANYECG_CACHE": str(tmp_path)})
