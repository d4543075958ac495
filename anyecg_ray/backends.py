"""Run a bundle's network as fast as the machine can: OpenVINO on a CPU, CUDA on a GPU, else plain PyTorch.

How each library is run is in runners.py; here is which one, and in which precision. float32 is held to the golden
arrays; the default is the fastest that the processor multiplies natively (bfloat16: AMX, AVX-512 BF16, CUDA; int8:
AVX2 without AMX) and that moves this very model's probabilities by no more than rounding.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import lru_cache, partial
from typing import Literal

import numpy as np
from pydantic import Field

from anyecg_ray import cache, model
from anyecg_ray.config import InputError, JobError, Settings
from anyecg_ray.machine import cores, instructions, may_have_gpu
from anyecg_ray.model import Bundle
from anyecg_ray.net1d_sizes import Shape
from anyecg_ray.openvino_graph import LEARNT, TRACE, Made, openvino_core
from anyecg_ray.pulses import Drawn, pulses
from anyecg_ray.runners import Network, OnOpenVINO, on_cuda, on_torch, one_at_a_time

CLOSE, WRONG = 0.003, 0.05
"""Mean difference in probability from PyTorch's float32 up to which bfloat16 and int8 are taken (trained networks: a
tenth to a third of it; random weights of twelve leads: more), and from which a backend is wrong rather than rounded."""

CHECKED = Drawn(n=16, seed=0)
"""Windows on which the difference is measured."""

EARLY = 2
"""Stages that run in bfloat16 where it is asked for and the whole network does not bear it. With twelve-lead random
weights that is 0.012 off at most and 0.0010 on average instead of 0.045 and 0.0055 (docs/model.md)."""


class Compute(Settings):
    """How the model is run; every verb that runs one takes these settings."""

    backend: Literal["auto", "openvino", "torch"] = "auto"
    """auto: CUDA through torch where there is a GPU, else OpenVINO where it is installed, else torch."""

    precision: Literal["auto", "float32", "bfloat16", "int8"] = "auto"
    """auto: the fastest that the processor multiplies natively, of int8 (OpenVINO only), bfloat16 and float32. Where
    processor or model does not bear it, asked for or not, the next finer one is taken, and the run says so."""

    threads: int = Field(0, ge=0, le=1024)
    """Cores for one model. 0: all of this machine; in a back-fill up to 4 of a node's for each copy."""

    compiled: bool = False
    """On a GPU: through torch.compile, which takes a minute before the first window. On CPUs it gained nothing."""


Precision = Literal["float32", "bfloat16", "int8"]


@dataclass(frozen=True)
class Choice:
    """What `auto` came to on this machine."""

    backend: Literal["openvino", "torch"]
    device: Literal["cpu", "cuda"]
    precision: Precision
    threads: int
    note: str
    """Why it is not the fastest, where it is not."""
    compiled: bool = False
    """By torch.compile, on a GPU."""
    stages: int | None = None
    """With bfloat16: how many stages run in it, and the rest in float32; None: all."""
    together: bool = False
    """Several callers at a time are the rule, whose windows fill batches together."""

    def __str__(self) -> str:
        how = f"{self.backend} {self.device} {self.precision}" + (" compiled" if self.compiled else "")
        return how + (f" ({self.note})" if self.note else "")


def choose(compute: Compute) -> Choice:
    """Settle `auto` for this machine. Raises InputError where what is asked for is not to be had."""
    device: Literal["cpu", "cuda"] = "cuda" if compute.backend != "openvino" and _gpu() else "cpu"
    found = device == "cpu" and compute.backend != "torch" and openvino_core() is not None
    if compute.backend == "openvino" and not found:
        raise InputError("setting backend: openvino is not installed; pip install 'anyecg_ray[cpu]', or use torch")
    if compute.precision == "int8" and not found:
        raise InputError(
            "setting precision: int8 is computed by OpenVINO on a CPU; give --backend openvino too "
            "(pip install 'anyecg_ray[cpu]'), or another precision"
        )
    precision = _fastest(device, found) if compute.precision == "auto" else compute.precision
    notes = []
    if precision == "int8" and not _int8_is_native():
        precision = "bfloat16"
        notes.append("OpenVINO computes int8 wrongly with AMX" if _amx() else "this processor does not multiply int8")
    if found and precision == "bfloat16" and not _bfloat16_is_native():
        precision = "float32"  # which OpenVINO computes there, without a word
    if device == "cpu" and not found and compute.backend == "auto":
        notes.append(
            "OpenVINO is not installed (pip install 'anyecg_ray[cpu]'): PyTorch takes two to three times as long"
        )
    if compute.precision != "float32" and precision == "float32":
        notes.append("this processor does not multiply bfloat16: float32")
    if compute.compiled and device == "cpu":
        notes.append("nothing is compiled for a CPU")
    threads = compute.threads or cores()
    compiled = compute.compiled and device == "cuda"
    return Choice("openvino" if found else "torch", device, precision, threads, "; ".join(notes), compiled)


def _fastest(device: str, openvino: bool) -> Precision:
    """What is tried first."""
    if device == "cpu" and openvino and _int8_is_native():
        return "int8"
    return "bfloat16" if device == "cuda" or _bfloat16_is_native() else "float32"


def _gpu() -> bool:
    """Whether PyTorch finds one. It is asked only where there may be one: it takes two seconds to load."""
    if not may_have_gpu():
        return False
    import torch

    return torch.cuda.is_available()


