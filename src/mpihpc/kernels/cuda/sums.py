"""Sums without rounding on a GPU: `mpihpc.exact` calls these as it calls `mpihpc._core`."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mpihpc import _core
from mpihpc.kernels.cuda.source import BOX_THREADS, sums_source

_EACH = 16  # numbers that a thread takes at a time, as sums.cuh has it


def sum_add(x: Any, state: NDArray[np.int64]) -> None:
    """Add all numbers of a CuPy array, float32 or float64, up to 2**31 of them, to a state in host memory."""
    _add(x, None, state)


def sum_add_products(x: Any, y: Any, state: NDArray[np.int64]) -> None:
    """Add the products of two CuPy arrays of one shape and dtype, each rounded to float64."""
    _add(x, y, state)


def sum_columns(x: Any, lead: int, out: NDArray[np.float64], odd: bool = False, y: Any = None) -> int:
    """`mpihpc._core.sum_columns`, in host memory."""
    return _core.sum_columns(x.get(), lead, out, odd, None if y is None else y.get())


def _add(x: Any, y: Any, state: NDArray[np.int64]) -> None:
    import cupy

    if not x.size:
        return
    with x.device as device:
        rows = [cupy.ascontiguousarray(a).ravel() for a in (x, y) if a is not None]
        words = cupy.zeros(_core.SUM_WORDS, np.uint64)
        blocks = min(-(-x.size // (BOX_THREADS * _EACH)), 8 * device.attributes["MultiProcessorCount"])
        pointers = [row.data.ptr for row in rows] + [0] * (2 - len(rows))
        _kernel(device.id, x.dtype.str[1:])((blocks,), (BOX_THREADS,), (*pointers, x.size, words.data.ptr))
        state += words.get().view(np.int64)


@cache
def _kernel(device: int, dtype: str) -> Any:
    import cupy

    return cupy.RawModule(code=sums_source(dtype), options=("--std=c++17", "--fmad=false")).get_function("sum")
