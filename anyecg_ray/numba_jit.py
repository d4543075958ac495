"""Loops that numpy cannot express, compiled by numba to machine code on first use."""

from collections.abc import Callable
from typing import Any

import numba


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile for the argument types of each call, without the GIL; later processes load what the first compiled.

    No fastmath: sums keep their order, so results are the same on every machine, and the same as scipy's.
    """
    try:
        return numba.njit(cache=True, nogil=True)(function)  # type: ignore[no-any-return]
    except RuntimeError:  # neither the package's folder nor the user's cache can be written
        return numba.njit(nogil=True)(function)  # type: ignore[no-any-return]
