"""Run a network on windows as fast as one library can: PyTorch on a CPU, PyTorch on a GPU, OpenVINO on a CPU.

Each is a callable from windows, (n, …) float32 in memory, to the network's outputs, (n, …) float32. Several threads may
call it: OpenVINO computes for all of them at once, PyTorch for one after the other.
"""

import threading
import warnings
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from anyecg_ray.machine import cores
from anyecg_ray.net1d_sizes import Shape
from anyecg_ray.openvino_graph import Made, graph, openvino_core
from anyecg_ray.streams import Computed, Streams

if TYPE_CHECKING:  # two seconds, for which a process that runs OpenVINO has no use
    import torch
    from torch import nn

Network = Callable[[np.ndarray], np.ndarray]

CPU_BATCH = 8
"""Windows that one core works on at a time: at 8 the activations of the early stages still fit its cache."""

CUDA_BATCH = 128
"""Half of a piece of the pipeline: the second half is copied while the GPU works on the first."""


def on_torch(net: "nn.Module", half: bool, threads: int) -> Network:
    """PyTorch, eager, on `threads` cores. half: bfloat16."""
    import torch

    torch.set_num_threads(threads)
    # windows from the object store are read-only, and nothing here writes to them
    warnings.filterwarnings("ignore", "The given NumPy array is not writable")

    @one_at_a_time
    @torch.inference_mode()
    def run(windows: np.ndarray) -> np.ndarray:
        batches = torch.from_numpy(windows).split(CPU_BATCH * threads)
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            return torch.cat([net(x).float() for x in batches]).numpy()

    return run


def on_cuda(net: "nn.Module", half: bool, compiled: bool, device: str = "cuda") -> Network:
    """PyTorch on a GPU: a batch is copied from pinned memory beside the arithmetic of the one before.

    half: bfloat16. compiled: through torch.compile. device: tests run these lines on the CPU.
    """
    import torch

    kind = torch.bfloat16 if half else torch.float32
    net = net.to(device, kind)
    if compiled:
        net = torch.compile(net)  # type: ignore[assignment]
    copied = _copies() if device == "cuda" else lambda batches: batches

    @one_at_a_time
    @torch.inference_mode()
    def run(windows: np.ndarray) -> np.ndarray:
        batches = copied(torch.from_numpy(windows).split(CUDA_BATCH))
        # converted there: PyTorch converts before it copies, into memory that is not pinned
        return torch.cat([net(x.to(kind)).float() for x in batches]).cpu().numpy()

    return run


def one_at_a_time(run: Network) -> Network:
    """The same network, for one caller after the other."""
    lock = threading.Lock()

    def alone(windows: np.ndarray) -> np.ndarray:
        with lock:
            return run(windows)

    return alone


def _copies() -> "Callable[[Iterable[torch.Tensor]], Iterable[torch.Tensor]]":
    """Batches on their way to the GPU, on a stream of their own, so that none waits for the arithmetic before it."""
    import torch

    side = torch.cuda.Stream()

    def copied(batches: "Iterable[torch.Tensor]") -> "Iterable[torch.Tensor]":
        computing = torch.cuda.current_stream()
        for batch in batches:
            with torch.cuda.stream(side):
                there = batch.pin_memory().to("cuda", non_blocking=True)
            computing.wait_stream(side)
            there.record_stream(computing)  # its memory is free only once it was computed with
            yield there

    return copied


class OnOpenVINO:
    """One stream a core, each on small batches: faster than one batch on all cores, whose barriers cost a tenth.

    Full batches run on a graph of fixed shape. What is left over, and what is too little to keep every core busy, runs
    on a second graph of any batch size with all threads; or, `together`, it fills batches with other callers' windows.
    Both graphs are made when they are first needed.
    """

    def __init__(
        self, made: Made, shape: Shape, half: bool, threads: int, name: str, integers: bool = False,
        together: bool = False,
    ) -> None:  # fmt: skip
        """half: bfloat16. name: what the graph is kept under; the same name is the same graph.

        made: makes the network, where its graph is not kept yet.

        integers: the convolutions in int8, and the rest in bfloat16 or float32.

        together: several callers at a time are the rule. A window's output then depends on nothing but the window.
        """
        self._graph = graph(made, shape, name, integers)
        self._shape = shape
        self._out = tuple(d.get_length() for d in list(self._graph.output(0).get_partial_shape())[1:])
        self._hint = {"INFERENCE_PRECISION_HINT": "bf16" if half else "f32"}
        self._threads = threads
        self._together = together
        self._lock, self._lock_of_rest = threading.Lock(), threading.Lock()
        self._full: Streams | None = None
        self._rest: Computed | None = None

    def __call__(self, windows: np.ndarray) -> np.ndarray:
        """(n, …) float32, as the graph gives it."""
        out = np.empty((len(windows), *self._out), np.float32)
        # whole rounds only: a round in which one core has no batch leaves it idle
        full = len(windows) - (0 if self._together else len(windows) % (CPU_BATCH * self._threads))
        if full:
            self._streams()(windows[:full], out[:full])
        if full < len(windows):
            out[full:] = self._at_once(windows[full:])
        return out

    def _streams(self) -> Streams:
        with self._lock:
            if self._full is None:
                compiled = self._compile(CPU_BATCH, self._threads)
                self._full = Streams([_computing(compiled) for _ in range(self._threads)], CPU_BATCH)
            return self._full

    def _at_once(self, windows: np.ndarray) -> np.ndarray:
        """With all threads on the same windows."""
        with self._lock_of_rest:
            self._rest = self._rest or _computing(self._compile(-1, 1))
            return self._rest(windows)

    def _compile(self, batch: int, streams: int) -> Any:
        fixed = self._graph.clone()
        fixed.reshape([batch, *self._shape])
        hints = {
            "NUM_STREAMS": streams, "INFERENCE_NUM_THREADS": self._threads,
            # each process pins its threads to the first cores: copies beside each other would all have the same ones
            "ENABLE_CPU_PINNING": self._threads >= cores(), **self._hint,
        }  # fmt: skip
        return openvino_core().compile_model(fixed, "CPU", hints)


_AT_A_TIME = threading.Lock()
"""OpenVINO's Python (2026.4) stands still for ever where two threads hand over their first windows at once."""


def _computing(compiled: Any) -> Computed:
    """One stream of a compiled model."""
    request = compiled.create_infer_request()

    def run(windows: np.ndarray) -> np.ndarray:
        with _AT_A_TIME:  # copied: a request holds on to its input, which is a whole piece of Ray's object store
            request.start_async({0: windows}, share_inputs=False)
        request.wait()
        with _AT_A_TIME:
            return np.array(request.get_output_tensor(0).data)

    return run
