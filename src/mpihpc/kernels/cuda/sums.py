"""Sums without rounding on a GPU: `mpihpc.exact` calls these as it calls `mpihpc._core`.

Numbers stay on the GPU: some of each column come to the host, and a few words for each where that is not enough.
`sums.cuh` explains the method. Like `plan`, all but `_Gpu` runs on any `Machine`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from mpihpc import _core
from mpihpc.kernels.cuda.source import BOX_THREADS, SUM_TERMS, sums_source

COLUMNS = np.dtype(
    [("down", "i8", (3, 4)), ("across", "i8", (3, 4))]
    + [(name, "i8") for name in ("rows", "ways", "beside", "first", "columns", "range")]
)
"""`Columns` of sums.cuh."""

_THREADS = 1 << 17  # that keep a GPU busy
_LEAST = 16  # rows of a thread, where there are several of a column
_MOST = 1 << 20  # rows of a thread: so many numbers of 2**1000 do not overflow
_SECTOR = 32  # bytes that memory hands over at once, if not more
_RANGE = 1 << 16  # columns that get words at a time


class Machine(Protocol):
    """What runs the kernel: a GPU through CuPy, or a program that stands in for one."""

    def empty(self, shape: tuple[int, ...], dtype: np.dtype) -> Any:
        """A new array."""

    def zeros(self, shape: tuple[int, ...], dtype: np.dtype) -> Any:
        """A new array of zeros."""

    def contiguous(self, array: Any) -> Any:
        """The array, or a copy of it in C order."""

    def to_host(self, array: Any) -> NDArray[Any]:
        """The array in host memory."""

    def add_up(self, arrays: Sequence[Any], geometry: NDArray[Any], blocks: int) -> None:
        """Start the kernel with x, y, parts, lost and words; None for one that is not there."""


def sum_add(x: Any, state: NDArray[np.int64]) -> None:
    """Add all numbers of a CuPy array, float32 or float64, up to 2**31 of them, to a state in host memory."""
    with x.device as device:
        add(_machine(device.id), x, None, state)


def sum_add_products(x: Any, y: Any, state: NDArray[np.int64]) -> None:
    """Add the products of two CuPy arrays of one shape and dtype, each rounded to float64."""
    with x.device as device:
        add(_machine(device.id), x, y, state)


def sum_columns(x: Any, lead: int, out: NDArray[np.float64], odd: bool = False, y: Any = None) -> int:
    """`mpihpc._core.sum_columns` of CuPy arrays with up to 2**31 rows; `out` is in host memory."""
    with x.device as device:
        return add_columns(_machine(device.id), x, lead, out, odd, y)


def add(machine: Machine, x: Any, y: Any, state: NDArray[np.int64]) -> None:
    """`sum_add` or `sum_add_products` on a machine."""
    if not x.size:
        return
    x, y = _few_axes(machine, x, y, x.ndim)
    parts, lost = _parts(machine, x, y, x.ndim)
    if lost.size:
        (words,) = _words(machine, x, y, x.ndim, 0)
        _core.sum_add(np.empty(0), words)  # carries
        state += words
    else:
        _core.sum_add(parts, state)


def add_columns(machine: Machine, x: Any, lead: int, out: NDArray[np.float64], odd: bool = False, y: Any = None) -> int:
    """`sum_columns` on a machine."""
    if not x.size:
        out[...] = 0
        return 1
    x, y = _few_axes(machine, x, y, lead)
    parts, lost = _parts(machine, x, y, lead)
    for first in (lost * _RANGE).tolist():
        parts[:, first : first + _RANGE] = 0
    most = _core.sum_columns(parts, 1, out, odd)
    for first in (lost * _RANGE).tolist():
        words = _words(machine, x, y, lead, first)
        some = np.empty((len(out), len(words)))
        most = max(most, _core.sum_states(words, some, odd))
        out[:, first : first + len(words)] = some
    return most


def _parts(machine: Machine, x: Any, y: Any, lead: int) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Rows of numbers that add up to the columns of the array; and the ranges of columns of which that is not so."""
    lost: Any = None
    while True:
        geometry = _geometry(x, y, lead)
        ways, columns = int(geometry["ways"][0]), int(geometry["columns"][0])
        if lost is None:
            lost = machine.zeros((-(-columns // _RANGE),), np.dtype(np.int32))
        parts = machine.empty((SUM_TERMS * ways, columns), np.dtype(np.float64))
        machine.add_up((x, y, parts, lost, None), geometry, -(-ways * columns // BOX_THREADS))
        if ways == 1:
            return machine.to_host(parts), np.flatnonzero(machine.to_host(lost))
        x, y, lead = parts, None, 1


def _words(machine: Machine, x: Any, y: Any, lead: int, first: int) -> NDArray[np.int64]:
    """The states of the columns of a range."""
    geometry = _geometry(x, y, lead)
    columns = min(_RANGE, int(geometry["columns"][0]) - first)
    geometry["first"], geometry["columns"] = first, columns
    words = machine.zeros((columns, _core.SUM_WORDS), np.dtype(np.int64))
    machine.add_up((x, y, None, None, words), geometry, -(-int(geometry["ways"][0]) * columns // BOX_THREADS))
    return machine.to_host(words)


def _geometry(x: Any, y: Any, lead: int) -> NDArray[Any]:
    """The numbers of a launch for all columns, as an array of one `COLUMNS`."""
    geometry = np.zeros(1, COLUMNS)
    axes = {"down": _merged(x, y, range(lead)), "across": _merged(x, y, range(lead, x.ndim))}
    for name, merged in axes.items():
        geometry[name][0, 0] = 1
        geometry[name][0, :, : len(merged)] = np.transpose(merged)
    rows, columns = (math.prod(length for length, _, _ in merged) for merged in axes.values())
    beside = abs(axes["down"][-1][1]) < abs(axes["across"][-1][1])
    # Neighbours along a column that has neighbours too are as few as read from memory together.
    ways = max(_THREADS // columns, _SECTOR // x.itemsize if beside else 1)
    ways = max(1, min(ways, rows // _LEAST), -(-rows // _MOST))
    numbers = {"rows": rows, "columns": columns, "ways": ways, "beside": beside, "range": _RANGE}
    for name, number in numbers.items():
        geometry[name] = number
    return geometry


def _few_axes(machine: Machine, x: Any, y: Any, lead: int) -> tuple[Any, Any]:
    """The arrays, or copies of them, with as many axes at most as the kernel knows."""
    if max(len(_merged(x, y, axes)) for axes in (range(lead), range(lead, x.ndim))) <= 4:
        return x, y
    return machine.contiguous(x), None if y is None else machine.contiguous(y)


def _merged(x: Any, y: Any, axes: Sequence[int]) -> list[tuple[int, int, int]]:
    """Length, stride of x and stride of y, in cells, of these axes: as few of them as the strides allow."""
    merged: list[tuple[int, int, int]] = []
    for d in axes:
        length, *strides = x.shape[d], *((x if a is None else a).strides[d] // x.itemsize for a in (x, y))
        if length == 1:
            continue
        if merged and list(merged[-1][1:]) == [length * stride for stride in strides]:
            length *= merged.pop()[0]
        merged.append((length, *strides))
    return merged or [(1, 1, 1)]


@cache
def _machine(device: int) -> _Gpu:
    return _Gpu()


class _Gpu:
    """CuPy's current device as a `Machine`."""

    def __init__(self) -> None:
        self._kernels: dict[np.dtype, Any] = {}

    def empty(self, shape: tuple[int, ...], dtype: np.dtype) -> Any:
        return _cupy().empty(shape, dtype)

    def zeros(self, shape: tuple[int, ...], dtype: np.dtype) -> Any:
        return _cupy().zeros(shape, dtype)

    def contiguous(self, array: Any) -> Any:
        return _cupy().ascontiguousarray(array)

    def to_host(self, array: Any) -> NDArray[Any]:
        return array.get()

    def add_up(self, arrays: Sequence[Any], geometry: NDArray[Any], blocks: int) -> None:
        dtype = arrays[0].dtype
        if dtype not in self._kernels:
            module = _cupy().RawModule(code=sums_source(dtype.str[1:]), options=("--std=c++17", "--fmad=false"))
            self._kernels[dtype] = module.get_function("sum")
        pointers = [np.uint64(0 if array is None else array.data.ptr) for array in arrays]
        self._kernels[dtype]((blocks,), (BOX_THREADS,), (*pointers, geometry))


def _cupy() -> Any:
    import cupy

    return cupy
