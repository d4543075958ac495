"""A network as an OpenVINO graph: traced once (openvino_trace.py), and kept for the processes that come later."""

import logging
import os
import tempfile
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anyecg_ray import cache
from anyecg_ray.net1d_sizes import Shape
from anyecg_ray.pulses import Drawn

if TYPE_CHECKING:
    from torch import nn

log = logging.getLogger(__name__)

Made = Callable[[], "nn.Module"]
"""Makes a network, where one is needed at all."""

TRACE = 6
"""Raised when the same network is traced into another graph, by a change in openvino_trace.py, int8.py or pulses.py."""

LEARNT = Drawn(n=64, seed=1)
"""Windows from which int8 learns its ranges."""


@lru_cache
def openvino_core() -> Any:
    """OpenVINO's run time; None where it is not installed."""
    try:
        import openvino
    except ImportError:
        return None
    return openvino.Core()


def graph(made: Made, shape: Shape, name: str, integers: bool = False) -> Any:
    """The network as an OpenVINO graph: from the cache, where tracing it took three seconds the first time.

    integers: its convolutions in int8.
    """
    import openvino

    path = cache.place("openvino", [TRACE, name, shape, openvino.__version__, LEARNT if integers else None], ".xml")
    if path.is_file() and path.with_suffix(".bin").is_file():
        return openvino_core().read_model(path)
    from anyecg_ray.openvino_trace import traced

    found = traced(made(), shape, LEARNT if integers else None)
    _store(found, path)
    return found


def _store(made: Any, path: Path) -> None:
    """Keep the graph for the next process; two that do so at once both leave a whole one."""
    import openvino

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            file = Path(folder) / path.name
            openvino.save_model(made, file, compress_to_fp16=False)
            os.replace(file.with_suffix(".bin"), path.with_suffix(".bin"))
            os.replace(file, path)
    except OSError as error:
        log.warning("cannot cache the compiled model in %s (%s); every start traces it again", path.parent, error)
