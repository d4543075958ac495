"""How the figures of a benchmark are told: on which machine, and one a line."""

import platform
from collections.abc import Iterator
from typing import Any

import psutil
import torch

from anyecg_ray import __version__
from anyecg_ray.machine import cores, processor, version


def machine() -> dict[str, Any]:
    """Processor, cores, memory, GPUs, and the versions of what computes; of what is not installed none."""
    names = ("ray", "torch", "openvino", "numpy", "scipy", "wfdb", "pyarrow")
    versions = {"anyecg_ray": __version__, "python": platform.python_version(), **{n: version(n) for n in names}}
    return {
        "processor": processor()[0],
        "cores": cores(),
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        "versions": versions,
    }


def show(figures: dict[str, Any]) -> None:
    """Print the machine and every figure; the samples over time are for the JSON."""
    where = figures["machine"]
    print(f"\n{where['processor']}, {where['cores']} cores, {where['memory_gb']:.0f} GB", *where["gpus"], sep=", ")
    for name, value in _flat(figures):
        if not name.startswith(("machine", "settings", "over_time")):
            told = f"{value:,.3g}" if isinstance(value, float) and value < 100 else value
            told = f"{value:,.0f}" if isinstance(value, float) and value >= 100 else told
            print(f"  {name:40} {told}")


def _flat(figures: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in figures.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value
