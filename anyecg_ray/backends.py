"""Run a bundle's network as fast as the machine can: OpenVINO on a CPU, CUDA on a GPU, else plain PyTorch.

Every backend is a callable from normalised windows, (n, leads, samples) float32, to logits, (n, columns)
float32. float32 is held to the golden arrays; bfloat16 is the default where the processor multiplies it
natively (AMX, CUDA), because it is about three times as fast and moves a probability by 0.002 on average.
"""

import logging
import os
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch
from torch import nn

from anyecg_ray import __version__, model
from anyecg_ray.config import InputError, JobError, Settings, fingerprint
from anyecg_ray.model import Bundle
from anyecg_ray.net1d import Net1D, SamePadConv, same_padding

log = logging.getLogger(__name__)

Network = Callable[[np.ndarray], np.ndarray]

CPU_BATCH = 8
"""Windows that one core works on at a time: at 8 the activations of the early stages still fit its cache."""

CUDA_BATCH = 512

CLOSE, WRONG = 0.003, 0.05
"""Mean difference in probability from PyTorch's float32 up to which `auto` takes bfloat16 (ten times less is usual,
random weights of twenty layers come near it), and from which a backend is wrong rather than rounded."""


class Compute(Settings):
    """How the model is run; every verb that runs one takes these settings."""

    backend: Literal["auto", "openvino", "torch"] = "auto"
    """auto: CUDA through torch where there is a GPU, else OpenVINO where it is installed, else torch."""

    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """auto: bfloat16 where the processor multiplies it natively and the model bears it, else float32."""

    threads: int = 0
    """Cores for one model. 0: all of this machine."""


@dataclass(frozen=True)
class Choice:
    """What `auto` came to on this machine."""

    backend: Literal["openvino", "torch"]
    device: Literal["cpu", "cuda"]
    precision: Literal["float32", "bfloat16"]
    threads: int
    note: str
    """Why it is not the fastest, where it is not."""

    def __str__(self) -> str:
        return f"{self.backend} {self.device} {self.precision}" + (f" ({self.note})" if self.note else "")


def choose(compute: Compute) -> Choice:
    """Settle `auto` for this machine. Raises InputError where what is asked for is not to be had."""
    device: Literal["cpu", "cuda"] = "cuda" if torch.cuda.is_available() and compute.backend != "openvino" else "cpu"
    found = device == "cpu" and compute.backend != "torch" and _openvino_core() is not None
    if compute.backend == "openvino" and not found:
        raise InputError("compute.backend openvino is not installed; pip install 'anyecg_ray[cpu]', or use torch")
    native = device == "cuda" or _bfloat16_is_native()
    precision: Literal["float32", "bfloat16"]
    precision = ("bfloat16" if native else "float32") if compute.precision == "auto" else compute.precision
    notes = []
    if device == "cpu" and not found and compute.backend == "auto":
        notes.append("OpenVINO is not installed (pip install 'anyecg_ray[cpu]'): PyTorch is about half as fast")
    if compute.precision == "auto" and not native:
        notes.append("this processor has no AMX: float32")
    return Choice("openvino" if found else "torch", device, precision, compute.threads or cores(), "; ".join(notes))


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _bfloat16_is_native() -> bool:
    return bool(torch.cpu._is_amx_tile_supported())


@lru_cache
def _openvino_core() -> Any:
    try:
        import openvino
    except ImportError:
        return None
    return openvino.Core()


class Estimator:
    """A bundle made ready to predict on this machine: the one way from windows to estimates."""

    def __init__(self, bundle: Bundle, compute: Compute = Compute()) -> None:  # noqa: B008 (frozen settings)
        self.card = bundle.card
        self.recipe = bundle.recipe
        self.choice = choose(compute)
        self._network = _network(bundle, self.choice)
        apart = _apart(bundle, self._network)
        if apart > CLOSE and self.choice.precision == "bfloat16" and compute.precision == "auto":
            note = f"bfloat16 moves this model's probabilities by {apart:.4f} on average: float32"
            self.choice = replace(self.choice, precision="float32", note=note)
            self._network = _network(bundle, self.choice)
            apart = _apart(bundle, self._network)
        if apart > WRONG:
            raise JobError(
                f"{self.choice.backend} in {self.choice.precision} computes this model wrongly on this machine "
                f"(probabilities are {apart:.2f} off); choose another --backend or --precision"
            )

    def logits(self, windows: np.ndarray) -> np.ndarray:
        """The network's output for each window: what is averaged over windows, and kept.

        windows: (n, leads, samples) float32, normalised by this bundle's recipe. Returns (n, columns) float32.
        """
        if not len(windows):
            return np.empty((0, self.card.columns), np.float32)
        return self._network(np.ascontiguousarray(windows, np.float32))

    def estimate(self, windows: np.ndarray) -> np.ndarray:
        """Calibrated estimates of each window, (n, columns) float32, as `model.decode` orders them."""
        return model.decode(self.card, self.logits(windows))