def _amx() -> bool:
    return {"amx_tile", "amx_bf16"} <= instructions()


def _bfloat16_is_native() -> bool:
    return _amx() or "avx512_bf16" in instructions()


def _int8_is_native() -> bool:
    """With AMX OpenVINO (2026.4) computes convolutions of 16 channels and kernel 16 wrongly, off by their own size.

    It would be hardly faster there than bfloat16 (docs/benchmarks.md).
    """
    return "avx2" in instructions() and not _amx()


class Estimator:
    """A bundle made ready to predict on this machine: the one way from windows to estimates."""

    def __init__(
        self,
        bundle: Bundle,
        compute: Compute = Compute(),  # noqa: B008 (frozen settings)
        together: bool = False,
    ) -> None:
        """together: several threads at a time will call it."""
        self.card = bundle.card
        self.recipe = bundle.recipe
        self.choice = replace(choose(compute), together=together)
        network, apart = _measured(bundle, self.choice)
        while not apart <= CLOSE and (closer := _closer(self.choice, apart, compute)):
            self.choice = closer
            network, apart = _measured(bundle, closer)
        if not apart <= WRONG:  # not a number, too
            raise JobError(
                f"{self.choice.backend} in {self.choice.precision} computes this model wrongly on this machine "
                f"(probabilities are {apart:.2f} off); choose another --backend or --precision"
            )
        self._network = network()

    def logits(self, windows: np.ndarray) -> np.ndarray:
        """The network's output for each window: what is averaged over windows, and kept. Several threads may call it.

        windows: (n, leads, samples) float32, normalised by this bundle's recipe. Returns (n, columns) float32.
        """
        if not len(windows):
            return np.empty((0, self.card.columns), np.float32)
        return self._network(np.ascontiguousarray(windows, np.float32))

    def estimate(self, windows: np.ndarray) -> np.ndarray:
        """Calibrated estimates of each window, (n, columns) float32, as `model.decode` orders them."""
        return model.decode(self.card, self.logits(windows))


def _measured(bundle: Bundle, choice: Choice) -> tuple[Callable[[], Network], float]:
    """The network, made when it is first called for, and the mean difference in probability from PyTorch's float32.

    That is measured once for each model, machine and way to run it: a backend may be wrong on one processor and right
    on the next. OpenVINO 2026.4 was, in bfloat16, for 4 to 15 leads.
    """
    network = lru_cache(partial(_network, bundle, choice))
    how = asdict(replace(choice, note="", together=False))
    known_by = ["apart", CHECKED, LEARNT, TRACE, bundle.card.weights_sha256, _shape(bundle), how]
    return network, cache.number(known_by, lambda: _apart(bundle, network()))


def _apart(bundle: Bundle, network: Network) -> float:
    """Mean difference in probability, on windows that look like ECGs, others than int8 learns its ranges from."""
    import torch

    windows = pulses(CHECKED, *_shape(bundle))
    with torch.inference_mode():
        right = model.calibrated(bundle.network()(torch.from_numpy(windows)).numpy(), None)
    return float(np.mean(np.abs(model.calibrated(network(windows), None) - right)))


def _shape(bundle: Bundle) -> tuple[int, int]:
    """(leads, samples) of a window."""
    return len(bundle.recipe.leads), bundle.recipe.samples


def _closer(choice: Choice, apart: float, compute: Compute) -> Choice | None:
    """What to run where int8 or bfloat16 is too coarse or wrong; None where nothing is closer.

    Instead of int8 bfloat16, instead of bfloat16 float32; where bfloat16 was asked for, it is kept in the early stages.
    """
    if choice.precision == "float32" or choice.stages is not None:
        return None
    why = f"{choice.precision} throughout moves this model's probabilities by {apart:.4f} on average"
    why = "; ".join(filter(None, (choice.note, why)))
    if choice.precision == "int8":
        return replace(choice, precision="bfloat16" if _bfloat16_is_native() else "float32", note=why)
    if compute.precision != "bfloat16":
        return replace(choice, precision="float32", note=why)
    return replace(choice, stages=EARLY, note=f"in the first {EARLY} stages: {why}") if apart < WRONG else None


def _network(bundle: Bundle, choice: Choice) -> Network:
    shape = _shape(bundle)
    if choice.stages is None:
        return _runner(bundle.network, shape, choice, bundle.card.weights_sha256)
    import torch

    from anyecg_ray.stages import Stages

    net = bundle.network()
    early, late = Stages(net, 0, choice.stages), Stages(net, choice.stages, None)
    between = tuple(early(torch.zeros(1, *shape)).shape[1:])
    name = f"{bundle.card.weights_sha256} from stage"
    lower = _runner(lambda: early, shape, choice, f"{name} 0 to {choice.stages}")
    upper = _runner(lambda: late, between, replace(choice, precision="float32"), f"{name} {choice.stages}")
    return one_at_a_time(
        lambda windows: np.concatenate([upper(lower(windows[i : i + 64])) for i in range(0, len(windows), 64)])
    )


def _runner(made: Made, shape: Shape, choice: Choice, name: str) -> Network:
    integers = choice.precision == "int8"
    half = choice.precision == "bfloat16" or (integers and _bfloat16_is_native())
    if choice.backend == "openvino":
        return OnOpenVINO(made, shape, half, choice.threads, name, integers, choice.together)
    if choice.device == "cuda":
        return on_cuda(made(), half, choice.compiled)
    return on_torch(made(), half, choice.threads)
