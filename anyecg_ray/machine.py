"""What this machine offers."""

import os
import platform
from importlib import metadata
from pathlib import Path


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def processor() -> list[str]:
    """What tells one kind of processor from another, its name first."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return [platform.processor()]
    told = {
        key: next((x for x in lines if x.startswith(key)), "") for key in ("model name", "model\t", "stepping", "flags")
    }
    return [told.pop("model name").partition(":")[2].strip() or platform.processor(), *told.values()]


def instructions() -> frozenset[str]:
    """Extensions of the processor's instruction set, as Linux names them; none are told on other systems."""
    flags = next((x for x in processor() if x.startswith("flags")), "")
    return frozenset(flags.partition(":")[2].split())


GPUS = ("dev/nvidia*", "proc/driver/nvidia/version", "dev/nvhost*", "dev/kfd", "dev/dxg")
"""What Linux shows where there is a GPU: NVIDIA's devices, or its driver before anybody used one; AMD's; WSL's."""


def may_have_gpu(root: str = "/") -> bool:
    """Whether the system shows a device that PyTorch may use. Only Linux can be asked; elsewhere there may be one."""
    return platform.system() != "Linux" or any(next(Path(root).glob(name), None) for name in GPUS)


def version(package: str) -> str:
    """Of an installed package; empty where it is not installed."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""