def _apart(bundle: Bundle, network: Network) -> float:
    """Mean difference in probability from PyTorch's float32 on windows that look like ECGs.

    A backend may be wrong on one processor and right on the next: OpenVINO 2026.4 was, in bfloat16, for 4 to 15 leads.
    """
    windows = _pulses(CHECKED, len(bundle.recipe.leads), bundle.recipe.samples)
    with torch.inference_mode():
        right = model.calibrated(bundle.network()(torch.from_numpy(windows)).numpy(), None)
    return float(np.mean(np.abs(model.calibrated(network(windows), None) - right)))


CHECKED = 16


def _pulses(n: int, leads: int, samples: int) -> np.ndarray:
    """Normalised windows of bell-shaped waves at a heart's rhythm and random heights, (n, leads, samples) float32."""
    rng = np.random.default_rng(0)
    phase = np.linspace(0, 10, samples, endpoint=False) * rng.uniform(0.8, 2, (n, 1)) % 1
    x = rng.normal(0, 0.02, (n, leads, samples))
    for height, at, width in ((0.12, 0.18, 0.025), (-0.1, 0.285, 0.01), (1, 0.31, 0.011), (0.3, 0.55, 0.04)):
        x += height * rng.normal(1, 0.5, (n, leads, 1)) * np.exp(-(((phase - at) / width) ** 2) / 2)[:, None]
    x -= x.mean(axis=(1, 2), keepdims=True)
    out: np.ndarray = x / x.std(axis=(1, 2), keepdims=True)
    return out.astype(np.float32)


def _network(bundle: Bundle, choice: Choice) -> Network:
    if choice.backend == "openvino":
        return _OpenVINO(bundle, choice)
    return _on_cuda(bundle, choice) if choice.device == "cuda" else _on_torch(bundle, choice)


def _on_torch(bundle: Bundle, choice: Choice) -> Network:
    torch.set_num_threads(choice.threads)
    net = bundle.network()
    half = choice.precision == "bfloat16"

    # windows from the object store are read-only, and nothing here writes to them
    warnings.filterwarnings("ignore", "The given NumPy array is not writable")

    @torch.inference_mode()
    def run(windows: np.ndarray) -> np.ndarray:
        batches = torch.from_numpy(windows).split(CPU_BATCH * choice.threads)
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            return torch.cat([net(x).float() for x in batches]).numpy()

    return run


def _on_cuda(bundle: Bundle, choice: Choice) -> Network:
    kind = torch.bfloat16 if choice.precision == "bfloat16" else torch.float32
    net = bundle.network().to("cuda", kind)

    @torch.inference_mode()
    def run(windows: np.ndarray) -> np.ndarray:
        # pinned, so that the copy of one batch runs beside the arithmetic of the one before
        host = torch.from_numpy(windows).pin_memory()
        out = [net(x.to("cuda", kind, non_blocking=True)).float() for x in host.split(CUDA_BATCH)]
        return torch.cat(out).cpu().numpy()

    return run


