"""How the figures of a benchmark are told: on which machine, and one a line."""

import platform
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

from anyecg_ray import __version__
from anyecg_ray.machine import cores


def machine() -> dict[str, Any]:
    """Processor, cores, and the versions of what computes."""
    names = ("ray", "torch", "openvino", "numpy", "scipy", "wfdb", "pyarrow")
    cpu = next((x for x in Path("/proc/cpuinfo").read_text().splitlines() if x.startswith("model name")), "")
    return {
        "processor": cpu.partition(":")[2].strip() or platform.processor(),
        "cores": cores(),
        "versions": {"anyecg_ray": __version__, "python": platform.python_version(), **{n: version(n) for n in names}},
    }


def show(figures: dict[str, Any]) -> None:
    """Print the machine and every figure."""
    where = figures["machine"]
    print(f"\n{where['processor']}, {where['cores']} cores")
    for name, value in _flat(figures):
        if not name.startswith(("machine", "settings")):
            told = f"{value:,.3g}" if isinstance(value, float) and value < 100 else value
            told = f"{value:,.0f}" if isinstance(value, float) and value >= 100 else told
            print(f"  {name:40} {told}")


def _flat(figures: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in figures.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value