class _OpenVINO:
    """One stream a core, each on small batches: faster than one batch on all cores, whose barriers cost a tenth.

    Full batches run on a graph of fixed shape; what is left over, and what is too little to keep every core
    busy, runs on a second graph of any batch size with all threads, made when it is first needed.
    """

    def __init__(self, bundle: Bundle, choice: Choice) -> None:
        self._graph = _graph(bundle)
        self._shape = (len(bundle.recipe.leads), bundle.recipe.samples)
        self._columns = bundle.card.columns
        self._hint = {"INFERENCE_PRECISION_HINT": "bf16" if choice.precision == "bfloat16" else "f32"}
        self._threads = choice.threads
        self._full: Any = None
        self._rest: Any = None

    def __call__(self, windows: np.ndarray) -> np.ndarray:
        out = np.empty((len(windows), self._columns), np.float32)
        full = len(windows) - len(windows) % CPU_BATCH if len(windows) >= CPU_BATCH * self._threads else 0
        if full:
            self._run_full(windows[:full], out)
        if full < len(windows):
            self._rest = self._rest or self._compile(-1, 1).create_infer_request()
            out[full:] = self._rest.infer({0: windows[full:]}, share_inputs=True)[0]
        return out

    def _run_full(self, windows: np.ndarray, out: np.ndarray) -> None:
        import openvino

        if self._full is None:
            self._full = openvino.AsyncInferQueue(self._compile(CPU_BATCH, self._threads), self._threads)
            self._full.set_callback(_keep)
        for start in range(0, len(windows), CPU_BATCH):
            batch = slice(start, start + CPU_BATCH)
            self._full.start_async({0: windows[batch]}, (out, batch), share_inputs=True)
        self._full.wait_all()

    def _compile(self, batch: int, streams: int) -> Any:
        graph = self._graph.clone()
        graph.reshape([batch, *self._shape])
        hints = {"NUM_STREAMS": streams, "INFERENCE_NUM_THREADS": self._threads, **self._hint}
        return _openvino_core().compile_model(graph, "CPU", hints)


def _keep(request: Any, where: tuple[np.ndarray, slice]) -> None:
    out, batch = where
    out[batch] = request.get_output_tensor(0).data


TRACE = 3
"""Raised when the same network is traced into another graph."""


def _graph(bundle: Bundle) -> Any:
    """The network as an OpenVINO graph: from the cache, where tracing it took three seconds the first time."""
    import openvino

    folder = Path(os.environ.get("ANYECG_CACHE", Path.home() / ".cache" / "anyecg_ray"))
    shape = (len(bundle.recipe.leads), bundle.recipe.samples)
    made_from = [TRACE, bundle.card.weights_sha256, bundle.card.encoder, shape, openvino.__version__, __version__]
    path = folder / f"openvino-{fingerprint(made_from)}.xml"
    if path.is_file() and path.with_suffix(".bin").is_file():
        return _openvino_core().read_model(path)
    graph = _traced(bundle.network(), shape)
    _store(graph, path)
    return graph


class _ByThrees(nn.Module):
    """The first convolution as a sum over three leads each: OpenVINO's in bfloat16 is wrong for 4 to 15 channels."""

    def __init__(self, whole: SamePadConv) -> None:
        super().__init__()
        conv = self.conv = whole.conv
        self.weights = nn.ParameterList(w.clone() for w in conv.weight.detach().split(3, dim=1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(batch, leads, samples) -> (batch, filters, ceil(samples / stride))."""
        stride = self.conv.stride[0]
        x = nn.functional.pad(x, same_padding(x.shape[-1], self.conv.kernel_size[0], stride))
        parts = zip(x.split(3, dim=1), self.weights, strict=True)
        out = sum(nn.functional.conv1d(part, weight, stride=stride) for part, weight in parts)
        return cast(torch.Tensor, out + self.conv.bias[:, None])  # type: ignore[index]


def _traced(net: Net1D, shape: tuple[int, int]) -> Any:
    import openvino

    if 3 < shape[0] < 16:
        net.first_conv = _ByThrees(net.first_conv)  # type: ignore[assignment]
    with warnings.catch_warnings():
        # the length is fixed here, so the padding that depends on it may well be a constant of the trace
        warnings.simplefilter("ignore", torch.jit._trace.TracerWarning)
        return openvino.convert_model(net, example_input=torch.zeros(2, *shape), input=[-1, *shape])


def _store(graph: Any, path: Path) -> None:
    """Keep the graph for the next process; two that do so at once both leave a whole one."""
    import openvino

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            made = Path(folder) / path.name
            openvino.save_model(graph, made, compress_to_fp16=False)
            os.replace(made.with_suffix(".bin"), path.with_suffix(".bin"))
            os.replace(made, path)
    except OSError as error:
        log.warning("cannot cache the compiled model in %s (%s); every start traces it again", path.parent, error)
